"""Kills its own process right before, during or right after a remote step; used by tests alone.

A remote step is a call of a transport's method. It is named by the shell file or the program that it runs. `record` is
the step that puts a materialisation into Dagster's storage.
"""

import functools
import os
import signal
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dagster import DagsterInstance

from dagster_slurm.transport.shell import Verb
from dagster_slurm.transport.shell_transport import ShellTransport
from tests.faults.project.plan import Plan

NOTES = Path(os.environ.get("FAULTS_NOTES", "/nonexistent"))
_METHODS = ("run", "put", "put_tree", "read_from")
# Less than sbatch takes to answer.
_DURING_SECONDS = 0.03
_armed: list[Plan] = []
_seen: set[str] = set()
_inside = threading.local()


def arm(plan: Plan) -> None:
    """From now on, note each kind of remote step when it is first taken, and die where the plan says."""
    if plan.die:
        _ask_for_itself(plan)
    if not _armed:
        for method in _METHODS:
            setattr(ShellTransport, method, _watched(method, getattr(ShellTransport, method)))
        DagsterInstance.handle_new_event = _watched_record(DagsterInstance.handle_new_event)  # type: ignore[method-assign]
    _armed[:] = [plan]


def _ask_for_itself(plan: Plan) -> None:
    """Share no answers: what another process has asked, this one would not ask, and would not die there."""
    own = NOTES / f"{plan.name}.tmp"
    own.mkdir(exist_ok=True)
    tempfile.tempdir = str(own)


def _watched(method: str, original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def call(self: Any, *args: Any, **options: Any) -> Any:
        if getattr(_inside, "step", False):
            return original(self, *args, **options)
        step = _name_of(method, args)
        _inside.step = True
        try:
            _reached(f"before:{step}")
            if _armed[-1].die == f"during:{step}":
                threading.Timer(_DURING_SECONDS, _die, [_armed[-1]]).start()
            result = original(self, *args, **options)
            _reached(f"after:{step}")
            return result
        finally:
            _inside.step = False

    return call


def _watched_record(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def call(self: Any, event: Any, *args: Any, **options: Any) -> Any:
        is_one = event.dagster_event is not None and event.dagster_event.is_step_materialization
        if is_one and _armed[-1].die == "before:record":
            _die(_armed[-1])
        result = original(self, event, *args, **options)
        if is_one and _armed[-1].die == "after:record":
            _die(_armed[-1])
        return result

    return call


def _name_of(method: str, args: tuple[Any, ...]) -> str:
    if method != "run":
        return method
    script = args[0]
    if isinstance(script, Verb):
        return script.name
    if script == '"$@"':
        words = [word for word in args[1] if word != "env" and "=" not in word]
        return "sbatch --test-only" if "--test-only" in words else str(words[0])
    return str(script).split("\n", 1)[0][:40]


def _reached(point: str) -> None:
    plan = _armed[-1]
    if point not in _seen:
        _seen.add(point)
        with (NOTES / f"{plan.name}.steps").open("a", encoding="utf-8") as notes:
            notes.write(f"{point}\n")
    if plan.die == point:
        _die(plan)


def _die(plan: Plan) -> None:
    if _is_first_death(plan):
        target = os.killpg if plan.die_with_group else os.kill
        target(0 if plan.die_with_group else os.getpid(), signal.SIGKILL)


def _is_first_death(plan: Plan) -> bool:
    try:
        os.close(os.open(NOTES / f"{plan.name}.died", os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return False
    return True
