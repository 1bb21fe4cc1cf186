"""Uploads against `scp`: one file of 200 MB of random bytes, and a tree of 5,000 files of 1 to 8 KiB.

    .venv/bin/python benchmarks/upload.py

Both go to the sandbox's login node with the same options of ssh, over a connection that is there already (warm) and
with a login of their own (cold), in turns. They go to a file system in memory: ext4 is slow in making files where many
were removed within the last seconds, for both alike, and that would hide the difference. Both ends share this
machine's cores.
"""

from __future__ import annotations

import os
import random
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import common

from dagster_slurm.transport import OpenSSHTransport, SSHConnection, TreeEntry

FILE_BYTES = 200_000_000
FILES = 5_000
ROUNDS = 9
SPACE_MIB = 4096


@dataclass(frozen=True)
class Site:
    """The two ends: what is sent, over what, and to which directory."""

    connection: SSHConnection
    local: Path
    remote: Path

    def transport(self) -> OpenSSHTransport:
        return OpenSSHTransport(self.connection)

    def scp(self, *options: str) -> list[str]:
        """The beginning of an `scp` that is told the same as our ssh."""
        told = iter(self.connection.arguments())
        # scp(1) has -P for the port, and the user before the host.
        arguments = [each for name in told for each in ({"-p": "-P"}.get(name, name), next(told)) if name != "-l"]
        return ["scp", "-q", *options, *arguments]

    def target(self) -> str:
        return f"{self.connection.user}@{self.connection.host}:{self.remote}/it"


def make_sources(directory: Path) -> None:
    """The file and the tree, the same ones every time."""
    generator = random.Random(0)
    (directory / "file").write_bytes(os.urandom(FILE_BYTES))
    for number in range(FILES):
        path = directory / "tree" / f"{number % 50:02}" / f"{number:04}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(generator.randbytes(generator.randint(1 << 10, 8 << 10)))


def put_file(site: Site, transport: OpenSSHTransport) -> None:
    transport.put(site.local / "file", f"{site.remote}/it")


def put_tree(site: Site, transport: OpenSSHTransport) -> None:
    root = site.local / "tree"
    found = ((Path(where).relative_to(root), names) for where, _, names in os.walk(root))
    entries = (TreeEntry(f"{where}/{name}", root / where / name) for where, names in found for name in names)
    transport.put_tree(entries, f"{site.remote}/it")


@contextmanager
def site_on(sandbox: common.Sandbox) -> Iterator[Site]:
    with (
        tempfile.TemporaryDirectory(prefix="upload-", dir="/tmp") as local,
        sandbox.small_filesystem(SPACE_MIB) as remote,
    ):
        make_sources(Path(local))
        connection = replace(common.ssh_of(sandbox).connection(), control_dir=f"{local}/c")
        yield Site(connection, Path(local), remote)


def cold(site: Site, put: Callable[[Site, OpenSSHTransport], None]) -> float:
    own = replace(site, connection=replace(site.connection, control_dir=f"{site.local}/cold"))
    transport = own.transport()
    try:
        return common.timed(lambda: put(own, transport))
    finally:
        transport.disconnect()


def scp(site: Site, name: str, *, warm: bool) -> float:
    options = ["-o", "ControlMaster=no", "-o", f"ControlPath={site.connection.control_path() if warm else 'none'}"]
    argv = [*site.scp("-r", *options), str(site.local / name), site.target()]
    return common.timed(lambda: subprocess.run(argv, check=True))


def measure(site: Site, name: str, put: Callable[[Site, OpenSSHTransport], None]) -> dict[str, list[float]]:
    """Seconds of each way, one after the other, round by round; the first round only warms up."""
    transport = site.transport()
    ways: dict[str, Callable[[], float]] = {
        "scp, warm": lambda: scp(site, name, warm=True),
        "transport, warm": lambda: common.timed(lambda: put(site, transport)),
        "scp, cold": lambda: scp(site, name, warm=False),
        "transport, cold": lambda: cold(site, put),
    }
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    try:
        for _ in range(ROUNDS + 1):
            for way, run in ways.items():
                transport.command(["rm", "-rf", "--", f"{site.remote}/it"])
                seconds[way].append(run())
    finally:
        transport.disconnect()
    return {way: measured[1:] for way, measured in seconds.items()}


def show(title: str, seconds: dict[str, list[float]], size: int) -> None:
    rows = []
    for way, measured in seconds.items():
        middle = common.median(measured)
        speed = common.median(seconds[f"scp, {way.split(', ')[1]}"]) / middle
        rows.append([way, f"{middle:.2f}", f"{min(measured):.2f}", f"{size / middle / 1e6:.0f}", f"{speed:.2f}"])
    common.print_table(title, ["way", "median, s", "shortest, s", "MB/s", "speed to scp's"], rows)


def main() -> None:
    """Run and print."""
    with common.running_sandbox() as sandbox, site_on(sandbox) as site:
        tree_bytes = sum(path.stat().st_size for path in (site.local / "tree").rglob("*") if path.is_file())
        print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, {ROUNDS} rounds")
        show("One file of 200 MB", measure(site, "file", put_file), FILE_BYTES)
        show("5,000 files of 1 to 8 KiB", measure(site, "tree", put_tree), tree_bytes)


if __name__ == "__main__":
    main()
