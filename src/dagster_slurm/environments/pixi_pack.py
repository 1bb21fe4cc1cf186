"""What pixi-pack has made, taken apart into its files, each known by its content, and checked.

A pack is a directory, a tar archive of it, or a shell script with that archive and the program `pixi-unpack` in base64.
Source: pixi-pack 0.7.10, https://github.com/Quantco/pixi-pack (its `pack.rs`, and the header of what unpacks itself).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import io
import json
import re
import struct
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any
from urllib.parse import unquote

from dagster_slurm.errors import EnvironmentBuildError

FORMAT = "1"
ABOUT_NAME = "pixi-pack.json"
_SCRIPT = b"#!"
_HEADER_ENDS = b"\n@@END_HEADER@@\n"
_ARCHIVE_ENDS = b"@@END_ARCHIVE@@\n"
_HEADER_BYTES = 64 << 10
# Of base64, whose groups have four characters.
_BLOCK_BYTES = 4 << 20
_END_OF_TAR = bytes(2 * tarfile.BLOCKSIZE)
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+!~=@%-]*(?:/[A-Za-z0-9_][A-Za-z0-9_.+!~=@%-]*)*")
_PACKAGES = (".conda", ".tar.bz2", ".whl")


@dataclass(frozen=True)
class Member:
    """A file of a pack.

    Args:
        name: Where it lies in the pack.
        sha256: Of its content, in hexadecimal.
        size_bytes: Of its content.
        md5: Of its content, since some locks have no other checksum.
    """

    name: str
    sha256: str
    size_bytes: int
    md5: str = ""

    @property
    def is_package(self) -> bool:
        """Whether it is a package, and not a file about packages."""
        return self.name.endswith(_PACKAGES)


@dataclass(frozen=True)
class Contents:
    """What a pack holds.

    Args:
        members: Its files.
        platform: What it is for, by conda's name.
        version: Of the program that made it.
        unpacker: The program that unpacks it, if it brought one; its name is `pixi-unpack`.
    """

    members: tuple[Member, ...]
    platform: str
    version: str
    unpacker: Member | None = None

    @property
    def files(self) -> tuple[Member, ...]:
        """Its files, and the program."""
        return (*self.members, *((self.unpacker,) if self.unpacker else ()))


@dataclass(frozen=True)
class Expected:
    """A file that has to be in a pack.

    Args:
        member: Where; only its last part has to be right if `anywhere`.
        checksum: Of its content: its SHA-256, or `md5:` and that; empty if that is not known.
        what: Who says so, for the error.
        anywhere: Whether the directory is not known.
    """

    member: str
    checksum: str
    what: str
    anywhere: bool = False


def looks_like_pack(path: Path) -> bool:
    """Whether a file or directory is one that pixi-pack makes, by its first bytes."""
    if path.is_dir():
        return (path / ABOUT_NAME).is_file()
    with path.open("rb") as file:
        head = file.read(_HEADER_BYTES if file.read(2) == _SCRIPT else tarfile.BLOCKSIZE)
    # The first of its names, in order.
    return _HEADER_ENDS in head or head[:8] in (b"annel\0\0\0", b"annel/\0\0")


def take_apart(path: Path, into: Path) -> Contents:
    """Write every file of a pack to a directory, under the SHA-256 of its content.

    Args:
        path: A self-extracting file, a tar archive, or a directory.
        into: A directory that is there.

    Raises:
        EnvironmentBuildError: It is none, or it is not whole.
    """
    try:
        if path.is_dir():
            return _contents(_of_directory(path, into), into, None)
        with path.open("rb") as file:
            if file.read(len(_SCRIPT)) == _SCRIPT:
                return _of_script(file, into)
            file.seek(0)
            return _contents(_of_tar(file, into), into, None)
    except _BrokenError as error:
        raise _broken(path, str(error)) from None
    except tarfile.TarError as error:
        raise _broken(path, f"the archive is cut off or damaged ({error})") from error


class _BrokenError(Exception):
    """What is wrong with a pack."""


def _broken(path: Path, problem: str) -> EnvironmentBuildError:
    return EnvironmentBuildError(
        f"{path} is not a whole pack of pixi-pack: {problem}",
        hint="Nothing was sent, and nothing of it is kept. Pack it again; look whether the disk is full.",
    )


def _of_directory(path: Path, into: Path) -> list[Member]:
    members = []
    for found in sorted(path.rglob("*")):
        if found.is_symlink() or not (found.is_file() or found.is_dir()):
            raise _BrokenError(f"{found.relative_to(path)} is neither a file nor a directory")
        if found.is_file():
            with found.open("rb") as content:
                members.append(_kept(found.relative_to(path).as_posix(), content, into))
    return members


def _of_script(file: IO[bytes], into: Path) -> Contents:
    file.seek(0)
    head = file.read(_HEADER_BYTES)
    mark = head.find(_HEADER_ENDS)
    if mark < 0:
        raise _BrokenError("it is a script without the line @@END_HEADER@@")
    begin = mark + len(_HEADER_ENDS)
    while head[begin : begin + 1] == b"\n":
        begin += 1
    file.seek(begin)
    archive = _Decoded(file)
    members = _of_tar(archive, into)
    archive.drain()
    if file.readline() != _ARCHIVE_ENDS:
        raise _BrokenError("the line @@END_ARCHIVE@@ is missing")
    program = _decoded(file.read().rstrip(b"\n"))
    _check_program(program)
    return _contents(members, into, _kept("pixi-unpack", io.BytesIO(program), into))


def _of_tar(file: IO[bytes] | _Decoded, into: Path) -> list[Member]:
    members = []
    watched = _Watched(file)
    with tarfile.open(fileobj=watched, mode="r|", bufsize=_BLOCK_BYTES) as tar:  # type: ignore[call-overload]
        for info in tar:
            if info.isdir():
                continue
            content = tar.extractfile(info) if info.isreg() else None
            if content is None:
                raise _BrokenError(f"{info.name!r} is neither a file nor a directory")
            members.append(_kept(info.name.removeprefix("./"), content, into, size_bytes=info.size))
    while watched.read(_BLOCK_BYTES):
        pass
    if not members:
        raise _BrokenError("it is empty")
    if watched.tail != _END_OF_TAR:
        # tarfile takes what ends between two files for whole.
        raise _BrokenError("the archive is cut off")
    return members


def _kept(name: str, content: IO[bytes], into: Path, *, size_bytes: int | None = None) -> Member:
    if not _NAME.fullmatch(name):
        raise _BrokenError(f"{name!r} is not a name that a file of a pack has")
    digest, weak, size = hashlib.sha256(), hashlib.md5(usedforsecurity=False), 0
    part = into / ".part"
    with part.open("wb") as out:
        while block := content.read(_BLOCK_BYTES):
            digest.update(block)
            weak.update(block)
            out.write(block)
            size += len(block)
    if size_bytes is not None and size != size_bytes:
        raise _BrokenError("the archive is cut off")
    part.replace(into / digest.hexdigest())
    return Member(name, digest.hexdigest(), size, weak.hexdigest())


class _Watched:
    """A stream whose last bytes are known."""

    def __init__(self, file: IO[bytes] | _Decoded) -> None:
        self._file = file
        self.tail = b""

    def read(self, size: int) -> bytes:
        block = self._file.read(size)
        self.tail = (self.tail + block[-len(_END_OF_TAR) :])[-len(_END_OF_TAR) :]
        return block


class _Decoded:
    """What stands in base64 from where a file is to the end of the line."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._rest = b""
        self._is_over = False

    def read(self, size: int) -> bytes:
        while len(self._rest) < size and not self._is_over:
            self._rest += self._block()
        block, self._rest = self._rest[:size], self._rest[size:]
        return block

    def drain(self) -> None:
        """Go to the end of the line."""
        while self.read(_BLOCK_BYTES):
            pass

    def _block(self) -> bytes:
        text = self._file.read(_BLOCK_BYTES)
        line, newline, rest = text.partition(b"\n")
        if newline:
            self._file.seek(-len(rest), io.SEEK_CUR)
        self._is_over = bool(newline) or len(text) < _BLOCK_BYTES
        return _decoded(line, is_last=self._is_over)


def _decoded(text: bytes, *, is_last: bool = True) -> bytes:
    try:
        decoded = base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise _BrokenError(f"its base64 is cut off or damaged ({error})") from error
    if len(text) % 4 or not (is_last or len(decoded) == len(text) // 4 * 3):
        raise _BrokenError("its base64 is cut off")
    return decoded


def _check_program(program: bytes) -> None:
    """Refuse a program that is cut off. It has no checksum, but its end shows."""
    if not program:
        raise _BrokenError("the program that unpacks it is missing")
    if program.startswith(b"\x7fELF"):
        whole = len(program) >= _elf_bytes(program)
    else:
        whole = program.startswith(_SCRIPT) and program.endswith(b"\n")
    if not whole:
        raise _BrokenError("the program that unpacks it is cut off")


def _elf_bytes(program: bytes) -> int:
    """How long a program has to be by its headers: up to its last segment and section header (elf(5), of 64 bit)."""
    if len(program) < 64 or program[4] != 2:
        return len(program) if program[4:5] == b"\x01" else 64
    order = "<" if program[5] == 1 else ">"
    segments, sections = struct.unpack_from(f"{order}QQ", program, 32)
    segment_size, segment_count, section_size, section_count = struct.unpack_from(f"{order}HHHH", program, 54)
    ends = [64, sections + section_size * section_count]
    for number in range(segment_count):
        at = segments + number * segment_size
        if at + 40 > len(program):
            return int(at + segment_size)
        offset, _, _, size = struct.unpack_from(f"{order}QQQQ", program, at + 8)
        ends.append(offset + size)
    return int(max(ends))


def _contents(members: Sequence[Member], into: Path, unpacker: Member | None) -> Contents:
    named = {member.name: member for member in members}
    if len(named) != len(members):
        raise _BrokenError("a file stands in it twice")
    if ABOUT_NAME not in named:
        raise _BrokenError(f"it has no {ABOUT_NAME}")
    about = _json(ABOUT_NAME, into / named[ABOUT_NAME].sha256)
    if about.get("version") != FORMAT:
        raise _BrokenError(
            f"it is of format {about.get('version')!r}, and {FORMAT!r} is known here; a newer dagster-slurm may know it"
        )
    _check_indexes(named, into)
    version, platform = str(about.get("pixi-pack-version", "")), str(about.get("platform", ""))
    return Contents(tuple(members), platform, version, unpacker)


def _check_indexes(named: Mapping[str, Member], into: Path) -> None:
    """Every conda package stands in the index of its directory, with its checksum, and the other way round."""
    for directory in sorted({name.rpartition("/")[0] for name in named if name.startswith("channel/")}):
        index = f"{directory}/repodata.json"
        if index not in named:
            raise _BrokenError(f"it has no {index}")
        found = _json(index, into / named[index].sha256)
        listed = {**_records(found, "packages", index), **_records(found, "packages.conda", index)}
        there = {name.rpartition("/")[2]: member for name, member in named.items() if _is_in(name, directory)}
        for name in sorted({*listed, *there}):
            if name not in listed or name not in there:
                raise _BrokenError(f"{directory}/{name} is {'not in its index' if name in there else 'missing'}")
            sha256 = listed[name].get("sha256")
            if sha256 is not None and sha256 != there[name].sha256:
                raise _BrokenError(f"{directory}/{name} has not the SHA-256 that its index has")


def _is_in(name: str, directory: str) -> bool:
    return name.rpartition("/")[0] == directory and name.endswith(_PACKAGES)


def _records(index: Mapping[str, Any], key: str, name: str) -> Mapping[str, Mapping[str, Any]]:
    found = index.get(key, {})
    if not isinstance(found, dict) or not all(isinstance(each, dict) for each in found.values()):
        raise _BrokenError(f"{name} is damaged")
    return found


def _json(name: str, path: Path) -> Mapping[str, Any]:
    try:
        found = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise _BrokenError(f"{name} is damaged ({error})") from error
    if not isinstance(found, dict):
        raise _BrokenError(f"{name} is damaged")
    return found


def check(contents: Contents, expected: Sequence[Expected], *, platform: str, path: Path) -> None:
    """Refuse a pack that is not what it has to be. Pure.

    Args:
        contents: What it holds.
        expected: What has to be in it.
        platform: What it has to be for.
        path: Its path, for the error.

    Raises:
        EnvironmentBuildError: It is for another platform, or lacks a file, or has another one of its name.
    """
    if contents.platform != platform:
        raise EnvironmentBuildError(
            f"{path} was packed for {contents.platform or 'no platform'}, and {platform} is needed",
            hint="`{platform}` in `pack_cmd` is filled in with what is needed.",
        )
    for each in expected:
        found = list(_found(contents, each))
        if not found:
            raise EnvironmentBuildError(
                f"{path} lacks {each.member}, which {each.what}",
                hint="Nothing was sent. Does `pack_cmd` pack this environment, from this lock?",
            )
        checksums = {member.sha256 for member in found} | {f"md5:{member.md5}" for member in found}
        if each.checksum and each.checksum not in checksums:
            raise EnvironmentBuildError(
                f"{each.member} of {path} is not the one that {each.what}: its SHA-256 is {found[0].sha256}, and not "
                f"{each.checksum}",
                hint="Nothing was sent, and nothing of it is kept. Look at where it comes from, or lock anew.",
            )


def _found(contents: Contents, each: Expected) -> Iterator[Member]:
    for member in contents.members:
        # A `+` of a version may stand as %2B, as in the address that it came from.
        name = unquote(member.name)
        if (name.rpartition("/")[2] if each.anywhere else name) == each.member:
            yield member
