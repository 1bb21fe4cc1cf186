"""Fields, arguments and methods as code for 1.22 gives them: made ours, left out with a line of log, or refused."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from pydantic import BaseModel

from dagster_slurm.compat.refused import PAGE, refusal
from dagster_slurm.errors import InvalidRequestError, UnknownArgumentError
from dagster_slurm.text import as_written, did_you_mean

_log = logging.getLogger(__name__)
_told: set[tuple[str, str]] = set()

_RENAMED: Mapping[tuple[str, str], str] = MappingProxyType(
    {("SlurmResource", "status_poll_backoff_factor"): "status_poll_backoff"}
)
_OWN_ALLOCATION = "each call has an allocation of its own"
_ALL_NODES = "all nodes of an allocation are in it from its begin"
_SIGNAL = "a payload gets a signal where its own call asks for it, and the steps of an allocation end before it does"
_WITHOUT_EFFECT: Mapping[tuple[str, str], str] = MappingProxyType(
    {
        ("ComputeResource", "remote_pack_timeout"): "packing on the login node takes the time it takes",
        ("ComputeResource", "enable_cluster_reuse"): _OWN_ALLOCATION,
        ("ComputeResource", "cluster_reuse_tolerance"): _OWN_ALLOCATION,
        (
            "SlurmSessionResource",
            "enable_health_checks",
        ): "a step that has lost its node is tried again by its own rules",
        ("SlurmSessionResource", "signal_before_timeout"): _SIGNAL,
        ("SlurmRunAllocationConfig", "signal_before_timeout"): _SIGNAL,
        ("run", "poll_timeout"): "a job ends at its walltime, and `max_queue_hours` ends its waiting",
        ("run", "defer_cleanup"): "each call has a directory of its own",
        ("run", "resource_requirements"): _OWN_ALLOCATION,
        ("run", "use_session"): _OWN_ALLOCATION,
    }
)
# What means the same as nothing; any other value is refused, for the reason of the name.
_ONLY: Mapping[tuple[str, str], tuple[tuple[Any, ...], str, str]] = MappingProxyType(
    {
        ("ComputeResource", "ray_head_allocation"): ((None,), "SlurmWorkerAllocationConfig", _OWN_ALLOCATION),
        ("SlurmSessionResource", "enable_session"): ((True, None), "SlurmAllocation", "mode `slurm-session` has one"),
        ("SlurmSessionResource", "ray_head_only"): ((False, None), "SlurmWorkerAllocationConfig", _ALL_NODES),
        ("SlurmSessionResource", "worker_allocation"): ((None,), "SlurmWorkerAllocationConfig", _ALL_NODES),
    }
)
_MEANT: Mapping[str, str] = MappingProxyType(
    {"pack_cmd_override": "pack_cmd", "pre_deployed_env_path_override": "pre_deployed_env_path"}
)


def as_ours(kind: type[BaseModel], fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a resource.

    Args:
        kind: Its class, which may be one that extends ours.
        fields: As they are given.

    Raises:
        ConfigurationError: One has no counterpart, and a value that means something.
        UnknownArgumentError: One is nobody's; the hint names the nearest.
    """
    owner = next(each.__name__ for each in kind.__mro__ if each.__module__.partition(".")[0] == "dagster_slurm")
    known = kind.model_fields
    made: dict[str, Any] = {}
    for name, value in fields.items():
        ours = _RENAMED.get((owner, name), name)
        if name in known or ours in known:
            made[ours] = value
        elif (owner, name) in _WITHOUT_EFFECT:
            _tell(owner, name, _WITHOUT_EFFECT[owner, name], _log.warning)
        elif (owner, name) in _ONLY:
            same, instead, why = _ONLY[owner, name]
            if value not in same:
                raise refusal(f"{owner}({name}={as_written(value)})", instead)
            _tell(owner, name, why, _log.warning)
        else:
            listed = f"{did_you_mean(name, known)}It has {', '.join(known)}."
            raise UnknownArgumentError(f"{kind.__name__} has no field {name!r}", hint=listed)
    return made


def as_our_arguments(
    method: str, args: Sequence[Any], given: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The arguments of `compute.run`.

    Args:
        method: Its name.
        args: What is given by position: the resource, the context, and so on.
        given: What is given by name.

    Returns:
        What is ours, or nobody's; and what the rest comes to, by the names of settings.

    Raises:
        InvalidRequestError: There are more than three by position.
    """
    if len(args) > 4:
        raise UnknownArgumentError(
            f"{method}() takes context, payload_path and launcher by position, and is given {len(args) - 1} arguments",
            hint="Give the rest by name: extra_slurm_opts, resource_requirements, force_env_push, ... follow in 1.22, "
            f"and here extras, extra_env, extra_slurm_opts, ... See {PAGE}#calls.",
        )
    context: Any = args[1] if len(args) > 1 else given.get("context")
    ours: dict[str, Any] = {}
    meant: dict[str, Any] = {}
    for name, value in given.items():
        if (method, name) in _WITHOUT_EFFECT:
            _tell(method, name, _WITHOUT_EFFECT[method, name], _of(context))
        elif name in _MEANT:
            meant[_MEANT[name]] = value
        else:
            ours[name] = value
    return ours, meant


def _of(context: Any) -> Callable[[str], None]:
    log = getattr(context, "log", None)
    return log.info if log is not None else _log.info


def _tell(owner: str, name: str, why: str, log: Callable[[str], None]) -> None:
    """Say it once in a process: a project says the same in each of its assets."""
    if (owner, name) not in _told:
        _told.add((owner, name))
        log(f"{name} of {owner} is one of dagster-slurm 1.22, and has no effect here: {why}")


def former_method(name: str) -> Callable[..., None]:
    """A method of 1.22: one that does nothing, since there is nothing to do, or one that says what to use.

    Args:
        name: One of `FORMER_METHODS`.
    """
    if name in ("cleanup_deferred_run_dir", "teardown", "register_cluster"):
        return lambda *args, **given: _tell("ComputeResource", name, "it is done without being asked for", _log.info)
    instead = {
        "get_pipes_client": "`compute.run(context, payload_path)` makes the client, and uses it.",
        "get_run_allocation_session": 'With allocation_scope="run" the calls of a run are steps of one allocation.',
    }[name]

    def refuse(*args: Any, **given: Any) -> None:
        raise InvalidRequestError(
            f"ComputeResource.{name}() of dagster-slurm 1.22 has no counterpart here",
            hint=f"{instead} See {PAGE}#clients.",
        )

    return refuse
