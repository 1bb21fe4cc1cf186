"""What is asked of Slurm for one job: one frozen value, merged from layers and validated early."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TypeVar

from dagster_slurm.errors import InvalidRequestError
from dagster_slurm.slurm import quantities
from dagster_slurm.slurm.options import canonical_option, checked_value, refuse_control_characters
from dagster_slurm.slurm.settings import SETTINGS, UNLIMITED, parse_signal_before_timeout

__all__ = ["JobRequest", "merge", "merge_named", "parse_signal_before_timeout"]

_MEMORY_OPTIONS = frozenset({"mem", "mem-per-cpu", "mem-per-gpu"})
_SPELLINGS = {"signal-before-timeout": "signal"}
_ALTERNATIVES = (_MEMORY_OPTIONS, frozenset({"requeue", "no-requeue"}))
_Source = TypeVar("_Source", str, int)


@dataclass(frozen=True)
class JobRequest:
    """What is asked of Slurm for one job.

    Attributes:
        partition: `--partition`, None for the cluster's default.
        account: `--account`, None for the user's default.
        qos: `--qos`.
        reservation: `--reservation`.
        nodes: `--nodes`, at least 1.
        cpus_per_task: `--cpus-per-task`.
        gpus_per_node: `--gpus-per-node`, 0 for none.
        mem_mib: `--mem`, MiB for each node; 0 asks for all memory of the node.
        mem_per_cpu_mib: `--mem-per-cpu`, MiB.
        time_limit_seconds: `--time`; None leaves it to the partition's default.
        time_unlimited: Whether `--time=UNLIMITED` is asked for; `time_limit_seconds` is None then.
        signal_before_timeout: `--signal`, in the form "B:USR1@60".
        max_queue_seconds: How long the job may wait in the queue; no option of sbatch.
        options: Any other long option by its canonical name, sorted; True for a flag.
    """

    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    reservation: str | None = None
    nodes: int = 1
    cpus_per_task: int | None = None
    gpus_per_node: int = 0
    mem_mib: int | None = None
    mem_per_cpu_mib: int | None = None
    time_limit_seconds: int | None = None
    time_unlimited: bool = False
    signal_before_timeout: str | None = None
    max_queue_seconds: int | None = None
    options: Mapping[str, str | bool] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "options", MappingProxyType(dict(sorted(self.options.items()))))

    @property
    def node_hours(self) -> float | None:
        """The most that the job may cost: its nodes for its whole walltime; None if that is not given, or endless."""
        return None if self.time_limit_seconds is None else self.nodes * self.time_limit_seconds / 3600

    def sbatch_options(self) -> Mapping[str, str | bool]:
        """Every option that is given, by its canonical name and in alphabetical order; True for a flag."""
        values: dict[str, str | int | None] = {
            "account": self.account,
            "cpus-per-task": self.cpus_per_task,
            "gpus-per-node": self.gpus_per_node or None,
            "mem": _memory(self.mem_mib),
            "mem-per-cpu": _memory(self.mem_per_cpu_mib),
            "nodes": self.nodes,
            "partition": self.partition,
            "qos": self.qos,
            "reservation": self.reservation,
            "signal": self.signal_before_timeout,
            "time": self._time(),
        }
        given = {name: str(value) for name, value in values.items() if value is not None}
        return MappingProxyType(dict(sorted({**given, **self.options}.items())))

    def _time(self) -> str | None:
        if self.time_limit_seconds is None and not self.time_unlimited:
            return None
        return quantities.format_time_limit(self.time_limit_seconds)


def merge(*layers: Mapping[str, object]) -> JobRequest:
    """One request out of layers of settings; a later layer wins.

    Precedence, lowest first: built-in, resource (`SlurmQueueConfig`), asset metadata, launchpad, call. Each
    layer is a mapping of the fields of `SlurmQueueConfig` and of any other long option of sbatch, with dashes
    or underscores.

    - A key that is absent from a layer leaves what earlier layers said; None (or "", or False for a flag)
      unsets it.
    - `mem`, `mem_per_cpu` and `mem_per_gpu` exclude each other in sbatch: setting one unsets the other two. So do
      `requeue` and `no_requeue`.
    - Two spellings of one option in one layer (`nodes` and `num_nodes`) must agree.

    Args:
        layers: The settings, the one that wins last.

    Returns:
        The request.

    Raises:
        UnknownOptionError: A name is neither a field nor an option of sbatch.
        InvalidQuantityError: A duration, an amount of memory or a count cannot be read or is out of range.
        InvalidRequestError: Another value is not of its kind, or two spellings in one layer disagree.
    """
    return _build({name: value for name, (value, _) in _merged(dict(enumerate(layers))).items()})


def merge_named(layers: Mapping[str, Mapping[str, object]]) -> tuple[JobRequest, Mapping[str, str]]:
    """As `merge`, and where each option comes from.

    Args:
        layers: The settings by the names of their sources, the one that wins last.

    Returns:
        The request, and the source of each option that is given, by the option's name: as sbatch spells it, or
        `max-queue-hours`.

    Raises:
        InvalidRequestError: As `merge`.
    """
    merged = _merged(layers)
    request = _build({name: value for name, (value, _) in merged.items()})
    sources = {_SPELLINGS.get(name, name): source for name, (_, source) in merged.items()}
    return request, MappingProxyType(dict(sorted(sources.items())))


def _merged(layers: Mapping[_Source, Mapping[str, object]]) -> dict[str, tuple[object, _Source]]:
    """The settings that hold, each with the source that said so last."""
    merged: dict[str, tuple[object, _Source]] = {}
    for source, layer in layers.items():
        settings = _canonical_layer(layer)
        for alternatives in _ALTERNATIVES:
            if any(settings.get(name) is not None for name in alternatives):
                merged = {name: said for name, said in merged.items() if name not in alternatives}
        merged.update({name: (value, source) for name, value in settings.items()})
    return {name: said for name, said in merged.items() if said[0] is not None}


def _canonical_layer(layer: Mapping[str, object]) -> dict[str, object]:
    settings: dict[str, object] = {}
    spelled: dict[str, str] = {}
    for key, value in layer.items():
        name = _setting_name(key)
        checked = SETTINGS[name](key, value) if name in SETTINGS else checked_value(name, value)
        if name in settings and settings[name] != checked:
            raise InvalidRequestError(
                f"{spelled[name]!r} and {key!r} are one option and differ: {settings[name]!r}, {checked!r}",
                hint="Give one of them.",
            )
        settings[name], spelled[name] = checked, key
    _refuse_two_kinds_of_memory(settings, spelled)
    return settings


def _refuse_two_kinds_of_memory(settings: Mapping[str, object], spelled: Mapping[str, str]) -> None:
    given = sorted(spelled[name] for name in _MEMORY_OPTIONS if settings.get(name) is not None)
    if len(given) > 1:
        raise InvalidRequestError(
            f"{' and '.join(map(repr, given))} exclude each other",
            hint="Give one of them; sbatch(1), option --mem.",
        )


def _setting_name(key: str) -> str:
    name = key.replace("_", "-")
    return name if name in _OWN_FIELDS else canonical_option(key)


def _build(settings: Mapping[str, object]) -> JobRequest:
    known = {field_: settings[name] for name, field_ in _REQUEST_FIELDS.items() if name in settings}
    if known.get("time_limit_seconds") is UNLIMITED:
        known |= {"time_limit_seconds": None, "time_unlimited": True}
    options = {name: value for name, value in settings.items() if name not in _REQUEST_FIELDS}
    return JobRequest(**known, options=options)  # type: ignore[arg-type]


def _memory(mib: int | None) -> str | None:
    return None if mib is None else quantities.format_memory(mib)


_OWN_FIELDS = frozenset({"signal-before-timeout", "max-queue-hours"})
_REQUEST_FIELDS: Mapping[str, str] = MappingProxyType(
    {
        "partition": "partition",
        "account": "account",
        "qos": "qos",
        "reservation": "reservation",
        "nodes": "nodes",
        "cpus-per-task": "cpus_per_task",
        "gpus-per-node": "gpus_per_node",
        "mem": "mem_mib",
        "mem-per-cpu": "mem_per_cpu_mib",
        "time": "time_limit_seconds",
        "signal-before-timeout": "signal_before_timeout",
        "max-queue-hours": "max_queue_seconds",
    }
)


TASK = "{task}"
_PLAIN = re.compile(r"[A-Za-z0-9_./:,@=+%*\[\]-]+", re.ASCII)


def render_script(
    request: JobRequest,
    *,
    output_path: str,
    body: str,
    error_path: str | None = None,
    components: Sequence[JobRequest] = (),
    array: str | None = None,
) -> str:
    """Write a batch script: the interpreter, an #SBATCH line for each option in alphabetical order, the body.

    Args:
        request: What is asked for.
        output_path: Absolute path of the batch script's own stdout, taken literally.
        body: What bash runs.
        error_path: Absolute path of its stderr, taken literally; None sends both to `output_path`.
        components: The further components of a heterogeneous job, each after a line `#SBATCH hetjob`
            (https://slurm.schedmd.com/heterogeneous_jobs.html, "Submitting Jobs").
        array: The value of `--array`; the last `TASK` in `output_path` is then the number of the task.

    Returns:
        The text of the script.

    Raises:
        InvalidRequestError: A path or a value that cannot stand in a directive.
    """
    files = {"open-mode": "append", "output": escape_filename(output_path)}
    if array is not None:
        # "%a": sbatch(1), section "filename pattern".
        files["output"] = "%a".join(files["output"].rsplit(TASK, 1))
    if error_path is not None:
        files["error"] = escape_filename(error_path)
    tasks: dict[str, str | bool] = {} if array is None else {"array": array}
    lines = _directives({**request.sbatch_options(), **tasks, **files})
    for component in components:
        lines += ["#SBATCH hetjob", *_directives(dict(component.sbatch_options()))]
    return "\n".join(["#!/bin/bash", *lines, "", body.rstrip("\n"), ""])


def directive(name: str, value: str | bool) -> str:
    """One #SBATCH line.

    Raises:
        InvalidRequestError: The value holds a newline or NUL.
    """
    return f"#SBATCH --{name}" if value is True else f"#SBATCH --{name}={quote(name, str(value))}"


def quote(name: str, value: str) -> str:
    r"""A value as sbatch's directive parser reads it back: in double quotes, `\` and `"` escaped, if need be.

    Raises:
        InvalidRequestError: The value holds a newline or NUL.
    """
    refuse_control_characters(name, value)
    if _PLAIN.fullmatch(value):
        return value
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def escape_filename(path: str) -> str:
    r"""A path taken literally by sbatch: "%" doubled (sbatch(1), section "filename pattern").

    Raises:
        InvalidRequestError: The path is relative, or holds a newline, NUL or a backslash (which Slurm removes
            and which switches the replacement off).
    """
    refuse_control_characters("output", path)
    if not path.startswith("/") or "\\" in path:
        raise InvalidRequestError(
            f"not a path for a job's output: {path!r}", hint="Use an absolute path without backslashes."
        )
    return path.replace("%", "%%")


def _directives(options: dict[str, str | bool]) -> list[str]:
    return [directive(name, value) for name, value in sorted(options.items())]
