"""The configuration files of a sandbox, as text. Pure functions; see slurm.conf(5), sshd_config(5)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from dagster_slurm_sandbox.config import CONTROL, SandboxConfig, SandboxPaths
from dagster_slurm_sandbox.network import Plan

_PENALTIES_SINCE = (9, 8)
CLUSTER_NAME = "sandbox"
DATABASE_NAME = "slurm_acct_db"
SLURMCTLD_PORT = 6817
SLURMD_PORT = 6818
SLURMDBD_PORT = 6819
# No name server: look-ups of names that are not in /etc/hosts fail at once.
RESOLV_CONF = "nameserver 127.0.0.1\noptions timeout:1 attempts:1\n"


@dataclass(frozen=True)
class SshdSite:
    """How one login node lets people in.

    Args:
        name: The daemon's name.
        port: Its port on 127.0.0.1.
        strict: Password only, one channel a connection.
    """

    name: str
    port: int
    strict: bool


def _lines(settings: Mapping[str, object]) -> str:
    return "".join(f"{key}={value}\n" for key, value in settings.items())


def slurm_conf(config: SandboxConfig, paths: SandboxPaths, plan: Plan, *, cgroups: bool) -> str:
    """The text of slurm.conf.

    Args:
        config: What the cluster is to look like.
        paths: Where its files lie.
        plan: Its addresses.
        cgroups: Whether jobs are tracked and held to their memory by cgroups.
    """
    settings: dict[str, object] = {
        **_identity(config, paths, plan),
        **_accounting(paths, plan),
        **_behaviour(config, cgroups=cgroups),
        **config.slurm_options,
    }
    return _lines(settings) + _nodes(config, plan) + _partitions(config)


def _identity(config: SandboxConfig, paths: SandboxPaths, plan: Plan) -> dict[str, object]:
    return {
        "ClusterName": CLUSTER_NAME,
        "SlurmctldHost": f"{CONTROL}({plan.address(CONTROL)})",
        "SlurmctldPort": SLURMCTLD_PORT,
        "SlurmdPort": SLURMD_PORT,
        "SlurmUser": "root",
        "AuthType": "auth/munge",
        # A requeued job does not start before its last credential has expired, by default after two minutes.
        "AuthInfo": f"socket={paths.munge_socket},cred_expire={config.credential_seconds}",
        "StateSaveLocation": paths.state_dir / "slurmctld",
        "SlurmdSpoolDir": paths.state_dir / "spool" / "%n",
        "SlurmctldPidFile": paths.state_dir / "run" / "slurmctld.pid",
        "SlurmdPidFile": paths.state_dir / "run" / "slurmd-%n.pid",
        "SlurmctldLogFile": paths.log("slurmctld"),
        "SlurmdLogFile": paths.logs / "slurmd-%n.log",
    }


def _accounting(paths: SandboxPaths, plan: Plan) -> dict[str, object]:
    return {
        "AccountingStorageType": "accounting_storage/slurmdbd",
        "AccountingStorageHost": plan.address(CONTROL),
        "AccountingStoragePort": SLURMDBD_PORT,
        # Without it every client is refused by slurmdbd with "Munge decode failed" (tried, 22.05.8).
        "AccountingStoragePass": paths.munge_socket,
        "AccountingStorageEnforce": "associations,limits,qos",
        "JobAcctGatherType": "jobacct_gather/linux",
        # The default of 30 s leaves a short job without a MaxRSS.
        "JobAcctGatherFrequency": "task=2",
    }


def _behaviour(config: SandboxConfig, *, cgroups: bool) -> dict[str, object]:
    return {
        "ProctrackType": "proctrack/cgroup" if cgroups else "proctrack/linuxproc",
        "TaskPlugin": "task/cgroup" if cgroups else "task/none",
        "SelectType": "select/cons_tres",
        "SelectTypeParameters": "CR_Core_Memory",
        "SchedulerType": "sched/backfill",
        # Defaults of 3 s, 60 s and 30 s are for machines with thousands of jobs; here they are only delay.
        # What is left, 0 to 1 s from sbatch to start, is slurmctld's own loop (22.05.8, median 0.6 s of 20 jobs).
        "SchedulerParameters": "batch_sched_delay=0,sched_interval=2,bf_interval=1",
        # Lets a node declare more than the machine has; without it nodes come up `inval`.
        "SlurmdParameters": "config_overrides",
        "EnforcePartLimits": "ALL",
        "ReturnToService": 2,
        "MpiDefault": "none",
        "MailProg": "/bin/true",
        "MinJobAge": config.min_job_age_seconds,
        "KillWait": config.kill_wait_seconds,
        "MessageTimeout": config.message_timeout_seconds,
        "SlurmdTimeout": config.slurmd_timeout_seconds,
        **({"GresTypes": "gpu"} if config.gpus_per_node else {}),
        "DefMemPerCPU": max(1, config.memory_mib_per_node // config.cpus_per_node // 2),
    }


def _nodes(config: SandboxConfig, plan: Plan) -> str:
    gpus = f" Gres=gpu:{config.gpus_per_node}" if config.gpus_per_node else ""
    return "".join(
        f"NodeName={name} NodeHostname={name} NodeAddr={plan.address(name)} CPUs={config.cpus_per_node} "
        f"Boards=1 SocketsPerBoard=1 CoresPerSocket={config.cpus_per_node} ThreadsPerCore=1 "
        f"RealMemory={config.memory_mib_per_node}{gpus} State=UNKNOWN\n"
        for name in config.node_names
    )


def _partitions(config: SandboxConfig) -> str:
    nodes = ",".join(config.node_names)
    return (
        f"PartitionName=compute Nodes={nodes} Default=YES DefaultTime=01:00:00 MaxTime=1-00:00:00 State=UP\n"
        f"PartitionName=debug Nodes={nodes} MaxTime={config.debug_max_minutes} State=UP\n"
    )


def slurmdbd_conf(paths: SandboxPaths, plan: Plan) -> str:
    """The text of slurmdbd.conf; the file must belong to SlurmUser and have mode 0600."""
    return _lines(
        {
            "DbdHost": CONTROL,
            "DbdAddr": plan.address(CONTROL),
            "DbdPort": SLURMDBD_PORT,
            "SlurmUser": "root",
            "AuthType": "auth/munge",
            "AuthInfo": f"socket={paths.munge_socket}",
            "StorageType": "accounting_storage/mysql",
            "StorageHost": "localhost",
            "StorageUser": "root",
            "StorageLoc": DATABASE_NAME,
            "PidFile": paths.state_dir / "run" / "slurmdbd.pid",
            "LogFile": paths.log("slurmdbd"),
        }
    )


def cgroup_conf(*, cgroups: bool) -> str:
    """The text of cgroup.conf."""
    if not cgroups:
        return "ConstrainRAMSpace=no\n"
    # What the defaults are is not said: 20.11 does not know CgroupPlugin, and 24.11 refuses CgroupAutomount (tried).
    return "ConstrainRAMSpace=yes\nConstrainCores=no\nConstrainDevices=no\n"


def gres_conf(config: SandboxConfig) -> str:
    """The text of gres.conf. Slurm numbers GPUs by their devices, and does not see that none of these computes."""
    if not config.gpus_per_node:
        return ""
    return f"NodeName={','.join(config.node_names)} Name=gpu File=/dev/tty[1-{config.gpus_per_node}]\n"


def mpi_conf(paths: SandboxPaths) -> str:
    """The text of mpi.conf, which Slurm reads since 22.05."""
    return _lines({"PMIxCliTmpDirBase": paths.pmix})


def hosts(plan: Plan, login_name: str, existing: str) -> str:
    """The text of the /etc/hosts that login node and compute nodes see.

    Args:
        plan: The cluster's addresses.
        login_name: The login node's host name; it gets the cluster's address of this machine.
        existing: The machine's own /etc/hosts, which is kept at the end.
    """
    entries = [*((plan.address(name), name) for name in plan.names), (plan.gateway, login_name)]
    return "".join(f"{address}\t{name}\n" for address, name in entries) + existing


def sshd_config(site: SshdSite, paths: SandboxPaths, users: Sequence[str], *, openssh: tuple[int, int]) -> str:
    """The text of an sshd_config.

    Args:
        site: How it lets people in.
        paths: Where its files lie.
        users: Whom it lets in.
        openssh: Major and minor number of the sshd that reads it.
    """
    common = {
        "ListenAddress": f"127.0.0.1:{site.port}",
        "HostKey": paths.ssh / "host_key",
        "AuthorizedKeysFile": paths.ssh / "authorized_keys",
        "PidFile": "none",
        "AllowUsers": " ".join(users),
        "PermitRootLogin": "no",
        "UsePAM": "yes",
        "UseDNS": "no",
        "PrintMotd": "no",
        "LogLevel": "VERBOSE",
        "Subsystem": "sftp internal-sftp",
        "SetEnv": f"SLURM_CONF={paths.slurm_conf}",
    }
    strict, open_site = "no" if site.strict else "yes", "yes"
    ways = {
        "PasswordAuthentication": open_site,
        "PubkeyAuthentication": strict,
        "KbdInteractiveAuthentication": strict,
    }
    limits = {"MaxSessions": "1"} if site.strict else {}
    # Everybody comes from 127.0.0.1 here: the attempts that a test has fail, and our own looks whether it serves, would
    # keep all others away for a while. Older releases do not know the keyword.
    if openssh >= _PENALTIES_SINCE:
        limits["PerSourcePenalties"] = "no"
    return "".join(f"{key} {value}\n" for key, value in {**common, **ways, **limits}.items())


# A password, then a one-time code, both asked for by PAM.
ONLY_CODES = ("PasswordAuthentication no", "PubkeyAuthentication no", "KbdInteractiveAuthentication yes")


def overridden(config: str, options: Sequence[str]) -> str:
    """An sshd_config with lines of one's own in place of those with the same keyword.

    Variables of `SetEnv` are put before those that are there: of several such lines, and of two values for one name,
    sshd heeds the first.
    """
    lines = [line.split(None, 1) for line in config.splitlines()]
    own = [option.split(None, 1) for option in options]
    variables = [value for keyword, value in (*own, *lines) if keyword.lower() == "setenv"]
    replaced = {keyword.lower() for keyword, _ in own} | {"setenv"}
    kept = [(keyword, value) for keyword, value in lines if keyword.lower() not in replaced]
    added = [(keyword, value) for keyword, value in own if keyword.lower() != "setenv"]
    # Own lines come last: `Match` holds to the end of the file.
    return "".join(f"{key} {value}\n" for key, value in [*kept, ("SetEnv", " ".join(variables)), *added])


def pam_with_codes(known: Path) -> str:
    """The text of a PAM service that asks for the password, then for a one-time code (pam_oath(8))."""
    return (
        "auth requisite pam_unix.so\n"
        f"auth requisite pam_oath.so usersfile={known} window=20 digits=6\n"
        "@include common-account\n"
        "@include common-session\n"
    )


def known_hosts(ports: Iterable[int], host_public_key: str) -> str:
    """The text of a known_hosts file for 127.0.0.1 on those ports."""
    kind, key = host_public_key.split()[:2]
    return "".join(f"[127.0.0.1]:{port} {kind} {key}\n" for port in ports)
