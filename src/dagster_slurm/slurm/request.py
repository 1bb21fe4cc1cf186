"""What is asked of Slurm for one job, merged from layers and validated early; the one writer of batch scripts. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import MappingProxyType

from dagster_slurm.errors import InvalidQuantityError, InvalidRequestError
from dagster_slurm.slurm import quantities
from dagster_slurm.slurm.options import checked_value, refuse_control_characters, setting_names
from dagster_slurm.text import as_written

AUTO = "auto"
"""In place of a partition's name: one is chosen; see `slurm/partitions.py`."""
_MEMORY_OPTIONS = frozenset({"mem", "mem-per-cpu", "mem-per-gpu"})
_SPELLINGS = {"signal-before-timeout": "signal"}
_ALTERNATIVES = (_MEMORY_OPTIONS, frozenset({"requeue", "no-requeue"}))
_SIGNAL = re.compile(r"(?:(?:B:)?(?P<name>[A-Za-z0-9+]+)@)?(?P<seconds>\d{1,5})", re.ASCII)
_GPUS = re.compile(r"[A-Za-z][\w.-]*:\d{1,4}(?:,[A-Za-z][\w.-]*:\d{1,4})*", re.ASCII)
_MAX_SIGNAL_SECONDS = 65535  # sbatch(1), option --signal
_MAX_COUNT = 10**7
_MAX_HOURS = 10**6
# A time limit that was asked for as none, other than one that was not asked for.
_UNLIMITED = object()


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
        gpus_per_node: `--gpus-per-node`, 0 for none; of kinds, whose text is in `options`, all together.
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

    @property
    def has_gpus(self) -> bool:
        """Whether it asks for GPUs, in whatever way."""
        named = any("gpu" in str(self.options.get(name, "")) for name in ("gres", "tres-per-task"))
        return bool(self.gpus_per_node or named or {"gpus", "gpus-per-task", "gpus-per-socket"} & set(self.options))

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

    Precedence, lowest first: built-in, resource (`SlurmQueueConfig`), script, asset metadata, launchpad, call. Each
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
    return _build(_merged(dict(enumerate(layers))))


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
    sources = {_SPELLINGS.get(name, name): str(source) for name, (_, source) in merged.items()}
    return _build(merged), MappingProxyType(dict(sorted(sources.items())))


def _merged(layers: Mapping[str, Mapping[str, object]] | Mapping[int, Mapping[str, object]]) -> _Merged:
    """The settings that hold, each with the source that said so last."""
    merged: _Merged = {}
    for source, layer in layers.items():
        settings = _canonical_layer(layer) if layer else {}
        for alternatives in _ALTERNATIVES:
            if any(settings.get(name) is not None for name in alternatives):
                merged = {name: said for name, said in merged.items() if name not in alternatives}
        merged.update({name: (value, source) for name, value in settings.items()})
    return {name: said for name, said in merged.items() if said[0] is not None}


def _canonical_layer(layer: Mapping[str, object]) -> dict[str, object]:
    settings: dict[str, object] = {}
    spelled: dict[str, str] = {}
    for key, name in setting_names(layer).items():
        checked = _checked(name, key, layer[key])
        if name in settings and settings[name] != checked:
            raise InvalidRequestError(
                f"{spelled[name]!r} and {key!r} are one option and differ: "
                f"{as_written(settings[name])}, {as_written(checked)}",
                hint="Give one of them.",
            )
        settings[name], spelled[name] = checked, key
    _refuse_two_kinds_of_memory(settings, spelled)
    return settings


def _checked(name: str, key: str, value: object) -> object:
    field_, check = _FIELDS.get(name, ("", None))
    if field_ and (value is None or (isinstance(value, str) and not value.strip())):
        return None
    return check(key, value) if check else checked_value(name, quantities.for_sbatch(name, value))


def _refuse_two_kinds_of_memory(settings: Mapping[str, object], spelled: Mapping[str, str]) -> None:
    given = sorted(spelled[name] for name in _MEMORY_OPTIONS if settings.get(name) is not None)
    if len(given) > 1:
        raise InvalidRequestError(
            f"{' and '.join(map(repr, given))} exclude each other",
            hint="Give one of them; sbatch(1), option --mem.",
        )


def _build(merged: _Merged) -> JobRequest:
    settings = {name: value for name, (value, _) in merged.items()}
    known = {field_: settings.pop(name) for name, (field_, _) in _FIELDS.items() if name in settings}
    if known.get("time_limit_seconds") is _UNLIMITED:
        known |= {"time_limit_seconds": None, "time_unlimited": True}
    by_kind = known.get("gpus_per_node")
    if isinstance(by_kind, str):
        # As it was given for sbatch; the number for whoever counts.
        settings["gpus-per-node"] = by_kind
        known["gpus_per_node"] = sum(int(kind.rpartition(":")[2]) for kind in by_kind.split(","))
    return JobRequest(**known, options=settings)  # type: ignore[arg-type]


def parse_signal_before_timeout(value: object) -> str:
    """Bring a signal before the time limit to sbatch's `--signal` form (sbatch(1), option --signal).

    Args:
        value: Seconds before the limit (60, "60"), or with a signal: "USR1@60", "B:USR1@60". The signal goes
            to the batch script, which forwards it to the payload.

    Returns:
        "B:USR1@60"; the signal is USR1 unless named.

    Raises:
        InvalidQuantityError: Another form, or not between 1 and 65535 seconds.
    """
    match = None if isinstance(value, bool) else _SIGNAL.fullmatch(str(value).strip())
    if not match or not 1 <= int(match.group("seconds")) <= _MAX_SIGNAL_SECONDS:
        allowed = f'60, "USR1@60" or "B:USR1@60", with 1 to {_MAX_SIGNAL_SECONDS} seconds'
        raise _out_of_range("signal_before_timeout", value, allowed)
    name = (match.group("name") or "USR1").upper().removeprefix("SIG")
    return f"B:{name}@{int(match.group('seconds'))}"


def _memory(mib: int | None) -> str | None:
    return None if mib is None else quantities.format_memory(mib)


def _time_limit(key: str, value: object) -> object:
    with _naming(key):
        seconds = quantities.parse_time_limit_seconds(value)  # type: ignore[arg-type]
    return _UNLIMITED if seconds is None else seconds


def _memory_mib(key: str, value: object) -> object:
    with _naming(key):
        return quantities.parse_memory_mib(value)  # type: ignore[arg-type]


@contextmanager
def _naming(key: str) -> Iterator[None]:
    """Say of which setting a value cannot be read."""
    try:
        yield
    except InvalidQuantityError as error:
        raise InvalidQuantityError(f"{key!r} is {error.message}", hint=error.hint) from None


def _signal(_key: str, value: object) -> object:
    return parse_signal_before_timeout(value)


def _max_queue_seconds(key: str, value: object) -> object:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < _MAX_HOURS:
        raise _out_of_range(key, value, "a number of hours above 0")
    return max(1, round(value * 3600))


def _count(minimum: int) -> Callable[[str, object], object]:
    def check(key: str, value: object) -> object:
        is_number = isinstance(value, int) or (isinstance(value, str) and value.strip().isdecimal())
        if isinstance(value, bool) or not is_number or not minimum <= int(str(value)) <= _MAX_COUNT:
            raise _out_of_range(key, value, f"a whole number of at least {minimum}")
        return int(str(value))

    return check


def _gpus(key: str, value: object) -> object:
    """A count, or counts by kind as sbatch takes them: "a100:2"."""
    is_by_kind = isinstance(value, str) and _GPUS.fullmatch(value.strip())
    return str(value).strip() if is_by_kind else _count(0)(key, value)


def _out_of_range(key: str, value: object, allowed: str) -> InvalidQuantityError:
    return InvalidQuantityError(f"{key!r} cannot be {as_written(value)}", hint=f"Allowed: {allowed}.")


_Merged = dict[str, tuple[object, Hashable]]

_FIELDS: Mapping[str, tuple[str, Callable[[str, object], object] | None]] = MappingProxyType(
    {
        **{name: (name, None) for name in ("partition", "account", "qos", "reservation")},
        "nodes": ("nodes", _count(1)),
        "cpus-per-task": ("cpus_per_task", _count(1)),
        "gpus-per-node": ("gpus_per_node", _gpus),
        "mem": ("mem_mib", _memory_mib),
        "mem-per-cpu": ("mem_per_cpu_mib", _memory_mib),
        "time": ("time_limit_seconds", _time_limit),
        "signal-before-timeout": ("signal_before_timeout", _signal),
        "max-queue-hours": ("max_queue_seconds", _max_queue_seconds),
    }
)
"""The settings with a field of their own in `JobRequest`; how what is said of each is read, unless as any option."""


TASK = "{task}"
# Releases of sbatch have taken the word for a new component wherever it stood in a directive (esm_tools#933).
_SEPARATOR = re.compile(r"(het|pack)job", re.ASCII)
_PLAIN = re.compile(r"[A-Za-z0-9_./:,@=+%*\[\]-]+", re.ASCII)


def render_script(
    request: JobRequest,
    *,
    output_path: str,
    body: str,
    array: str | None = None,
) -> str:
    """Write a batch script: the interpreter, an #SBATCH line for each option in alphabetical order, the body.

    Args:
        request: What is asked for.
        output_path: Absolute path of the batch script's own stdout and stderr, taken literally.
        body: What bash runs.
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
    tasks: dict[str, str | bool] = {} if array is None else {"array": array}
    options = {**request.sbatch_options(), **tasks, **files}
    lines = [directive(name, value) for name, value in sorted(options.items())]
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
        return _SEPARATOR.sub(r'\1""job', value)
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + _SEPARATOR.sub(r'\1""job', escaped) + '"'


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
