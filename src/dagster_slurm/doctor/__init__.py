"""`dagster-slurm doctor`: checks a set-up step by step, and says what is wrong and what to do."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from dagster_slurm.doctor.finding import Finding, Status, from_error, skipped, wrong
from dagster_slurm.doctor.job import check_environment, check_job
from dagster_slurm.doctor.login import check_clock, check_connection, check_host_key, check_login, check_shell
from dagster_slurm.doctor.package import check_package
from dagster_slurm.doctor.partition import check_partition, check_request
from dagster_slurm.doctor.sessions import check_sessions
from dagster_slurm.doctor.slurm import check_accounting, check_associations, check_commands, check_controller
from dagster_slurm.doctor.storage import check_space, check_writing
from dagster_slurm.doctor.way import check_name, check_port
from dagster_slurm.doctor.world import Asked, Settings, World, judge_settings
from dagster_slurm.errors import DagsterSlurmError, RemoteStorageError, TransportError

__all__ = ["STEPS", "Asked", "Finding", "Settings", "Status", "World", "diagnose"]


_LOGIN = "login"


@dataclass(frozen=True)
class Step:
    """One step.

    Args:
        name: Its name.
        needs: The steps without which it says nothing.
        check: What it does.
    """

    name: str
    needs: tuple[str, ...]
    check: Callable[[World], Finding]


def check_settings(world: World) -> Finding:
    """Whether the settings can be read and name what is there."""
    return judge_settings(world.settings)


STEPS = (
    Step("settings", (), check_settings),
    Step("package", (), check_package),
    Step("name", ("settings",), check_name),
    Step("port", ("name",), check_port),
    Step("host key", ("port",), check_host_key),
    Step(_LOGIN, ("host key",), check_login),
    Step("connection", (_LOGIN,), check_connection),
    Step("shell", (_LOGIN,), check_shell),
    Step("commands", (_LOGIN,), check_commands),
    Step("controller", ("commands",), check_controller),
    Step("accounting", ("commands",), check_accounting),
    Step("associations", ("accounting",), check_associations),
    Step("partition", ("controller",), check_partition),
    Step("request", ("partition",), check_request),
    Step("space", (_LOGIN,), check_space),
    Step("writing", ("space",), check_writing),
    Step("clock", (_LOGIN,), check_clock),
    Step("environment", (_LOGIN,), check_environment),
    Step("job", ("request", "writing"), check_job),
    Step("sessions", ("commands", "job"), check_sessions),
)
"""Every step, after those it needs."""


def diagnose(world: World, steps: tuple[Step, ...] = STEPS) -> Iterator[Finding]:
    """Go through the steps. What needs a step that failed is not checked, and says so.

    Yields:
        One finding for each step, as it is made.
    """
    failed: dict[str, str] = {}
    for step in steps:
        cause = next((failed[name] for name in (*step.needs, *_always(step)) if name in failed), None)
        if cause is not None:
            failed[step.name] = cause
            yield skipped(step.name, f"{cause} has to work first")
            continue
        finding = _checked(world, step, failed)
        if finding.status == "wrong":
            failed[step.name] = step.name
        yield finding


def _always(step: Step) -> tuple[str, ...]:
    """A connection that was lost on the way ends everything that needs one, wherever it was noticed."""
    return () if step.name in ("settings", "name", "port", "host key") else (_LOST,)


_LOST = "the connection"


def _checked(world: World, step: Step, failed: dict[str, str]) -> Finding:
    try:
        return step.check(world)
    except DagsterSlurmError as error:
        if isinstance(error, TransportError) and not isinstance(error, RemoteStorageError):
            # Asking again would log in again.
            failed[_LOST] = _LOST
        return from_error(step.name, error)
    except (LookupError, ValueError, OSError) as error:
        # A shell file of ours met a program that answers otherwise than GNU's or Slurm's does.
        return wrong(
            step.name,
            f"The answer cannot be read ({type(error).__name__}: {error})",
            "Look at this step by hand, and report it with the version of the system.",
        )
