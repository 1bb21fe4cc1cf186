"""A transport to this machine that counts what is asked, and may hold the first request up."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from dagster_slurm.transport import CompletedCommand, LocalTransport


class Counting(LocalTransport):
    """Counts requests.

    Attributes:
        scripts: What was asked.
        hold: Called within the first request.
    """

    def __init__(self, *, channels: int = 2, hold: Callable[[], object] = lambda: None) -> None:
        super().__init__(channels=channels)
        self.scripts: list[str] = []
        self.hold = hold

    def run(self, script: str, args: Sequence[str] = (), **options: object) -> CompletedCommand:
        self.scripts.append(script)
        if len(self.scripts) == 1:
            self.hold()
        return super().run(script, args, **options)  # type: ignore[arg-type]
