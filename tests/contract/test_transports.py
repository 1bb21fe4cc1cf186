"""One contract for every transport: what holds for all three, and what holds where there is a real shell."""

from __future__ import annotations

import io
import os
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO
from uuid import uuid4

import pytest

from dagster_slurm.errors import (
    ConnectionFailedError,
    InvalidRequestError,
    RemoteStorageError,
    TransferCorruptedError,
    TransportError,
    TransportTimeoutError,
)
from dagster_slurm.sandbox import Sandbox
from dagster_slurm.transport import CompletedCommand, LocalTransport, OpenSSHTransport, Transport, TreeEntry
from tests.ssh import connection_of, control_directory
from tests.ssh import opened as logged_in
from tests.support.scripted import ScriptedTransport
from tests.support.waiting import eventually

HOSTILE_WORDS = [
    *("", " ", "a b", "'", '"', "''\"\"", ";", "; exit 3", "$(exit 3)", "`id`", "$HOME", "${x", "*", "~", "!", "#x"),
    *("\n", "a\n", "\n\na\n\n", "\r\n", "\t", "\\", "\\n", "a\\", "-n", "--", "-", "%s", "&", "|", "<", "&&", "()"),
    *("é", "日本語", "\u0141\u0101\u0081", "😀", "a\u00a0b", "x" * 50_000),
]
HOSTILE_NAMES = ["a b", "it's", 'say "x"', "-rf", "--", "*", "*x", "$(x)", "é日本", "#", "~", ";x", " x", "x ", "-"]
ALL_BYTES = bytes(range(256))
SEVERAL_MIB = ALL_BYTES * (4 * 4096) + b"end"

PRINT_ARGUMENTS = """for word in "$@"; do printf '%s\\0' "$word"; done"""
LIST_FILES = r"""cd -- "$1" && find . -type f -printf '%P\0%m\0'"""


@dataclass
class Far:
    """A transport, a directory at its other end that tests may use, and how to look at it."""

    transport: Transport
    root: str
    cleanup: ExitStack = field(default_factory=ExitStack)

    def path(self, name: str = "") -> str:
        return f"{self.root}/{name or uuid4().hex}"

    def directory(self) -> str:
        path = self.path()
        assert self.transport.command(["mkdir", "--", path]).returncode == 0
        return path

    def read(self, path: str) -> bytes:
        return self.transport.read_from(path, 0, 1 << 30)

    def mode(self, path: str) -> int:
        if isinstance(self.transport, ScriptedTransport):
            return self.transport.modes[path]
        return int(self.transport.command(["stat", "-c", "%a", "--", path]).text, 8)

    def files(self, directory: str) -> dict[str, int]:
        """The mode of each file below a directory, by relative name."""
        if isinstance(self.transport, ScriptedTransport):
            modes = self.transport.modes.items()
            return {
                name.removeprefix(f"{directory}/"): mode for name, mode in modes if name.startswith(f"{directory}/")
            }
        words = self.transport.run(LIST_FILES, [directory]).stdout.split(b"\0")[:-1]
        return {name.decode(): int(mode, 8) for name, mode in zip(words[::2], words[1::2], strict=True)}

    def names(self, directory: str) -> list[str]:
        """Everything in a directory, also what is left over."""
        return sorted(self.transport.command(["ls", "-A", "--", directory]).text.splitlines())


@dataclass(frozen=True)
class ChangingFile:
    """A file that is another one each time it is opened, as when somebody writes while it is sent."""

    contents: Iterator[bytes]

    def open(self, mode: str, buffering: int) -> IO[bytes]:
        assert (mode, buffering) == ("rb", 0)
        return io.BytesIO(next(self.contents))


def changing_file(*contents: bytes) -> Path:
    return ChangingFile(iter(contents))  # type: ignore[return-value]


def small_shell(script: str, args: Sequence[str], stdin: bytes) -> CompletedCommand:
    done = subprocess.run(["sh", "-c", script, "sh", *args], input=stdin, capture_output=True, check=False)
    return CompletedCommand(done.stdout, done.stderr, done.returncode)


@contextmanager
def opened_scripted() -> Iterator[Far]:
    yield Far(ScriptedTransport(small_shell), "/memory")


@contextmanager
def opened_local() -> Iterator[Far]:
    with tempfile.TemporaryDirectory(prefix="dagster slurm's ") as root, ExitStack() as cleanup:
        transport = LocalTransport()
        cleanup.callback(transport.close)
        yield Far(transport, root, cleanup)


@contextmanager
def opened_openssh(sandbox: Sandbox) -> Iterator[Far]:
    with ExitStack() as cleanup:
        control_dir = cleanup.enter_context(control_directory())
        transport = cleanup.enter_context(logged_in(connection_of(sandbox.env(), control_dir=control_dir)))
        root = transport.run('mktemp -d ~/"contract it\'s XXXXXX"').text.strip()
        cleanup.callback(transport.command, ["rm", "-rf", "--", root])
        yield Far(transport, root, cleanup)


SHELLS = ["local", pytest.param("openssh", marks=pytest.mark.cluster)]


@pytest.fixture(scope="module", params=SHELLS)
def shell(request: pytest.FixtureRequest) -> Iterator[Far]:
    with opened(request) as far:
        yield far


@pytest.fixture(scope="module", params=[*SHELLS, "scripted"])
def far(request: pytest.FixtureRequest) -> Iterator[Far]:
    with opened(request) as each:
        yield each


@contextmanager
def opened(request: pytest.FixtureRequest) -> Iterator[Far]:
    openers: dict[str, Callable[[], object]] = {
        "local": opened_local,
        "openssh": lambda: opened_openssh(request.getfixturevalue("sandbox")),
        "scripted": opened_scripted,
    }
    with openers[request.param]() as far:  # type: ignore[attr-defined]
        yield far


class TestRunEverywhere:
    """`run` and `command`, for every transport."""

    def test_streams_and_status_are_separate(self, far: Far) -> None:
        done = far.transport.run("printf out; printf err >&2; exit 7")
        assert (done.stdout, done.stderr, done.returncode) == (b"out", b"err", 7)

    @pytest.mark.parametrize("status", [0, 1, 2, 126, 127, 255])
    def test_every_status_arrives(self, far: Far, status: int) -> None:
        assert far.transport.run('exit "$1"', [str(status)]).returncode == status

    def test_no_output_at_all(self, far: Far) -> None:
        assert far.transport.run(":") == CompletedCommand(b"", b"", 0)

    def test_output_with_and_without_a_last_newline(self, far: Far) -> None:
        assert far.transport.run(r"printf 'a\n\n'; printf 'b' >&2") == CompletedCommand(b"a\n\n", b"b", 0)
        assert far.transport.run(r"printf '\n'; printf '\n' >&2") == CompletedCommand(b"\n", b"\n", 0)

    @pytest.mark.parametrize("word", HOSTILE_WORDS, ids=lambda word: repr(word[:12]))
    def test_an_argument_arrives_unchanged(self, far: Far, word: str) -> None:
        done = far.transport.run(PRINT_ARGUMENTS, [word])
        assert done == CompletedCommand(word.encode() + b"\0", b"", 0)

    def test_many_arguments_arrive_in_order(self, far: Far) -> None:
        words = [*HOSTILE_WORDS[:-1], *map(str, range(500))]
        assert far.transport.run(PRINT_ARGUMENTS, words).stdout == b"".join(word.encode() + b"\0" for word in words)

    def test_no_argument_is_not_an_empty_one(self, far: Far) -> None:
        assert far.transport.run('printf %s "$#"').text == "0"

    def test_arguments_of_one_request_do_not_reach_the_next(self, far: Far) -> None:
        far.transport.run("x=1; cd /; umask 000; set -f; trap 'echo x' EXIT", ["a", "b"])
        assert far.transport.run('printf "%s%s" "$#" "${x-none}"') == CompletedCommand(b"0none", b"", 0)

    def test_a_program_gets_its_arguments(self, far: Far) -> None:
        done = far.transport.command(["printf", "%s|", "a b", "", "*", "'"], stdin=b"not read")
        assert done == CompletedCommand(b"a b||*|'|", b"", 0)

    def test_a_program_that_is_missing(self, far: Far) -> None:
        done = far.transport.command(["no-such-program", "x"])
        assert done.returncode == 127
        assert "not found" in done.error_text

    def test_a_script_that_cannot_be_parsed_has_a_status(self, far: Far) -> None:
        assert far.transport.run("if then (").returncode != 0
        assert far.transport.run("echo on").text == "on\n"

    @pytest.mark.parametrize("data", [b"", b"x", b"\0", b"\n", ALL_BYTES, SEVERAL_MIB], ids=len)
    def test_bytes_in_and_out(self, far: Far, data: bytes) -> None:
        assert far.transport.run("cat", stdin=data) == CompletedCommand(data, b"", 0)

    def test_bytes_on_both_outputs_at_once(self, far: Far) -> None:
        done = far.transport.run("tee /dev/fd/3 3>&2", stdin=SEVERAL_MIB)
        assert (done.stdout == SEVERAL_MIB, done.stderr == SEVERAL_MIB) == (True, True)

    @pytest.mark.parametrize("script", ["true", "exit 3", "head -c 1", "exec true", "exec <&-"])
    def test_stdin_left_unread_does_not_reach_the_next_request(self, far: Far, script: str) -> None:
        far.transport.run(script, stdin=b"echo leaked\n" * 100_000)
        assert far.transport.run("cat", stdin=b"next") == CompletedCommand(b"next", b"", 0)

    def test_without_stdin_there_is_nothing_to_read(self, far: Far) -> None:
        assert far.transport.run("cat; echo end").text == "end\n"

    def test_output_that_looks_like_the_end_of_an_answer(self, far: Far) -> None:
        looks = "".join(f"\n{nonce} {end}\n\n{nonce}\n" for nonce in (uuid4().hex, "0") for end in ("0", "ready"))
        done = far.transport.run('printf %s "$1"; printf %s "$1" >&2; exit 5', [looks])
        assert done == CompletedCommand(looks.encode(), looks.encode(), 5)

    def test_eight_threads_get_their_own_answers(self, far: Far) -> None:
        def ask(thread: int) -> list[tuple[str, bytes, int]]:
            answers = [
                far.transport.run('cat; printf %s "$1" >&2; exit "$2"', [f"e{thread}.{n}", str(n)], stdin=b"%d" % n)
                for n in range(50)
            ]
            return [(answer.error_text, answer.stdout, answer.returncode) for answer in answers]

        with ThreadPoolExecutor(8) as threads:
            answers = list(threads.map(ask, range(8)))
        assert answers == [[(f"e{thread}.{n}", b"%d" % n, n) for n in range(50)] for thread in range(8)]

    def test_it_can_be_used_after_close(self, far: Far) -> None:
        far.transport.close()
        assert far.transport.run("echo again").text == "again\n"


class TestRunInARealShell:
    """What needs a shell that is held open."""

    @pytest.mark.parametrize("stdin", [b"", b"x"], ids=["no stdin", "stdin"])
    def test_a_background_process_does_not_block(self, shell: Far, stdin: bytes) -> None:
        began = time.monotonic()
        pid = shell.transport.run('sleep 60 & printf %s "$!"', stdin=stdin).text
        assert time.monotonic() - began < 20
        assert shell.transport.command(["kill", pid]).returncode == 0

    def test_a_timeout_is_typed_and_the_next_request_works(self, shell: Far) -> None:
        began = time.monotonic()
        with pytest.raises(TransportTimeoutError) as caught:
            shell.transport.run("echo early; sleep 60", timeout_seconds=0.3)
        assert time.monotonic() - began < 20
        assert caught.value.host == shell.transport.host
        assert caught.value.transient
        assert shell.transport.run("echo on") == CompletedCommand(b"on\n", b"", 0)

    def test_a_timeout_while_sending(self, shell: Far) -> None:
        with pytest.raises(TransportTimeoutError):
            shell.transport.run("sleep 60", stdin=SEVERAL_MIB, timeout_seconds=0.3)
        assert shell.transport.run("cat", stdin=b"on").stdout == b"on"

    def test_a_shell_that_dies_is_a_broken_connection_and_replaced(self, shell: Far) -> None:
        with pytest.raises(ConnectionFailedError) as caught:
            shell.transport.run('kill -KILL "$$"')
        assert caught.value.host == shell.transport.host
        assert shell.transport.run("echo on").text == "on\n"

    def test_a_signal_that_ends_a_script_is_its_status(self, shell: Far) -> None:
        assert shell.transport.run("sh -c 'kill -TERM $$'").returncode == 128 + 15

    def test_options_of_slurm_in_the_environment_are_unset_but_for_its_configuration(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name in ("SBATCH_PARTITION", "SLURM_JOB_ID", "SQUEUE_FORMAT", "SACCT_FORMAT", "SLURM_CONF", "SINFO_X"):
            monkeypatch.setenv(name, "x\nSBATCH_FAKE=y")
        transport = LocalTransport()
        names = transport.run("env").text
        transport.close()
        found = {line.partition("=")[0] for line in names.splitlines()}
        # SBATCH_FAKE is the second line of a value, and stays one.
        assert {name for name in found if name.startswith(("SBATCH_P", "SLURM_", "SQUEUE_", "SACCT_", "SINFO_"))} == {
            "SLURM_CONF"
        }

    def test_files_it_makes_are_private(self, shell: Far) -> None:
        path = shell.path()
        shell.transport.run(': >"$1"', [path])
        assert shell.mode(path) == 0o600


class TestPutEverywhere:
    """`put`, for every transport."""

    @pytest.mark.parametrize("data", [b"", b"x", b"no newline", ALL_BYTES, SEVERAL_MIB], ids=len)
    def test_content_from_bytes_and_from_a_file(self, far: Far, data: bytes, tmp_path: Path) -> None:
        source = tmp_path / "source"
        source.write_bytes(data)
        for each in (data, source):
            path = far.path()
            far.transport.put(each, path)
            assert far.read(path) == data

    @pytest.mark.parametrize("mode", [0o600, 0o700, 0o644, 0o755, 0o400])
    def test_mode(self, far: Far, mode: int) -> None:
        path = far.path()
        far.transport.put(b"x", path, mode=mode)
        assert far.mode(path) == mode

    def test_the_default_mode_is_private(self, far: Far) -> None:
        path = far.path()
        far.transport.put(b"x", path)
        assert far.mode(path) == 0o600

    def test_a_file_is_overwritten_with_content_and_mode(self, far: Far) -> None:
        path = far.path()
        far.transport.put(b"a longer old content", path, mode=0o700)
        far.transport.put(b"new", path, mode=0o600)
        assert (far.read(path), far.mode(path)) == (b"new", 0o600)

    @pytest.mark.parametrize("name", [*HOSTILE_NAMES, "a\nb", "back\\slash"])
    def test_hostile_names(self, far: Far, name: str) -> None:
        path = far.path(name)
        far.transport.put(name.encode(), path)
        assert far.read(path) == name.encode()

    def test_a_source_that_is_missing_here(self, far: Far, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError):
            far.transport.put(tmp_path / "missing", far.path())


class TestPutInARealFileSystem:
    """What a file system can refuse, and what is left behind."""

    def test_nothing_is_left_beside_a_file(self, shell: Far) -> None:
        directory = shell.directory()
        shell.transport.put(b"x", f"{directory}/file")
        assert shell.names(directory) == ["file"]

    def test_missing_directory(self, shell: Far) -> None:
        path = shell.path("no such directory/file")
        with pytest.raises(TransportError) as caught:
            shell.transport.put(b"x", path)
        assert path in str(caught.value)
        assert caught.value.host == shell.transport.host

    def test_a_directory_at_the_destination_is_refused(self, shell: Far) -> None:
        directory = shell.directory()
        with pytest.raises(TransportError):
            shell.transport.put(b"x", directory)
        assert shell.names(directory) == []
        assert not [name for name in shell.names(shell.root) if ".part" in name]

    def test_a_relative_destination_with_a_leading_dash(self, shell: Far) -> None:
        name = f"-{uuid4().hex}"
        shell.transport.put(b"x", name)
        assert shell.transport.run('rm -- "$1"', [name]).returncode == 0

    def test_content_that_changes_while_it_is_sent_is_not_published(self, shell: Far) -> None:
        directory = shell.directory()
        shell.transport.put(b"old", f"{directory}/file")
        with pytest.raises(TransferCorruptedError) as caught:
            shell.transport.put(changing_file(b"first", b"other"), f"{directory}/file")
        assert caught.value.transient
        assert (shell.names(directory), shell.read(f"{directory}/file")) == (["file"], b"old")

    @pytest.mark.parametrize("second", [b"", b"short", SEVERAL_MIB * 2], ids=["emptied", "shrunk", "grown"])
    def test_size_that_changes_while_it_is_sent_disturbs_nothing(self, shell: Far, second: bytes) -> None:
        directory = shell.directory()
        with pytest.raises(InvalidRequestError, match="changed while it was sent"):
            shell.transport.put(changing_file(SEVERAL_MIB, second), f"{directory}/file")
        assert shell.transport.run("cat", stdin=b"on") == CompletedCommand(b"on", b"", 0)
        eventually(lambda: shell.names(directory) == [])

    def test_readers_see_the_old_file_or_the_new_one(self, shell: Far) -> None:
        path = shell.path()
        contents = {b"a" * 200_000, b"b" * 300_000}
        shell.transport.put(next(iter(contents)), path)
        stop = threading.Event()

        def write() -> None:
            while not stop.is_set():
                for content in contents:
                    shell.transport.put(content, path)

        with ThreadPoolExecutor(1) as threads:
            writing = threads.submit(write)
            seen = [shell.transport.command(["cat", "--", path]).stdout for _ in range(40)]
            stop.set()
            writing.result()
        assert set(seen) <= contents


class TestPutTreeEverywhere:
    """`put_tree`, for every transport."""

    def test_nested_files_with_their_content_and_modes(self, far: Far, tmp_path: Path) -> None:
        source = tmp_path / "source"
        source.write_bytes(SEVERAL_MIB)
        entries = [
            TreeEntry("a", b"1"),
            TreeEntry("empty", b""),
            TreeEntry("run.sh", b"2", 0o700),
            TreeEntry("wide", b"w", 0o755),
            TreeEntry("deep/er/b", source, 0o400),
            TreeEntry("deep/" + "long" * 60, b"3"),
        ]
        path = far.path()
        far.transport.put_tree(entries, path)
        assert far.files(path) == {entry.name: entry.mode for entry in entries}
        expected = [SEVERAL_MIB if entry.source is source else entry.source for entry in entries]
        assert [far.read(f"{path}/{entry.name}") for entry in entries] == expected

    def test_hostile_names(self, far: Far) -> None:
        names = [*HOSTILE_NAMES, *(f"sub/{name}" for name in HOSTILE_NAMES), "a" * 255]
        path = far.path("tree's * $(x)")
        far.transport.put_tree([TreeEntry(name, name.encode()) for name in names], path)
        assert sorted(far.files(path)) == sorted(names)
        assert [far.read(f"{path}/{name}") for name in names] == [name.encode() for name in names]

    def test_an_existing_destination_is_left_as_it_is(self, far: Far) -> None:
        path = far.path()
        far.transport.put_tree([TreeEntry("a", b"first")], path)
        far.transport.put_tree([TreeEntry("a", b"second"), TreeEntry("b", b"")], path)
        assert far.files(path) == {"a": 0o600}
        assert far.read(f"{path}/a") == b"first"

    @pytest.mark.parametrize(
        "names",
        [
            ["/etc/passwd"],
            ["../a"],
            ["a/../../b"],
            ["a/.."],
            [".."],
            ["."],
            [""],
            ["./a"],
            ["a//b"],
            ["a/"],
            ["a", "a"],
            ["a", "a/b"],
            ["a/b/c", "a/b"],
            ["a\nb"],
            ["a\rb"],
            ["a\\b"],
            ["a\0b"],
            ["not utf-8 \udcff"],
            [".dagster-slurm.sha256"],
        ],
        ids=repr,
    )
    def test_refused_names(self, far: Far, names: list[str]) -> None:
        path = far.path()
        with pytest.raises(InvalidRequestError):
            far.transport.put_tree([TreeEntry(name, b"x") for name in names], path)
        assert far.files(path) == {}

    def test_generators_are_taken(self, far: Far) -> None:
        path = far.path()
        far.transport.put_tree((TreeEntry(str(n), b"%d" % n) for n in range(300)), path)
        assert len(far.files(path)) == 300


class TestPutTreeInARealFileSystem:
    """What a file system can refuse, and what is left behind."""

    def test_directories_are_private_and_missing_parents_are_made(self, shell: Far) -> None:
        path = shell.path("new/er/tree")
        shell.transport.put_tree([TreeEntry("sub/a", b"1", 0o755)], path)
        modes = [shell.mode(f"{path}{name}") for name in ("/..", "", "/sub", "/sub/a")]
        assert modes == [0o700, 0o700, 0o700, 0o755]

    def test_only_the_tree_is_left(self, shell: Far) -> None:
        parent = shell.directory()
        shell.transport.put_tree([TreeEntry("a", b"1")], f"{parent}/tree")
        assert shell.names(parent) == ["tree"]
        assert shell.names(f"{parent}/tree") == ["a"]

    def test_old_files_get_the_time_of_today(self, shell: Far, tmp_path: Path) -> None:
        old = tmp_path / "old"
        old.write_bytes(b"x")
        os.utime(old, (0, 0))
        path = shell.path()
        shell.transport.put_tree([TreeEntry("old", old)], path)
        age = shell.transport.run('echo $(($(date +%s) - $(stat -c %Y "$1/old")))', [path]).text
        assert abs(int(age)) < 600

    @pytest.mark.parametrize(("files", "place"), [(1, 0), (2, 0), (2, 1), (3, 2), (4, 3)])
    def test_content_that_changes_while_it_is_sent_is_not_published(self, shell: Far, files: int, place: int) -> None:
        parent = shell.directory()
        entries = [TreeEntry(f"{number}", b"%d" % number) for number in range(files)]
        # Small ones are read only once.
        entries[place] = TreeEntry("changing", changing_file(SEVERAL_MIB, SEVERAL_MIB[::-1]))
        with pytest.raises(TransferCorruptedError):
            shell.transport.put_tree(entries, f"{parent}/tree")
        assert shell.names(parent) == []

    @pytest.mark.parametrize("second", [b"short", SEVERAL_MIB * 2], ids=["shrunk", "grown"])
    def test_size_that_changes_while_it_is_sent_disturbs_nothing(self, shell: Far, second: bytes) -> None:
        parent = shell.directory()
        with pytest.raises(InvalidRequestError, match="changed while it was sent"):
            shell.transport.put_tree([TreeEntry("a", changing_file(SEVERAL_MIB, second))], f"{parent}/tree")
        assert shell.transport.run("echo on").text == "on\n"
        eventually(lambda: shell.names(parent) == [])

    def test_one_of_several_at_once_wins_and_none_fails(self, shell: Far) -> None:
        parent = shell.directory()

        def put(number: int) -> None:
            entries = [TreeEntry("a", b"%d" % number), TreeEntry("b", b"%d" % number)]
            shell.transport.put_tree(entries, f"{parent}/tree")

        with ThreadPoolExecutor(4) as threads:
            list(threads.map(put, range(4)))
        assert shell.names(parent) == ["tree"]
        assert shell.names(f"{parent}/tree") == ["a", "b"]
        assert shell.read(f"{parent}/tree/a") == shell.read(f"{parent}/tree/b")

    def test_a_file_in_the_way(self, shell: Far) -> None:
        path = shell.path()
        shell.transport.put(b"x", path)
        with pytest.raises(RemoteStorageError, match=r"Not a directory|File exists") as caught:
            shell.transport.put_tree([TreeEntry("a", b"1")], f"{path}/tree")
        assert caught.value.hint


class TestReadFrom:
    """`read_from`, for every transport."""

    @pytest.mark.parametrize(
        ("offset", "max_bytes", "expected"),
        [
            (0, 256, ALL_BYTES),
            (0, 10, ALL_BYTES[:10]),
            (100, 10, ALL_BYTES[100:110]),
            (250, 100, ALL_BYTES[250:]),
            (256, 10, b""),
            (1000, 10, b""),
            (0, 0, b""),
        ],
    )
    def test_offsets(self, far: Far, offset: int, max_bytes: int, expected: bytes) -> None:
        path = far.path()
        far.transport.put(ALL_BYTES, path)
        assert far.transport.read_from(path, offset, max_bytes) == expected

    def test_a_missing_file_is_empty(self, far: Far) -> None:
        assert far.transport.read_from(far.path(), 0, 10) == b""
        assert far.transport.read_from(far.path("missing/file"), 5, 10) == b""

    def test_pieces_of_a_large_file_make_the_whole(self, far: Far) -> None:
        path = far.path()
        far.transport.put(SEVERAL_MIB, path)
        pieces: list[bytes] = []
        while piece := far.transport.read_from(path, sum(map(len, pieces)), 1_000_003):
            pieces.append(piece)
        assert b"".join(pieces) == SEVERAL_MIB


class TestStorageFaults:
    """A directory that cannot be used says which, and what to do."""

    @pytest.fixture
    def full(self, shell: Far, request: pytest.FixtureRequest) -> Iterator[str]:
        """A directory with 1 MiB of space."""
        with ExitStack() as cleanup:
            if isinstance(shell.transport, OpenSSHTransport):
                sandbox: Sandbox = request.getfixturevalue("sandbox")
                yield str(cleanup.enter_context(sandbox.small_filesystem(1)))
            else:
                yield cleanup.enter_context(mounted("size=1m"))

    @pytest.fixture
    def unwritable(self, shell: Far) -> Iterator[str]:
        if isinstance(shell.transport, OpenSSHTransport):
            yield "/usr"
        else:
            with mounted("ro") as path:
                yield path

    @pytest.mark.parametrize("tree", [False, True], ids=["put", "put_tree"])
    def test_no_space(self, shell: Far, full: str, tree: bool) -> None:
        with pytest.raises(RemoteStorageError, match=r"No space left|file system is full|Wrote only") as caught:
            put_any(shell.transport, f"{full}/it", SEVERAL_MIB, tree=tree)
        assert_tells_what_to_do(caught.value, f"{full}/it", shell)
        assert shell.names(full) == []
        put_any(shell.transport, f"{full}/it", b"small", tree=tree)

    @pytest.mark.parametrize("tree", [False, True], ids=["put", "put_tree"])
    def test_no_permission_or_read_only(self, shell: Far, unwritable: str, tree: bool) -> None:
        path = f"{unwritable}/dagster-slurm-test"
        with pytest.raises(RemoteStorageError, match=r"Permission denied|Read-only file system") as caught:
            put_any(shell.transport, path, b"x", tree=tree)
        assert_tells_what_to_do(caught.value, path, shell)


def put_any(transport: Transport, path: str, content: bytes, *, tree: bool) -> None:
    if tree:
        transport.put_tree([TreeEntry("file", content)], path)
    else:
        transport.put(content, path)


def assert_tells_what_to_do(error: RemoteStorageError, path: str, far: Far) -> None:
    assert path in error.message
    assert error.hint
    assert error.host == far.transport.host
    assert not error.transient


@contextmanager
def mounted(options: str) -> Iterator[str]:
    """A tmpfs of this machine."""
    if os.geteuid() != 0:
        pytest.skip("mounting a small file system needs root")
    with tempfile.TemporaryDirectory() as path:
        subprocess.run(["mount", "-t", "tmpfs", "-o", options, "dagster-slurm-test", path], check=True)
        try:
            yield path
        finally:
            subprocess.run(["umount", "--lazy", path], check=True)
