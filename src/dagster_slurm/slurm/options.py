"""The long options of sbatch, which of them a user may set, and how a value is written.

Sources: sbatch(1), section OPTIONS, releases 20.11 to 26.05 (an option that a site's release does not have is
refused there by sbatch itself).
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from dagster_slurm.errors import InvalidRequestError, UnknownOptionError
from dagster_slurm.text import as_written

Takes = Literal["nothing", "optional", "value"]


@dataclass(frozen=True)
class SbatchOption:
    """One long option of sbatch.

    Attributes:
        name: Its name without the leading dashes.
        takes: Whether it is a flag, takes a value, or takes one optionally.
    """

    name: str
    takes: Takes


_NOTHING = """
    consolidate-segments contiguous help hold ignore-pbs no-requeue overcommit oversubscribe
    parsable quiet reboot spread-job spread-segments stepmgr test-only usage use-min-nodes verbose
    version wait
"""
_OPTIONAL = "exclusive get-user-env nice no-kill oom-kill-step propagate requeue resv-ports"
_VALUE = """
    account acctg-freq array batch bb bbf begin chdir cluster-constraint clusters comment constraint
    container container-id container-type core-spec cores-per-socket cpu-freq cpus-per-gpu
    cpus-per-task deadline delay-boot dependency distribution error exclude export export-file extra
    extra-node-info gid gpu-bind gpu-freq gpus gpus-per-node gpus-per-socket gpus-per-task gres
    gres-flags hint input job-name kill-on-invalid-dep licenses mail-type mail-user mcs-label mem
    mem-bind mem-per-cpu mem-per-gpu mem-update mincpus network nodefile nodelist nodes ntasks
    ntasks-per-core ntasks-per-gpu ntasks-per-node ntasks-per-socket open-mode output partition
    power prefer priority profile qos reservation resources segment signal sockets-per-node switches
    thread-spec threads-per-core time time-min tmp tres-bind tres-per-task uid wait-all-nodes wckey
    wrap
"""


def _table() -> Mapping[str, SbatchOption]:
    rows: list[tuple[str, Takes]] = [(_NOTHING, "nothing"), (_OPTIONAL, "optional"), (_VALUE, "value")]
    options = [SbatchOption(name, takes) for names, takes in rows for name in names.split()]
    return MappingProxyType({option.name: option for option in sorted(options, key=lambda one: one.name)})


SBATCH_OPTIONS: Mapping[str, SbatchOption] = _table()
"""Every long option of sbatch by its name."""

ALIASES: Mapping[str, str] = MappingProxyType(
    {
        "cpus": "cpus-per-task",
        "gpus-per-nodes": "gpus-per-node",
        "memory": "mem",
        "num-nodes": "nodes",
        "queue": "partition",
        "time-limit": "time",
    }
)
"""Names of this package, in sbatch's spelling with dashes, for options of sbatch."""

_ONE_JOB = "it is set for every job by dagster-slurm"
_FILES = "dagster-slurm follows the job's own files"
_ANSWER = "it changes what sbatch answers or whether it submits"

MANAGED_OPTIONS: Mapping[str, str] = MappingProxyType(
    {
        "array": "one call is one job; use compute.run_partitions for a job array",
        "chdir": f"{_ONE_JOB}; the payload starts in its run directory",
        "clusters": "a job stays on the cluster of its login node: each cluster needs a SlurmResource with a login "
        "node of its own, and several clusters of one login node are not supported",
        "error": f"{_FILES}; the log is in Dagster's stderr of the step",
        "export": "the environment is passed on by dagster-slurm; use extra_env",
        "export-file": "the environment is passed on by dagster-slurm; use extra_env",
        "get-user-env": "the environment is passed on by dagster-slurm; use extra_env",
        "gid": "a job runs as the user who logs in",
        "help": _ANSWER,
        "ignore-pbs": "the script that dagster-slurm writes has no #PBS lines",
        "input": "a payload has no standard input; use extras or extra_files",
        "job-name": f"{_ONE_JOB}, which finds the job again by it; use name=",
        "open-mode": f"{_FILES}; they are appended to, also after a requeue",
        "output": f"{_FILES}; the log is in Dagster's stdout of the step",
        "parsable": _ANSWER,
        "quiet": _ANSWER,
        "signal": "use signal_before_timeout, which the batch script forwards to the payload",
        "test-only": _ANSWER,
        "uid": "a job runs as the user who logs in",
        "usage": _ANSWER,
        "verbose": _ANSWER,
        "version": _ANSWER,
        "wait": f"{_ANSWER}; dagster-slurm waits by itself",
        "wrap": "the script is written by dagster-slurm; use payload_path",
    }
)
"""Options a user may not set, each with the reason and what to use instead."""


OWN_SETTINGS = frozenset({"signal-before-timeout", "max-queue-hours"})
"""Settings of a request that are no options of sbatch, or not as sbatch takes them."""


def setting_names(keys: Iterable[str]) -> dict[str, str]:
    """What each key of a layer of settings names: one of `OWN_SETTINGS`, or an option as `canonical_option` has it."""
    dashed = {key: key.replace("_", "-") for key in keys}
    return {key: name if name in OWN_SETTINGS else canonical_option(key) for key, name in dashed.items()}


def canonical_option(name: str) -> str:
    """The name of an option as sbatch spells it.

    Args:
        name: A long option of sbatch or an alias (see `ALIASES`), with dashes or underscores, without "--".

    Returns:
        A key of `SBATCH_OPTIONS`.

    Raises:
        UnknownOptionError: sbatch has no such option; the hint names the nearest ones.
        InvalidRequestError: dagster-slurm sets this option itself.
    """
    if name.startswith("-"):
        bare = name.lstrip("-")
        raise UnknownOptionError(f"not an option's name: {name!r}", hint=f"Write it without dashes: {bare!r}.")
    dashed = name.replace("_", "-")
    canonical = ALIASES.get(dashed, dashed)
    if canonical not in SBATCH_OPTIONS:
        raise UnknownOptionError(f"sbatch has no option {name!r}", hint=_nearest(dashed))
    if canonical in MANAGED_OPTIONS:
        raise InvalidRequestError(f"option {name!r} cannot be set", hint=f"{MANAGED_OPTIONS[canonical]}.")
    return canonical


def checked_value(name: str, value: object) -> str | bool | None:
    """Bring an option's value to the one form it has in a request.

    Args:
        name: The canonical name.
        value: True or False for a flag; a str, int, float or list of str for an option with a value (a list
            is joined with commas); either for an option with an optional value.

    Returns:
        True, the text of the value, or None where the option is not given (None, False).

    Raises:
        InvalidRequestError: The value is not of the option's kind, is empty, or holds a newline or NUL.
    """
    takes = SBATCH_OPTIONS[name].takes
    if value is None or (value is False and takes != "value"):
        return None
    if isinstance(value, bool):
        if takes == "value":
            raise _refused(name, value, "a str, int, float or list of str")
        return True
    if takes == "nothing":
        raise _refused(name, value, "True or False")
    return _value_text(name, value)


def refuse_control_characters(name: str, text: str) -> str:
    """Return the text as it is.

    Raises:
        InvalidRequestError: It holds a newline, a carriage return or NUL, which end a line of a batch script,
            or is not valid Unicode.
    """
    if any(character in text for character in "\n\r\0") or not _is_utf8(text):
        raise _refused(name, text, "one line of text without NUL")
    return text


def _value_text(name: str, value: object) -> str:
    if isinstance(value, list | tuple) and all(isinstance(item, str) and item for item in value):
        value = ",".join(value)
    if not isinstance(value, str | int | float):
        raise _refused(name, value, "a str, int, float or list of str")
    text = str(value)
    if not text.strip():
        raise _refused(name, value, "a value that is not blank, or None to leave the option out")
    return refuse_control_characters(name, text)


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _nearest(name: str) -> str:
    known = sorted((SBATCH_OPTIONS.keys() | ALIASES.keys()) - MANAGED_OPTIONS.keys())
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.0)
    return f"Nearest known: {', '.join(near)}. Options are those of sbatch(1), with dashes or underscores."


def _refused(name: str, value: object, allowed: str) -> InvalidRequestError:
    return InvalidRequestError(f"option {name!r} cannot be {as_written(value)}", hint=f"Allowed: {allowed}.")
