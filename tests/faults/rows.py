"""The rows of the table: what is done, and which test does it. One place, for tests and documentation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Line:
    """One row.

    Args:
        text: What is done.
        test: The test that does it: its file below `tests/`, and its name.
        measured: Whether the test measures figures; a unit test, or one of the contract of all kinds of jobs, does not.
    """

    text: str
    test: str
    measured: bool = True


WHILE = {"completing": "completing after a payload that has failed"}
SECTIONS: Mapping[str, Mapping[str, Line]] = {
    "kill -9": {
        "child-random": Line(
            "the multiprocess executor's child, at random moments of the step; asset with a RetryPolicy",
            "faults/test_killed_child.py::test_at_random_moments",
        ),
        "child-steps": Line(
            "the same, right before and after each remote step",
            "faults/test_killed_child.py::test_at_each_remote_step",
        ),
        "worker-in-process-random": Line(
            "the run worker (in-process executor), at random moments; code server alive, daemon retries",
            "faults/test_killed_worker.py::test_at_random_moments",
        ),
        "worker-multiprocess-random": Line(
            "the run worker (multiprocess executor), at random moments; its child lives on; daemon retries",
            "faults/test_killed_worker.py::test_at_random_moments",
        ),
        "worker-steps": Line(
            "the run worker (in-process executor), right before and after each remote step; daemon retries",
            "faults/test_killed_worker.py::test_at_each_remote_step",
        ),
        "everything-reconcile": Line(
            "everything, at random moments; then `dagster-slurm reconcile`",
            "faults/test_everything_killed.py::test_at_random_moments",
        ),
        "everything-reexecution": Line(
            "everything, at random moments; then marked canceled by hand, and re-executed from failure in the UI",
            "faults/test_everything_killed.py::test_at_random_moments",
        ),
        "everything-steps": Line(
            "everything, right before and after each remote step; then `dagster-slurm reconcile`",
            "faults/test_everything_killed.py::test_at_each_remote_step",
        ),
        "killed-with-postgres": Line(
            "each of these eight with Dagster's records in PostgreSQL, once or twice",
            "faults/test_killed_with_postgres.py::test_each_way_to_be_killed",
        ),
    },
    "Submission": {
        "sbatch-killed": Line(
            "sbatch killed with its request in flight, which arrives later: a late duplicate, ended at the gate",
            "faults/test_submission.py::test_cut_off",
        ),
        "login-crashed-in-flight": Line(
            "the login node crashes with the request in flight, which arrives later: a late duplicate",
            "faults/test_submission.py::test_cut_off",
        ),
        "shell-killed": Line(
            "the remote shell killed between sbatch and the record of the job's id",
            "faults/test_submission.py::test_cut_off",
        ),
        "login-crashed": Line(
            "the login node crashes between sbatch and the record of the job's id",
            "faults/test_submission.py::test_cut_off",
        ),
        "max-job-count": Line(
            "the controller holds as many jobs as it may (`MaxJobCount`): said at once, waited for, submitted once",
            "faults/test_max_job_count.py::test_it_is_said_at_once_waited_for_and_submitted_once",
        ),
        "max-job-count-terminated": Line(
            "the same, and the run is terminated while it waits",
            "faults/test_max_job_count.py::test_a_termination_meanwhile_ends_the_step",
        ),
        "throttled": Line(
            "a plugin lets a user submit one job an hour (`JobSubmitPlugins=throttle`): said at once, waited for, "
            "submitted once",
            "faults/test_throttled.py::test_it_is_said_at_once_waited_for_and_submitted_once",
        ),
    },
    "The cluster is away": {
        "sshd-killed": Line(
            "the login node away while a job runs", "faults/test_login_node_away.py::test_away_while_the_job_runs"
        ),
        "sshd-hanging": Line(
            "the login node hanging while a job runs", "faults/test_login_node_away.py::test_away_while_the_job_runs"
        ),
        "upload-interrupted": Line(
            "the login node away while 200 MB are sent",
            "faults/test_login_node_away.py::test_killed_while_200_mb_are_sent",
        ),
        "controller-killed-at-start": Line(
            "slurmctld killed within a second of a job's start, which it repeats or loses: no payload beside itself",
            "faults/test_controller_killed.py::test_killed_right_after_the_start",
            measured=False,
        ),
        "controller-at-submission": Line(
            "the controller away at submission",
            "faults/test_login_node_away.py::test_controller_away_at_submission",
        ),
        "login-expires": Line(
            "the login expires while a job runs, and somebody logs in again",
            "faults/test_login_expires.py::test_the_run_waits_for_a_login",
        ),
        **{
            f"{part}-{moment}": Line(f"{what}, {when}", f"faults/test_cluster_away.py::test_{part.replace('-', '_')}")
            for part, what in (
                ("sshd-gone", "sshd away"),
                ("sshd-hangs", "sshd hanging"),
                ("sshd-flaps", "sshd flapping every 3 s"),
                ("slurmctld-restarted", "slurmctld restarted"),
                ("slurmctld-gone", "slurmctld away for 60 s"),
                ("munged-gone", "munged away for 60 s"),
            )
            for moment, when in (
                ("submission", "at submission, asset with a RetryPolicy"),
                ("running", "while the job runs"),
            )
        },
        "slurmdbd-gone": Line(
            "slurmdbd away from before the end of the job until after the run (60 s)",
            "faults/test_cluster_away.py::test_slurmdbd_gone",
        ),
        "slurmdbd-hour": Line(
            "the accounting away from before the end of the job and for hours after it, with an injected clock",
            "unit/job/test_watcher.py::TestSilence::test_without_accounting_the_end_line_is_believed",
            measured=False,
        ),
        "wordless": Line(
            "every session of the shared connection ends without a word, and `ssh -O check` calls it alive",
            "cluster/test_doubted_connection.py::test_it_is_replaced_and_what_is_open_goes_on",
            measured=False,
        ),
    },
    "Sites": {
        "sacct-absent": Line("there is no sacct", "faults/test_sites.py::test_more_peculiar_sites"),
        "squeue-times-out": Line(
            "two of three calls of squeue fail with `Socket timed out`", "faults/test_sites.py::test_peculiar_sites"
        ),
        "disk-full-submission": Line(
            "the disk full at submission: the run fails and says so; re-executed when there is space",
            "faults/test_sites.py::test_more_peculiar_sites",
        ),
        "disk-full-running": Line(
            "the disk full at the run directory while the job runs", "faults/test_sites.py::test_peculiar_sites"
        ),
        "clock-behind": Line("Dagster's clock 10 minutes behind", "faults/test_sites.py::test_peculiar_sites"),
        "clock-ahead": Line("Dagster's clock 10 minutes ahead", "faults/test_sites.py::test_more_peculiar_sites"),
        "sacct-refused": Line("sacct refuses for good", "faults/test_sites.py::test_peculiar_sites"),
        "removed-running": Line(
            "the run directory removed while the job runs: a warning, and the run fails",
            "faults/test_removed.py::test_while_the_job_runs",
        ),
        "removed-pending": Line(
            "the run directory removed while the job waits: a warning, the job does not begin, and the run fails",
            "faults/test_removed.py::test_while_the_job_waits",
        ),
        "renamed": Line("the site gives jobs other names", "faults/test_sites.py::test_more_peculiar_sites"),
        "login-clock-behind": Line(
            "the login node's clock an hour behind", "faults/test_sites.py::test_more_peculiar_sites"
        ),
        "login-clock-ahead": Line("the login node's clock an hour ahead", "faults/test_sites.py::test_peculiar_sites"),
        "banner": Line("a banner before all that Slurm's commands print", "faults/test_sites.py::test_peculiar_sites"),
        "plugin-refuses": Line(
            "a plugin refuses the job in several lines: the run fails and says them all; re-executed when it takes it",
            "faults/test_sites.py::test_peculiar_sites",
        ),
        "quiet-ssh": Line(
            "ssh is quiet (`LogLevel QUIET`) and the key is refused: the run fails and says so, without any wait",
            "faults/test_sites.py::test_more_peculiar_sites",
        ),
        "hostile-login-node": Line(
            "Slurm's commands answer with noise: the run fails, and says of which",
            "faults/test_sites.py::test_hostile_sites",
        ),
        "hostile-names": Line(
            "the login node names outputs that lead elsewhere: the run fails, and no file is written on this machine",
            "faults/test_sites.py::test_hostile_sites",
        ),
        "hostile-answers": Line(
            "a login node that answers anything to anything: values or typed errors, and no file outside",
            "unit/cluster/test_hostile_login_node.py::test_any_answer_to_any_verb",
            measured=False,
        ),
        "foreign-base": Line(
            "somebody else owns a directory below `remote_base`: refused by name before anything is put there",
            "faults/test_sites.py::test_hostile_sites",
        ),
    },
    "What payloads do to their output": {
        "streams-reopened": Line(
            "every line is written to `/dev/stdout`, opened anew", "faults/test_streams.py::test_streams"
        ),
        "output-through-a-child": Line(
            "through a child that is behind when the payload ends, as with `exec > >(tee log)`",
            "faults/test_streams.py::test_streams",
        ),
    },
    "Slurm starts a job again, or holds it": {
        "requeued": Line(
            "requeued by hand: executed twice by one job", "faults/test_requeues.py::test_requeued_by_hand"
        ),
        "preempted": Line("preempted and requeued", "faults/test_requeues.py::test_preempted"),
        "power-cut": Line("its node loses power; requeued", "faults/test_requeues.py::test_power_cut"),
        "held": Line("held and released", "faults/test_requeues.py::test_held_and_released"),
        "suspended": Line("suspended and resumed", "faults/test_requeues.py::test_suspended_and_resumed"),
        "node-failed": Line(
            "its node fails, requeueing is off: the run fails",
            "faults/test_requeues.py::test_node_failure_without_requeue",
        ),
        "node-failed-retried": Line(
            "the same, with a retry policy: a second job", "faults/test_requeues.py::test_node_failure_without_requeue"
        ),
        "chained": Line(
            "longer than the walltime: goes on from its checkpoint in further jobs",
            "faults/test_requeues.py::test_longer_than_the_walltime",
        ),
    },
    "A job over several nodes": {
        "ray-node-lost": Line(
            "a node loses power while Ray runs: the run succeeds with a warning",
            "launchers/test_trouble.py::test_a_node_without_power_while_ray_runs",
        ),
        "ray-node-memory": Line(
            "a node has too little memory for a task of Ray, which is repeated elsewhere: the same",
            "launchers/test_trouble.py::test_a_node_without_memory_while_ray_runs",
        ),
        "ray-job-memory": Line(
            "the same on one node, where Slurm calls the job OUT_OF_MEMORY",
            "launchers/test_trouble.py::test_a_job_without_memory_that_ray_has_outlived",
        ),
        "ray-worker-lost": Line(
            "the Ray of a node ends: a warning", "launchers/test_trouble.py::test_a_node_s_ray_ends"
        ),
        "ray-head-lost": Line(
            "the Ray of the first node ends: the run fails",
            "launchers/test_trouble.py::test_the_first_node_s_ray_ends",
        ),
        "ray-no-head": Line(
            "the Ray of the first node does not come up: the run fails, and executes nothing",
            "launchers/test_ray.py::TestOnThreeNodes::test_a_head_that_does_not_come_up",
        ),
        "ray-no-worker": Line(
            "a node does not join Ray: the run fails, and executes nothing",
            "launchers/test_ray.py::TestOnThreeNodes::test_a_node_that_does_not_join",
        ),
        "ray-raises": Line(
            "the payload raises while Ray runs",
            "launchers/test_ray.py::TestOnThreeNodes::test_a_payload_that_raises",
        ),
        "ray-cancelled": Line("the job is cancelled while Ray runs", "launchers/test_trouble.py::test_cancelled"),
        "ray-time-limit": Line(
            "the job is over its walltime while Ray runs",
            "launchers/test_trouble.py::test_over_its_walltime",
        ),
        "ray-requeued": Line(
            "requeued while Ray runs: a new cluster of the same job",
            "launchers/test_trouble.py::test_requeued",
        ),
        "ray-adopted": Line(
            "everything killed while Ray runs; then `dagster-slurm reconcile`: one cluster",
            "launchers/test_trouble.py::test_dagster_killed",
        ),
        "ray-two-jobs": Line(
            "two jobs with Ray on the same nodes at once, as tasks of an array",
            "launchers/test_trouble.py::test_two_ray_jobs_on_the_same_nodes_at_once",
        ),
        "ray-two-users": Line(
            "two users with Ray on the same nodes at once",
            "launchers/test_trouble.py::test_two_users_on_the_same_nodes_at_once",
        ),
        "spark-node-lost": Line(
            "a node loses power while Spark runs: the run succeeds with a warning",
            "launchers/test_trouble.py::test_a_node_without_power_while_spark_runs",
        ),
        "spark-worker-lost": Line(
            "the Spark worker of a node ends: the run succeeds with a warning",
            "launchers/test_spark.py::TestOnThreeNodes::test_a_worker_that_is_lost_is_a_warning",
        ),
        "spark-node-memory": Line(
            "a node has too little memory for a task of Spark, which is repeated: the same",
            "launchers/test_spark.py::TestOnThreeNodes::test_a_node_out_of_memory_is_a_warning",
        ),
        "spark-master-lost": Line(
            "the Spark master ends: the run fails",
            "launchers/test_spark.py::TestOnThreeNodes::test_a_master_that_is_lost_ends_the_payload",
        ),
        "spark-no-master": Line(
            "the Spark master does not come up: the run fails, and executes nothing",
            "launchers/test_spark.py::TestOnThreeNodes::test_a_master_that_does_not_come_up",
        ),
        "spark-no-worker": Line(
            "a node does not join Spark: the run fails, and executes nothing",
            "launchers/test_spark.py::TestOnThreeNodes::test_a_node_that_does_not_join",
        ),
        "spark-raises": Line(
            "the payload raises while Spark runs",
            "launchers/test_spark.py::TestOnThreeNodes::test_a_payload_that_raises",
        ),
        "spark-cancelled": Line(
            "the job is cancelled while Spark runs",
            "launchers/test_trouble.py::test_cancelled",
        ),
        "spark-requeued": Line(
            "requeued while Spark runs: a new cluster of the same job",
            "launchers/test_trouble.py::test_requeued",
        ),
        "spark-two-jobs": Line(
            "two jobs with Spark on the same nodes at once, as tasks of an array",
            "launchers/test_spark.py::TestOnThreeNodes::test_two_at_once_on_the_same_nodes",
        ),
        "mpi-node-lost": Line(
            "a node loses power while ranks of MPI run, with `--no-kill`: the run fails, and names the ranks",
            "launchers/test_trouble.py::test_ranks_on_a_node_without_power",
        ),
        "spark-two-users": Line(
            "two users with Spark on the same nodes at once",
            "launchers/test_trouble.py::test_two_users_on_the_same_nodes_at_once",
        ),
        "spark-time-limit": Line(
            "the job is over its walltime while Spark runs",
            "launchers/test_trouble.py::test_over_its_walltime",
        ),
        "spark-adopted": Line(
            "everything killed while Spark runs; then `dagster-slurm reconcile`: one cluster",
            "launchers/test_trouble.py::test_dagster_killed",
        ),
        "torchrun-sum": Line(
            "ranks of torchrun sum over three nodes (gloo); the end says with which torch",
            "launchers/test_torchrun.py::test_the_sum_over_three_nodes",
        ),
        "torchrun-requeued": Line(
            "requeued while ranks of torchrun run: goes on from its checkpoint",
            "launchers/test_torchrun.py::test_a_requeued_job_goes_on_from_its_checkpoint",
        ),
    },
    "A job is held back, and its run says why and what ends it": {
        f"waits-{reason}": Line(f"{what} (`{reason}`)", "faults/test_waiting.py::test_a_job_that_is_held_back")
        for reason, what in (
            ("Resources", "what it asks for is in use"),
            ("Priority", "jobs of higher priority are before it"),
            ("Dependency", "it depends on another job"),
            ("BeginTime", "its earliest start has not come"),
            ("QOSMaxJobsPerUserLimit", "as many jobs run as the QOS allows"),
            ("ReqNodeNotAvail", "the node it needs is drained"),
            ("PartitionDown", "its partition is down"),
            ("JobHeldUser", "it is held by its user"),
        )
    },
    "A session": {
        f"session-{key}": Line(text, f"contract/{test}", measured=False)
        for key, text, test in (
            (
                "killed",
                "one of two processes that share a session by name killed at 20 random moments, and executed again "
                "from failure: each step executed once, and the other one's step goes on",
                "test_sessions_broken.py::test_killed_at_random_moments",
            ),
            (
                "two-processes",
                "two runs, each in a process of its own, ask for one session at once: one allocation",
                "test_work_in_sessions.py::TestTheAllocation::test_processes_that_ask_at_once_share_one_with_a_name",
            ),
            (
                "away",
                "sshd, or slurmctld, away for 60 s while one step runs and others wait: each executed once",
                "test_sessions_broken.py::test_away_for_a_minute",
            ),
            (
                "cancelled",
                "an administrator cancels the allocation: the step that runs is interrupted, those that wait go on in "
                "another one",
                "test_work_in_sessions.py::TestTheAllocationIsGone::test_cancelled_by_an_administrator",
            ),
            (
                "dispatcher",
                "its dispatcher is killed: the same",
                "test_work_in_sessions.py::TestTheAllocationIsGone::test_its_dispatcher_is_killed",
            ),
            (
                "node-lost",
                "a node is lost, that of its dispatcher or another: what ran is tried again, what waited executed once",
                "test_sessions_broken.py::test_a_node_is_lost",
            ),
            (
                "walltime",
                "its walltime is reached with steps waiting: what runs is tried again, the others go on elsewhere",
                "test_sessions_broken.py::TestItsWalltime::test_with_steps_waiting",
            ),
            (
                "relay",
                "the same with `relay` and time limits of the steps: each executed once, and the next allocation is "
                "queued before the end",
                "test_sessions_broken.py::TestItsWalltime::test_with_a_relay",
            ),
            (
                "relay-two",
                "two processes share a session that needs a successor: one is queued",
                "test_sessions_broken.py::TestItsWalltime::test_two_processes_make_one_successor",
            ),
            (
                "relay-unneeded",
                "the run ends while a successor is queued: it is cancelled, and never begins",
                "test_sessions_broken.py::TestItsWalltime::test_a_successor_that_nobody_needs_is_given_back",
            ),
            (
                "relay-terminated",
                "the run is terminated while a successor is queued: no allocation is left",
                "test_sessions_broken.py::TestItsWalltime::test_a_run_is_terminated_that_has_a_successor_queued",
            ),
        )
    },
    "Many at once": {
        "partitions": Line(
            "20 partitions of a backfill in flight, all run workers killed, all retried by the daemon or in the UI",
            "faults/test_many.py::test_each_partition_reattaches_to_its_own",
        ),
        "two-launch-one-key": Line(
            "two processes launch the same piece of work at once",
            "faults/test_many.py::test_two_processes_launch_one_key",
        ),
        "few-descriptors": Line(
            "60 steps of `threaded_executor` where 104 descriptors are left",
            "executor/test_threaded.py::test_fewer_at_once_where_descriptors_are_few",
            measured=False,
        ),
        "same-input": Line(
            "four send the same 4 MiB at almost the same moment",
            "contract/test_uploads.py::TestAtOnce::test_again_and_again_at_almost_the_same_moment",
            measured=False,
        ),
    },
    "Restarts": {
        "sigterm-in-process": Line(
            "SIGTERM to the run worker at random moments, in-process executor; daemon retries",
            "faults/test_restarts.py::test_sigterm",
        ),
        "sigterm-multiprocess": Line(
            "SIGTERM to the run worker at random moments, multiprocess executor; daemon retries",
            "faults/test_restarts.py::test_sigterm",
        ),
    },
    "Termination in Dagster": {
        f"terminated-{phase}-{executor}": Line(
            f"terminated while {WHILE.get(phase, phase)}, {executor.replace('_', '-')} executor, "
            "asset with a RetryPolicy",
            "faults/test_termination.py::test_terminated",
        )
        for phase in ("uploading", "pending", "running", "completing")
        for executor in ("in_process", "multiprocess")
    }
    | {
        f"over-max-runtime-{executor}": Line(
            f"over its `dagster/max_runtime`, which Dagster's daemon looks at, {executor.replace('_', '-')} executor",
            "faults/test_max_runtime.py::test_over_its_maximum_runtime",
        )
        for executor in ("in_process", "multiprocess")
    }
    | {
        "over-max-runtime-of-each": Line(
            "over its maximum runtime, the daemon imitated, own job and array: no job is left",
            "contract/test_work_followed.py::test_a_run_over_its_maximum_runtime_leaves_no_job",
            measured=False,
        ),
    },
    "The laptop": {
        "ctrl-c": Line("Ctrl-C in `dagster dev`, started again", "faults/test_laptop.py::test_interrupted"),
        "terminal-closed": Line(
            "the terminal of `dagster dev` closed, started again", "faults/test_laptop.py::test_terminal_closed"
        ),
        "killed-running": Line(
            "everything killed, started again while the job still runs; `dagster-slurm reconcile`",
            "faults/test_laptop.py::test_killed",
        ),
        "killed-ended": Line(
            "everything killed, started again after the job ended; `dagster-slurm reconcile`",
            "faults/test_laptop.py::test_killed",
        ),
        "asleep": Line(
            "all processes stopped for 120 s and continued, connections dead meanwhile",
            "faults/test_laptop.py::test_asleep",
        ),
    },
}
LINES: Mapping[str, Line] = {key: line for rows in SECTIONS.values() for key, line in rows.items()}
