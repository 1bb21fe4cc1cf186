"""The scripts of an upload, run by the shell of this machine, with another process between two of their commands."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from dagster_slurm.transport import TreeEntry
from dagster_slurm.transport.content import archive_tree
from dagster_slurm.transport.shell import verb

DATA = b"content" * 1000
SUM = hashlib.sha256(DATA).hexdigest()
NAME = ".dagster-slurm.0.1.part"


class Far:
    """A directory there, and programs in front of those of the machine."""

    def __init__(self, root: Path) -> None:
        self.root = root / "data"
        self.root.mkdir()
        self.programs = root / "bin"
        self.programs.mkdir()
        self.part = self.root / NAME
        self.destination = self.root / SUM

    def instead_of(self, program: str, script: str) -> None:
        """Run a script in the place of a program, which it has as REAL."""
        path = self.programs / program
        path.write_text(f"#!/bin/sh\nREAL={shutil.which(program)}\n{script}\n")
        path.chmod(0o755)

    def run(self, script: str, *args: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        env = {**os.environ, "PATH": f"{self.programs}:{os.environ['PATH']}"}
        argv = ["sh", "-c", verb(script), script, *args]
        return subprocess.run(argv, input=stdin, capture_output=True, env=env, check=False)

    def begin(self, how: str = "continue") -> str:
        done = self.run("upload_begin", str(self.destination), str(self.part), str(len(DATA)), SUM, how)
        assert done.returncode == 0, done.stderr
        return done.stdout.decode().strip()

    def publish(self) -> subprocess.CompletedProcess[bytes]:
        args = (str(self.part), str(self.destination), "400", SUM, ".dagster-slurm.own.part")
        return self.run("upload_publish", *args)

    def left(self) -> list[str]:
        return sorted(path.name for path in self.root.iterdir())


@pytest.fixture
def far(tmp_path: Path) -> Far:
    return Far(tmp_path)


def test_what_is_published_between_two_looks_is_there(far: Far) -> None:
    """A partial file without a beginning was made, in which those who still sent went on."""
    far.part.write_bytes(DATA)
    far.instead_of("touch", f'[ ! -s "{far.part}" ] || mv "{far.part}" "{far.destination}"; exec "$REAL" "$@"')
    assert far.begin() == "there"
    assert far.left() == [SUM]


def test_what_was_summed_is_published(far: Far) -> None:
    """Of two that publish the same, the second gave its name to what a third had just begun."""
    far.part.write_bytes(DATA)
    begun_anew = f'mv "{far.part}" "{far.destination}"; : >"{far.part}"'
    far.instead_of("sha256sum", f'"$REAL" "$@" || exit; {begun_anew}')
    done = far.publish()
    assert (done.returncode, far.destination.read_bytes()) == (0, DATA)
    assert far.left() == [NAME, SUM]


@pytest.mark.parametrize("links", [True, False], ids=["hard links", "no hard links"])
def test_published_with_its_mode_and_nothing_is_left(far: Far, links: bool) -> None:
    if not links:
        far.instead_of("ln", "exit 1")
    far.part.write_bytes(DATA)
    assert far.publish().returncode == 0
    assert (far.left(), far.destination.stat().st_mode & 0o777) == ([SUM], 0o400)
    assert (far.publish().returncode, far.left()) == (66, [SUM])
    far.part.write_bytes(b"something else")
    assert (far.publish().returncode, far.left()) == (65, [SUM])


def test_nothing_is_left_of_what_another_content_replaces_at_this_moment(far: Far) -> None:
    far.part.write_bytes(DATA)
    far.instead_of(
        "mv",
        f'"$REAL" "$@" || exit; echo other >"{far.root}/other"; "$REAL" -fT "{far.root}/other" "{far.destination}"',
    )
    assert far.publish().returncode == 0
    assert (far.left(), far.destination.read_text()) == ([SUM], "other\n")


@pytest.mark.parametrize("said", ["dd: failed to open 'x': Permission denied", "dd: opening 'x': Permission denied"])
def test_a_piece_for_what_is_published_at_this_moment_harms_nothing(far: Far, said: str) -> None:
    """It was thrown away, and the other process failed with it."""
    far.part.write_bytes(DATA)
    far.instead_of("dd", f'case $* in *conv=*) echo "{said}" >&2; exit 1 ;; esac; exec "$REAL" "$@"')
    done = far.run("upload_piece", str(far.part), "0", "7", stdin=b"content")
    assert (done.returncode, far.left()) == (66, [NAME])


def test_a_tree_whose_place_was_taken_and_is_free_again_arrives(far: Far) -> None:
    """Its files had been taken from it, as content; whoever came second to that place failed."""
    taken = f'mkdir -p "{far.destination}/x" && "$REAL" "$@"; status=$?; rm -rf "{far.destination}"; exit "$status"'
    far.instead_of("mv", f'[ -e "{far.programs}/once" ] || {{ : >"{far.programs}/once"; {taken}; }}; exec "$REAL" "$@"')
    archive = archive_tree([TreeEntry("a", b"1")])
    stream = b"".join(archive.blocks())
    done = far.run("put_tree", str(far.destination), archive.checksums_name, stdin=stream)
    assert (done.returncode, far.left(), (far.destination / "a").read_bytes()) == (0, [SUM], b"1")


@pytest.mark.parametrize("hours", [-100, -25, -1, 0, 1, 25, 100])
def test_the_clock_of_the_login_node_takes_nobodys_part(far: Far, hours: int) -> None:
    """Ahead of that of the files, it took what others were sending; behind, it kept what had died."""
    far.instead_of("date", f'exec "$REAL" -d "{hours} hours" "$@"')
    others, dead = far.root / ".dagster-slurm.2.3.part", far.root / ".dagster-slurm.4.5.part"
    others.write_bytes(b"begun")
    dead.write_bytes(b"begun")
    os.utime(dead, (time.time() - 25 * 3600,) * 2)
    assert far.begin() == "0"
    assert far.left() == [NAME, others.name]
