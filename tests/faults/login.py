"""Login nodes with programs of their own, and login nodes that crash."""

from __future__ import annotations

import os
import pwd
import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from dagster_slurm.sandbox import LoginNode, Sandbox
from dagster_slurm_sandbox import processes as process_table

from ..support.files import let_everybody_in

_USUAL = Path("/usr/bin")


@contextmanager
def login_node_with(
    sandbox: Sandbox,
    directory: Path,
    *,
    programs: Mapping[str, str] | None = None,
    without: Sequence[str] = (),
    variables: Mapping[str, str] | None = None,
) -> Iterator[LoginNode]:
    """A login node whose PATH has other programs than the usual ones.

    Args:
        sandbox: The cluster.
        directory: Where the programs are put; everybody can read it afterwards.
        programs: Scripts by name; they come before the usual programs.
        without: Programs that are not there.
        variables: Variables that every session gets.
    """
    own = directory / "bin"
    own.mkdir(parents=True)
    for name, text in (programs or {}).items():
        (own / name).write_text(text)
        (own / name).chmod(0o755)
    for path in _USUAL.iterdir():
        if path.name not in without and not (own / path.name).exists():
            (own / path.name).symlink_to(path)
    let_everybody_in(directory)
    settings = {"PATH": str(own), **(variables or {})}
    with sandbox.login_node(options=[f"SetEnv {name}={value}" for name, value in settings.items()]) as node:
        yield node


def kill(pids: Sequence[int]) -> None:
    """End processes at once."""
    for pid in pids:
        os.kill(pid, signal.SIGKILL)


def crash_login_node(sandbox: Sandbox) -> None:
    """End every process of the user that is not on a compute node: sessions, and what was detached from them."""
    here = frozenset({Path("/proc/self/ns/net").stat().st_ino})
    uid = pwd.getpwnam(sandbox.user).pw_uid

    def on_login_node(path: Path) -> bool:
        return process_table.has_user(path, uid) and process_table.in_network_namespace(path, here)

    process_table.end(process_table.matching(on_login_node))
