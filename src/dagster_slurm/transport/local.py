"""Slurm's commands on this machine: Dagster runs on the login node itself."""

from __future__ import annotations

from dagster_slurm.transport.channel import ShellChannel, shell_command
from dagster_slurm.transport.shell_transport import ShellTransport


class LocalTransport(ShellTransport):
    """The same shell scripts as over SSH, run by this machine's `sh`.

    Args:
        channels: How many shells may be open at once.
    """

    def __init__(self, *, channels: int = 2) -> None:
        super().__init__("this machine", channels=channels)

    def _open_channel(self) -> ShellChannel:
        return ShellChannel(("sh", "-c", shell_command()))
