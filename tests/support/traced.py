"""One run on a cluster, traced: `python -m tests.support.traced BASE` prints, as JSON, what of the package it entered.

Counted is what happens within `compute.run`: files, stations (entries into a file from another one) and turns of the
loop that follows a job on the own thread of the step, functions on all threads, and round trips by what they ask, until
the submission and until the end.
"""

import json
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from types import FrameType
from typing import Any

import dagster as dg

import dagster_slurm
from dagster_slurm import ComputeResource, SlurmQueueConfig, SlurmResource
from dagster_slurm.pipes import interruptions
from dagster_slurm.transport.channel import ShellChannel
from dagster_slurm.transport.shell import Verb
from tests.support.instances import empty_instance

PACKAGE = str(Path(dagster_slurm.__file__).parent)
SUBMITS = "submit"
# Of work/loop.py.
TURN = "_follow_on"


class Trace:
    """What has been entered so far.

    Attributes:
        submitted: The figures at the moment of the submission.
    """

    def __init__(self) -> None:
        self.files: set[str] = set()
        self.stations = 0
        self.turns = 0
        self.functions: set[tuple[str, int]] = set()
        self.round_trips: Counter[str] = Counter()
        self.submitted: dict[str, int] | None = None
        self._own = threading.get_ident()
        self._last = ""

    def __call__(self, frame: FrameType, event: str, argument: Any) -> None:
        del argument
        code = frame.f_code
        if event != "call" or not code.co_filename.startswith(PACKAGE):
            return
        self.functions.add((code.co_filename, code.co_firstlineno))
        if threading.get_ident() == self._own:
            self.files.add(code.co_filename)
            self.stations += code.co_filename != self._last
            self.turns += code.co_name == TURN
            self._last = code.co_filename

    def asked(self, script: str, args: Sequence[str]) -> None:
        """A round trip begins."""
        name = name_of(script, args)
        if name == SUBMITS:
            self.submitted = self.submitted or self.figures()
        self.round_trips[name] += 1

    def figures(self) -> dict[str, int]:
        """The counts."""
        counted = {"files": len(self.files), "stations": self.stations, "functions": len(self.functions)}
        return {**counted, "turns": self.turns}


def name_of(script: str, args: Sequence[str]) -> str:
    """What a round trip asks: the name of the verb, or of the program."""
    if isinstance(script, Verb):
        return script.name
    if script == '"$@"':
        return next(word for word in args if word != "env" and "=" not in word)
    return script.split("\n", 1)[0][:40]


@contextmanager
def watched_requests(asked: Callable[[str, Sequence[str]], None]) -> Iterator[None]:
    """Have each round trip told as it begins."""
    request = ShellChannel.request

    def watched(self: ShellChannel, script: str, args: Sequence[str] = (), **options: Any) -> Any:
        asked(script, args)
        return request(self, script, args, **options)

    ShellChannel.request = watched  # type: ignore[method-assign]
    try:
        yield
    finally:
        ShellChannel.request = request  # type: ignore[method-assign]


def traced(compute: ComputeResource, payload: Path) -> Trace:
    """Run one asset."""
    found: list[Trace] = []

    @dg.asset
    def measured(context: dg.AssetExecutionContext, compute: ComputeResource) -> dg.MaterializeResult:
        trace = Trace()
        found.append(trace)
        threading.setprofile(trace)
        sys.setprofile(trace)
        try:
            with watched_requests(trace.asked):
                return compute.run(context, payload).get_materialize_result()
        finally:
            sys.setprofile(None)
            threading.setprofile(None)  # type: ignore[arg-type]

    with empty_instance() as instance:
        assert dg.materialize([measured], resources={"compute": compute}, instance=instance).success
    return found[0]


def main() -> None:
    """Run and print."""
    # What a first call loads is measured by tests/unit/test_imports.py.
    import_module("dagster_slurm.clients")
    # While a call takes longer, the step's thread looks for interruptions: a slow machine would count as more.
    interruptions._CALL_LOOK_SECONDS = 60.0
    queue = SlurmQueueConfig(partition="compute", mem="100M", cpus=1, time_limit="00:05:00")
    from_env = SlurmResource.from_env()
    slurm = SlurmResource(ssh=from_env.ssh, queue=queue, remote_base=sys.argv[1])
    with tempfile.TemporaryDirectory() as directory:
        payload = Path(directory, "payload.sh")
        payload.write_text("echo here\nsleep 3\n")
        trace = traced(ComputeResource(mode="slurm", slurm=slurm), payload)
    print(json.dumps({"submitted": trace.submitted, "ended": trace.figures(), "asked": dict(trace.round_trips)}))


if __name__ == "__main__":
    main()
