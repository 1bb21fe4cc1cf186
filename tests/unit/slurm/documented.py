"""The lists of Slurm's documentation, as tests walk them. Names and codes alone."""

from __future__ import annotations


def _words(text: str) -> list[str]:
    return text.split()


# The page "Job Reason Codes" (https://slurm.schedmd.com/job_reason_codes.html, read 2025), and the codes that
# releases from 20.11 on print without documenting them (enum job_state_reason).
REASONS = _words(
    """
AccountingPolicy AccountNotAllowed AssocGrpBB AssocGrpBBMinutes AssocGrpBBRunMinutes AssocGrpBilling
AssocGrpBillingMinutes AssocGrpBillingRunMinutes AssocGrpCpuLimit AssocGrpCPUMinutesLimit AssocGrpCPURunMinutesLimit
AssocGrpEnergy AssocGrpEnergyMinutes AssocGrpEnergyRunMinutes AssocGrpGRES AssocGrpGRESMinutes AssocGrpGRESRunMinutes
AssocGrpJobsLimit AssocGrpLicense AssocGrpLicenseMinutes AssocGrpLicenseRunMinutes AssocGrpMemLimit AssocGrpMemMinutes
AssocGrpMemRunMinutes AssocGrpNodeLimit AssocGrpNodeMinutes AssocGrpNodeRunMinutes AssocGrpSubmitJobsLimit
AssocGrpUnknown AssocGrpUnknownMinutes AssocGrpUnknownRunMinutes AssocGrpWallLimit AssociationJobLimit
AssociationResourceLimit AssociationTimeLimit AssocMaxBBMinutesPerJob AssocMaxBBPerJob AssocMaxBBPerNode
AssocMaxBillingMinutesPerJob AssocMaxBillingPerJob AssocMaxBillingPerNode AssocMaxCpuMinutesPerJobLimit
AssocMaxCpuPerJobLimit AssocMaxCpuPerNode AssocMaxEnergyMinutesPerJob AssocMaxEnergyPerJob AssocMaxEnergyPerNode
AssocMaxGRESMinutesPerJob AssocMaxGRESPerJob AssocMaxGRESPerNode AssocMaxJobsLimit AssocMaxLicenseMinutesPerJob
AssocMaxLicensePerJob AssocMaxMemMinutesPerJob AssocMaxMemPerJob AssocMaxMemPerNode AssocMaxNodeMinutesPerJob
AssocMaxNodePerJobLimit AssocMaxSubmitJobLimit AssocMaxUnknownMinutesPerJob AssocMaxUnknownPerJob
AssocMaxUnknownPerNode AssocMaxWallDurationPerJobLimit BadConstraints BeginTime BlockFreeAction BlockMaxError
BurstBufferOperation BurstBufferResources BurstBufferStageIn Cleaning Constraints DeadLine Dependency
DependencyNeverSatisfied FedJobLock FrontEndDown InactiveLimit InvalidAccount InvalidQOS JobArrayTaskLimit
JobHeldAdmin JobHeldUser JobHoldMaxRequeue JobLaunchFailure Licenses MaxBBPerAccount MaxBillingPerAccount
MaxCpuPerAccount MaxEnergyPerAccount MaxGRESPerAccount MaxJobsPerAccount MaxLicensePerAccount MaxMemoryPerAccount
MaxMemPerLimit MaxNodePerAccount MaxSubmitJobsPerAccount MaxUnknownPerAccount NodeDown None NonZeroExitCode
OutOfMemory PartitionConfig PartitionDown PartitionInactive PartitionNodeLimit PartitionTimeLimit PowerNotAvail
PowerReserved Priority Prolog QOSGrpBB QOSGrpBBMinutes QOSGrpBBRunMinutes QOSGrpBilling QOSGrpBillingMinutes
QOSGrpBillingRunMinutes QOSGrpCpuLimit QOSGrpCPUMinutesLimit QOSGrpCPURunMinutesLimit QOSGrpEnergy QOSGrpEnergyMinutes
QOSGrpEnergyRunMinutes QOSGrpGRES QOSGrpGRESMinutes QOSGrpGRESRunMinutes QOSGrpJobsLimit QOSGrpLicense
QOSGrpLicenseMinutes QOSGrpLicenseRunMinutes QOSGrpMemLimit QOSGrpMemoryMinutes QOSGrpMemoryRunMinutes QOSGrpNodeLimit
QOSGrpNodeMinutes QOSGrpNodeRunMinutes QOSGrpSubmitJobsLimit QOSGrpUnknown QOSGrpUnknownMinutes
QOSGrpUnknownRunMinutes QOSGrpWallLimit QOSJobLimit QOSMaxBBMinutesPerJob QOSMaxBBPerJob QOSMaxBBPerNode
QOSMaxBBPerUser QOSMaxBillingMinutesPerJob QOSMaxBillingPerJob QOSMaxBillingPerNode QOSMaxBillingPerUser
QOSMaxCpuMinutesPerJobLimit QOSMaxCpuPerJobLimit QOSMaxCpuPerNode QOSMaxCpuPerUserLimit QOSMaxEnergyMinutesPerJob
QOSMaxEnergyPerJob QOSMaxEnergyPerNode QOSMaxEnergyPerUser QOSMaxGRESMinutesPerJob QOSMaxGRESPerJob QOSMaxGRESPerNode
QOSMaxGRESPerUser QOSMaxJobsPerUserLimit QOSMaxLicenseMinutesPerJob QOSMaxLicensePerJob QOSMaxLicensePerUser
QOSMaxMemoryMinutesPerJob QOSMaxMemoryPerJob QOSMaxMemoryPerNode QOSMaxMemoryPerUser QOSMaxNodeMinutesPerJob
QOSMaxNodePerJobLimit QOSMaxNodePerUserLimit QOSMaxSubmitJobPerUserLimit QOSMaxUnknownMinutesPerJob
QOSMaxUnknownPerJob QOSMaxUnknownPerNode QOSMaxUnknownPerUser QOSMaxWallDurationPerJobLimit QOSMinBB QOSMinBilling
QOSMinCpuNotSatisfied QOSMinEnergy QOSMinGRES QOSMinLicense QOSMinMemory QOSMinNode QOSMinUnknown QOSNotAllowed
QOSResourceLimit QOSTimeLimit QOSUsageThreshold RaisedSignal ReqNodeNotAvail Reservation ReservationDeleted
ReservationInvalid Resources SchedDefer SystemFailure TimeLimit
"""
)
# What the libraries of 24.11 and 26.05 have besides (tests/recorded/*/reasons.txt), one of them misspelled.
REASONS += _words(
    """
InvaildReason InvalidReason MaxBBRunMinsPerAccount MaxBBRunMinsPerUser MaxBillingRunMinsPerAccount
MaxBillingRunMinsPerUser MaxCpuRunMinsPerAccount MaxCpuRunMinsPerUser MaxEnergyRunMinsPerAccount MaxEnergyRunMinsPerUser
MaxGRESRunMinsPerAccount MaxGRESRunMinsPerUser MaxLicenseRunMinsPerAccount MaxLicenseRunMinsPerUser
MaxMemoryRunMinsPerAccount MaxMemoryRunMinsPerUser MaxNodeRunMinsPerAccount MaxNodeRunMinsPerUser MaxPoweredUpNodes
MaxUnknownRunMinsPerAccount MaxUnknownRunMinsPerUser MpiPortsBusy NvidiaImexChannels
"""
)

# squeue(1), JOB REASON CODES, 22.05. A star stands for any word.
REASONS_OF_SQUEUE = _words(
    """
AssocGrp*Limit AssociationJobLimit AssociationResourceLimit AssociationTimeLimit AssocMax*Limit BadConstraints
BeginTime Cleaning Dependency DependencyNeverSatisfied FrontEndDown InactiveLimit InvalidAccount InvalidQOS
JobHeldAdmin JobHeldUser JobLaunchFailure Licenses NodeDown NonZeroExitCode PartitionDown PartitionInactive
PartitionNodeLimit PartitionTimeLimit Priority Prolog QOSGrp*Limit QOSJobLimit QOSMax*Limit QOSResourceLimit
QOSTimeLimit QOSUsageThreshold ReqNodeNotAvail Reservation Resources SystemFailure TimeLimit WaitingForScheduling
"""
)

# squeue(1), JOB STATE CODES, 22.05.
STATES_OF_SQUEUE = """
BF BOOT_FAIL, CA CANCELLED, CD COMPLETED, CF CONFIGURING, CG COMPLETING, DL DEADLINE, F FAILED, NF NODE_FAIL,
OOM OUT_OF_MEMORY, PD PENDING, PR PREEMPTED, R RUNNING, RD RESV_DEL_HOLD, RF REQUEUE_FED, RH REQUEUE_HOLD, RQ REQUEUED,
RS RESIZING, RV REVOKED, SI SIGNALING, SE SPECIAL_EXIT, SO STAGE_OUT, ST STOPPED, S SUSPENDED, TO TIMEOUT
"""

# The page "Job State Codes" (https://slurm.schedmd.com/job_state_codes.html), states and flags, of October 2024.
STATES = _words(
    """
BOOT_FAIL CANCELLED COMPLETED DEADLINE FAILED NODE_FAIL OUT_OF_MEMORY PENDING PREEMPTED RUNNING SUSPENDED TIMEOUT
COMPLETING CONFIGURING LAUNCH_FAILED POWER_UP_NODE RECONFIG_FAIL REQUEUED REQUEUE_FED REQUEUE_HOLD RESIZING
RESV_DEL_HOLD REVOKED SIGNALING SPECIAL_EXIT STAGE_OUT STOPPED UPDATE_DB
"""
)
