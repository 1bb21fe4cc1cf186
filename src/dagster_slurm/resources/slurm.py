"""A Slurm cluster, the way to it, and what is asked of it by default, as resources; each may come from variables."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, TypeVar

from dagster import ConfigurableResource, EnvVar
from pydantic import BeforeValidator, ConfigDict, Field, ValidationError, field_validator

from dagster_slurm.errors import ConfigurationError
from dagster_slurm.job.backoff import WatchIntervals
from dagster_slurm.job.connection import ClusterConnection, shared_connection
from dagster_slurm.resources import LAUNCHPAD, NamedFields, NotNegative, Port, Positive, choice_of, unsaid
from dagster_slurm.transport import SSHConnection
from dagster_slurm.transport.ssh_connection import connection_of, refuse_options
from dagster_slurm.variables import (
    DEFAULT_PREFIX,
    DEFAULT_REMOTE_BASE,
    INHERIT,
    PROFILE_VARIABLE,
    connection_fields,
    number_in,
    prefix_in_use,
    text_in,
)

if TYPE_CHECKING:
    from dagster_slurm.resources.profiles import SiteProfile

T = TypeVar("T")


def built(make: Callable[..., T], fields: Mapping[str, Any], variable_of: Callable[[str], str]) -> T:
    """Make a resource of those fields that are set.

    Args:
        make: The resource's class.
        fields: Its fields; None is left out.
        variable_of: The name of the variable that a field was read from.

    Raises:
        ConfigurationError: A value is not one the field takes.
    """
    try:
        return make(**{name: value for name, value in fields.items() if value is not None})
    except ValidationError as error:
        fault = error.errors(include_input=False, include_url=False)[0]
        variable = variable_of(str(fault["loc"][0]))
        raise ConfigurationError(
            f"The environment variable {variable} is not usable: {fault['msg']}",
            hint="Correct it; docs/configuration.md lists the variables with their forms.",
        ) from None


def _is_inherit(value: object) -> bool:
    return not isinstance(value, EnvVar) and isinstance(value, str) and value.lower() == INHERIT


class SSHConnectionResource(NamedFields, ConfigurableResource[SSHConnection]):
    """How to reach the login node of a cluster with OpenSSH's client, which also reads `~/.ssh/config`."""

    model_config = ConfigDict(extra="forbid")

    host: str = Field(description="Name, address, or a `Host` of `~/.ssh/config`.")
    port: Port = Field(default=22, description="TCP port; 22 stands for what `~/.ssh/config` says, and 22 otherwise.")
    user: str | None = Field(default=None, description="User name there; by default as `~/.ssh/config` has it.")
    key_path: str | None = Field(default=None, description="Private key to log in with, and then no other.")
    host_key_checking: Annotated[str, choice_of("strict", "accept-new", "off", "inherit")] = Field(
        default="strict",
        description=(
            "`strict` refuses unknown and changed host keys, `accept-new` only changed ones, `off` none, "
            "`inherit` does as `~/.ssh/config` says."
        ),
    )
    known_hosts_file: str | None = Field(default=None, description="File of known host keys, in place of OpenSSH's.")
    extra_opts: list[str] = Field(
        default=[], description='Further arguments for `ssh`, such as `["-o", "Compression=yes"]`.'
    )
    password: str | None = Field(
        default=None,
        repr=False,
        description="Answers a prompt for a password, once for each login, and no other prompt. Better an `EnvVar`.",
    )
    askpass_command: str | None = Field(
        default=None,
        description="Answers what else is asked for, such as a one-time code: it is given the prompt as its last "
        "argument, and the first line it prints is the answer.",
    )
    batch_mode: Annotated[bool | None, BeforeValidator(lambda value: None if _is_inherit(value) else value)] = Field(
        default=True, description="Never ask on the terminal; None (or `inherit`) does as `~/.ssh/config` says."
    )
    force_tty: bool = Field(
        default=False, description="Have a TTY at the far end; a login with a password has one anyway."
    )
    post_login_command: str | None = Field(
        default=None,
        description="Wraps what is run at the far end, which stands in the place of `{cmd}`: `sudo -u me sh -c {cmd}`.",
    )
    before_connect: str | None = Field(
        default=None,
        description="Run on this machine before each login, such as what renews a certificate of a few hours: "
        "`step ssh login me@example.org`.",
    )
    jump_host: Annotated[SSHConnectionResource | None, LAUNCHPAD] = Field(
        default=None, description="The host to go through, with its own login and host-key policy; it may have one too."
    )

    @field_validator("extra_opts")
    @classmethod
    def _refuse_options(cls, value: list[str]) -> list[str]:
        refuse_options(value)
        return value

    @classmethod
    def from_env(cls, prefix: str = "SLURM_EDGE_NODE_") -> SSHConnectionResource:
        """Read the connection from environment variables.

        `HOST` is required; `PORT USER KEY_PATH KEY PASSWORD ASKPASS_COMMAND FORCE_TTY POST_LOGIN_COMMAND OPTS_EXTRA
        HOST_KEY_CHECKING KNOWN_HOSTS_FILE BATCH_MODE BEFORE_CONNECT` are read if set, and the same for a jump host
        under `JUMP_`.

        Args:
            prefix: What the names begin with, with or without its trailing underscore. Where only `SLURM_SSH_HOST` is
                set, as in 1.22, they begin with `SLURM_SSH_` in place of the default.

        Raises:
            ConfigurationError: The host is missing, or a value cannot be read.
        """
        prefix = prefix_in_use(prefix)
        fields = connection_fields(prefix)
        if fields["password"]:
            # By its name: Dagster shows a resource's configuration, and resolves the variable when it is used.
            fields["password"] = EnvVar(f"{prefix}PASSWORD")
        if fields["jump_host"]:
            fields["jump_host"] = cls.from_env(f"{prefix}JUMP_")
        names = {"extra_opts": "OPTS_EXTRA"}
        return built(cls, fields, lambda field: prefix + names.get(field, field.upper()))

    def connection(self) -> SSHConnection:
        """The connection as the transport takes it."""
        fields = {name: getattr(self, name) for name in type(self).model_fields}
        fields["batch_mode"] = INHERIT if self.batch_mode is None else self.batch_mode
        if isinstance(self.password, EnvVar):
            fields["password"] = self.password.get_value()
        return connection_of(fields, self.jump_host.connection() if self.jump_host else None)


# Of the names that `from_env` reads, those that Slurm sets in a job.
_OF_SLURM = ("SLURM_GPUS_PER_NODE", "SLURM_MEM_PER_CPU")
_OF_GPUS = " (gpus)"
_MEMORY = ("mem", "mem-per-cpu", "mem-per-gpu", "memory")
_log = logging.getLogger(__name__)


class SlurmQueueConfig(NamedFields, ConfigurableResource[Any]):
    """The request for a job, unless an asset or a call says otherwise. Names and units are sbatch's."""

    model_config = ConfigDict(extra="forbid")

    partition: str = Field(
        default="", description='Partition; the cluster\'s default if empty, and "auto" for one that fits.'
    )
    num_nodes: Positive = Field(default=1, description="Number of nodes.")
    time_limit: str = Field(
        default="00:30:00", description="Walltime, in one of the forms of sbatch's `--time`, or as `2h`."
    )
    cpus: Positive = Field(default=2, description="CPUs for each task.")
    gpus_per_node: NotNegative = Field(default=0, description="GPUs on each node.")
    mem: str | None = Field(default="4096M", description="Memory on each node; `M` is MiB, `4 GB` as `4G`.")
    mem_per_cpu: str | None = Field(default=None, description="Memory for each CPU, in place of `mem`.")
    qos: str | None = Field(default=None, description="Quality of service.")
    reservation: str | None = Field(default=None, description="Reservation.")
    account: str | None = Field(default=None, description="Account to charge; the user's default if not set.")
    signal_before_timeout: str | None = Field(
        default=None, description="Signal to the payload before the walltime ends: `60`, or `USR1@60` (seconds)."
    )
    requeue: bool | None = Field(
        default=None,
        description="Whether Slurm may requeue the job after a preemption or a failed node; the site's way.",
    )
    max_queue_hours: float | None = Field(default=None, description="Give up when a job waits longer than this.", gt=0)
    extra_slurm_opts: dict[str, Any | None] = Field(
        default={}, description="Any other long option of sbatch, such as what a site demands of every job."
    )

    def options(self) -> dict[str, object]:
        """The settings as one layer for `merge`; `mem_per_cpu` stands in for `mem`."""
        layer: dict[str, object] = {name: getattr(self, name) for name in type(self).model_fields}
        del layer["extra_slurm_opts"]
        if self.mem_per_cpu is not None:
            del layer["mem"]
        if self.requeue is False:
            layer = {**layer, "requeue": None, "no_requeue": True}
        return {name: value for name, value in layer.items() if value not in (None, "")}


class SlurmResource(NamedFields, ConfigurableResource[Any]):
    """A Slurm cluster. Without `ssh`, Slurm's commands are run on this machine: Dagster is on the login node."""

    model_config = ConfigDict(extra="forbid")

    ssh: Annotated[SSHConnectionResource | None, LAUNCHPAD] = Field(
        default=None, description="The way to the login node; none if on it."
    )
    queue: Annotated[SlurmQueueConfig | None, LAUNCHPAD] = Field(
        default=None, description="The defaults of what is asked of Slurm."
    )
    remote_base: str | None = Field(
        default=None,
        description="Directory on the cluster for runs, such as `$SCRATCH/runs`; `~/dagster_runs` by default.",
    )
    profile: str | None = Field(
        default=None, description="A named preset of the site, which fills what is not said here; see docs/profiles.md."
    )
    status_poll_interval_seconds: float = Field(
        default=5.0, description="Pause before Slurm is first asked for the state of running jobs, in seconds.", gt=0
    )
    status_poll_max_interval_seconds: float = Field(
        default=30.0, description="The longest such pause, in seconds.", gt=0
    )
    status_poll_backoff: float = Field(default=1.5, description="Factor by which the pause grows each time.", ge=1)
    max_submissions_per_second: float | None = Field(
        default=None,
        description="How many jobs one process submits in a second; more wait for their turn. Without it, as many as "
        "the login node answers, sixteen at a time.",
        gt=0,
    )
    share_environments: bool = Field(
        default=False, description="Let the group of `remote_base` read the environments in it, and not write to them."
    )
    job_url: str | None = Field(
        default=None, description="Address of the site's page of a job, with `{job_id}` in it; linked in the run's log."
    )

    def set_auth_provider(self, provider: object) -> NoReturn:
        """Of dagster-slurm 1.22.

        Raises:
            ConfigurationError: Always; it says what to use.
        """
        del provider
        raise ConfigurationError(
            "set_auth_provider of dagster-slurm 1.22 has no counterpart here",
            hint='Give the login a command: `SSHConnectionResource(before_connect="step ssh login me@example.org")`. '
            "See docs/migration.md#before-connect.",
        )

    @classmethod
    def from_profile(cls, name: str, **fields: Any) -> SlurmResource:
        """The cluster that a named preset of the site describes.

        Args:
            name: The profile, of a file or an entry point.
            fields: What is said besides: it wins over the profile.

        Raises:
            ConfigurationError: There is no such profile, it cannot be read, or something in it is not usable.
        """
        site_profile(name)
        return cls(profile=name, **fields)

    @classmethod
    def from_env(cls) -> SlurmResource:
        """The cluster, and the way to it, from the `SLURM_EDGE_NODE_*` and `SLURM_*` environment variables.

        `DAGSTER_SLURM_PROFILE` names a profile, which fills what they leave open.

        Raises:
            ConfigurationError: The host is missing, or a value cannot be read.
        """
        if text_in(PROFILE_VARIABLE) is not None and text_in(f"{prefix_in_use(DEFAULT_PREFIX)}HOST") is None:
            return cls.from_env_slurm(None)
        return cls.from_env_slurm(SSHConnectionResource.from_env())

    @classmethod
    def from_env_slurm(cls, ssh: SSHConnectionResource | None) -> SlurmResource:
        """The cluster from the `SLURM_*` environment variables, with the way to it given.

        Raises:
            ConfigurationError: A value cannot be read.
        """
        outer = _set_by_an_outer_job()
        queue: dict[str, Any] = {
            "partition": text_in("SLURM_PARTITION"),
            "time_limit": text_in("SLURM_TIME"),
            "cpus": number_in("SLURM_CPUS", int),
            # Set and blank, it drops the option: the site's own default counts.
            "mem": text_in("SLURM_MEM") or ("" if "SLURM_MEM" in os.environ else None),
            "mem_per_cpu": None if "SLURM_MEM_PER_CPU" in outer else text_in("SLURM_MEM_PER_CPU"),
            "num_nodes": number_in("SLURM_NUM_NODES", int),
            "gpus_per_node": None if "SLURM_GPUS_PER_NODE" in outer else number_in("SLURM_GPUS_PER_NODE", int),
            "qos": text_in("SLURM_QOS"),
            "account": text_in("SLURM_ACCOUNT"),
            "reservation": text_in("SLURM_RESERVATION"),
            "signal_before_timeout": text_in("SLURM_SIGNAL_BEFORE_TIMEOUT"),
        }
        own: dict[str, Any] = {
            "profile": text_in(PROFILE_VARIABLE),
            "remote_base": text_in("SLURM_REMOTE_BASE"),
            "status_poll_interval_seconds": number_in("SLURM_STATUS_POLL_INTERVAL", float),
            "status_poll_max_interval_seconds": number_in("SLURM_STATUS_POLL_MAX_INTERVAL", float),
            "status_poll_backoff": number_in("SLURM_STATUS_POLL_BACKOFF", float),
            "max_submissions_per_second": number_in("SLURM_MAX_SUBMISSIONS_PER_SECOND", float),
        }
        queue_config = built(SlurmQueueConfig, queue, _variable_of)
        return built(cls, {"ssh": ssh, "queue": queue_config, **own}, _variable_of)

    def default_options(self) -> dict[str, object]:
        """What is asked of Slurm by default, as one layer for `merge`."""
        found: dict[str, object] = {}
        for layer in without_built_in_memory(self.option_layers()).values():
            found |= layer
        return found

    def option_layers(self) -> dict[str, dict[str, object]]:
        """The same as layers for `merge_named`: what is built in, what a profile says, and what this resource says."""
        queue = self.queue or unsaid(SlurmQueueConfig)
        layers: dict[str, dict[str, object]] = {"built-in": {}, "resource": {}}
        for name, value in queue.options().items():
            # `no_requeue` is what `requeue=False` becomes.
            is_said = name.removeprefix("no_") in queue.model_fields_set
            layers["resource" if is_said else "built-in"][name] = value
        layers["resource"] |= queue.extra_slurm_opts
        if self.profile:
            return {"built-in": layers["built-in"], **site_profile(self.profile).option_layers(), **layers}
        return layers

    def with_profile(self) -> SlurmResource:
        """The same with the fields of its profile where it says nothing itself, but for those of its queue.

        Raises:
            ConfigurationError: The profile cannot be used.
        """
        fields = site_profile(self.profile).own_fields() if self.profile else {}
        # Dagster names all fields, those that are None as well.
        unset = {
            name: value
            for name, value in fields.items()
            if name not in self.model_fields_set or getattr(self, name) is None
        }
        return self.model_copy(update={**unset, "profile": None})

    def connect(self) -> ClusterConnection:
        """The cluster and its watcher, shared by all steps of this process that are configured alike.

        Raises:
            ConfigurationError: `job_url` is no address, or does not name a job; or the profile cannot be used.
        """
        if self.profile:
            return self.with_profile().connect()
        job_url = self.job_url or ""
        if job_url and not (job_url.startswith(("https://", "http://")) and "{job_id}" in job_url):
            raise ConfigurationError(
                f"job_url={job_url!r} is no address of a job's page",
                hint="Give one that begins with https:// or http:// and has {job_id} in the place of the job's number.",
            )
        intervals = WatchIntervals(
            status_seconds=self.status_poll_interval_seconds,
            status_max_seconds=max(self.status_poll_interval_seconds, self.status_poll_max_interval_seconds),
            status_backoff=self.status_poll_backoff,
        )
        connection = shared_connection(
            self.ssh.connection() if self.ssh else None,
            remote_base=self.remote_base or DEFAULT_REMOTE_BASE,
            intervals=intervals,
            max_submissions_per_second=self.max_submissions_per_second,
            shares_environments=self.share_environments,
        )
        return replace(connection, job_url=job_url) if job_url else connection


def site_profile(name: str) -> SiteProfile:
    """A profile of which every part can be used.

    Raises:
        ConfigurationError: There is none, it cannot be read, or something in it is not usable.
    """
    from dagster_slurm.resources.profiles import SiteProfile  # noqa: PLC0415 - most have none

    return SiteProfile(name, SlurmResource, SlurmQueueConfig, SSHConnectionResource)


def _variable_of(field: str) -> str:
    names = {
        "time_limit": "SLURM_TIME",
        "status_poll_interval_seconds": "SLURM_STATUS_POLL_INTERVAL",
        "status_poll_max_interval_seconds": "SLURM_STATUS_POLL_MAX_INTERVAL",
    }
    return names.get(field, f"SLURM_{field.upper()}")


def without_built_in_memory(layers: Mapping[str, Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    """The layers of options, without the memory that is built in where a GPU or other memory is asked for.

    A job with a GPU gets what the site gives with it; without one, what a profile says of those with GPUs is left out.
    """
    others = [layer for who, layer in layers.items() if who != "built-in" and not who.endswith(_OF_GPUS)]
    said = {name.replace("_", "-"): value for layer in others for name, value in layer.items()}
    gpus = any(name.startswith("gpus") and value not in (None, 0, "", "0") for name, value in said.items())
    gpus = gpus or "gpu" in str(said.get("gres") or "")
    has_own = gpus or any(said.get(name) for name in _MEMORY)
    built_in = {name: value for name, value in layers["built-in"].items() if name != "mem" or not has_own}
    kept = layers if gpus else {who: layer for who, layer in layers.items() if not who.endswith(_OF_GPUS)}
    return {**kept, "built-in": built_in}


def _set_by_an_outer_job() -> frozenset[str]:
    """Which of our variables are of the job in which this process runs (sbatch(1), OUTPUT ENVIRONMENT VARIABLES)."""
    if text_in("SLURM_JOB_ID") is None:
        return frozenset()
    found = frozenset(name for name in _OF_SLURM if text_in(name) is not None)
    if found:
        names = " and ".join(sorted(found))
        _log.warning("Inside Slurm job %s, its %s are no settings", text_in("SLURM_JOB_ID"), names)
    return found
