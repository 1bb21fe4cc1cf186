"""What `pixi-pack --create-executable` makes, taken apart so that what has not changed in it stays the same bytes.

It is a shell script, a line of base64 (a tar archive with the packages), and a tool to unpack that. In base64 a package
reads otherwise when its offset is another one modulo 3, as after most changes of something before it, and is a third
longer. So the archive is sent as it is, and becomes that line again on the cluster, to the byte. A file of another make
is left alone. Source: pixi-pack's `header.sh`, and `create_self_extracting_executable` in its `pack.rs`.
"""

from __future__ import annotations

import binascii
import json
import mmap
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from dagster_slurm.environments.cutting import cut
from dagster_slurm.environments.recipe import Part

_ARCHIVE_BEGINS = b"\n@@END_HEADER@@\n"
_ARCHIVE_ENDS = b"\n@@END_ARCHIVE@@\n"
_BLOCK_CHARACTERS = 4 << 20
_AS_IT_IS, _BASE64 = "as it is", "base64"

# A stretch of the file: how it stands in there, and its size in bytes, decoded.
Stretch = tuple[str, int]


def take_apart(source: Path, target: Path) -> None:
    """Write a self-extracting file in the form that `parts` reads: a line that says what follows, and the stretches."""
    with source.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        where = _archive(content)
        if where is not None:
            with target.open("wb") as out, suppress(binascii.Error):
                _write_apart(content, *where, out)
                return
    with source.open("rb") as file, target.open("wb") as out:
        out.write(_line([(_AS_IT_IS, source.stat().st_size)]))
        shutil.copyfileobj(file, out, _BLOCK_CHARACTERS)


def _archive(content: mmap.mmap) -> tuple[int, int] | None:
    """Where the line of base64 begins and ends."""
    mark = content.find(_ARCHIVE_BEGINS)
    if mark < 0:
        return None
    begin = mark + len(_ARCHIVE_BEGINS)
    while content[begin : begin + 1] == b"\n":
        begin += 1
    end = content.find(b"\n", begin)
    known = end > begin and content[end : end + len(_ARCHIVE_ENDS)] == _ARCHIVE_ENDS
    return (begin, end) if known and (end - begin) % 4 == 0 else None


def _write_apart(content: mmap.mmap, begin: int, end: int, out: BinaryIO) -> None:
    padding = content[end - 2 : end].count(b"=")
    decoded_bytes = (end - begin) // 4 * 3 - padding
    rest = len(content) - end
    out.write(_line([(_AS_IT_IS, begin), (_BASE64, decoded_bytes), (_AS_IT_IS, rest)]))
    out.write(content[:begin])
    for block in _decoded(content, begin, end):
        out.write(block)
    for at in range(end, len(content), _BLOCK_CHARACTERS):
        out.write(content[at : at + _BLOCK_CHARACTERS])


def _decoded(content: mmap.mmap, begin: int, end: int) -> Iterator[bytes]:
    """The archive.

    Raises:
        binascii.Error: Encoded again it would not be the same line.
    """
    for at in range(begin, end, _BLOCK_CHARACTERS):
        block = content[at : min(at + _BLOCK_CHARACTERS, end)]
        decoded = binascii.a2b_base64(block)
        is_last = at + _BLOCK_CHARACTERS >= end
        if binascii.b2a_base64(decoded, newline=False) != block or not (is_last or not block.endswith(b"=")):
            raise binascii.Error
        yield decoded


def _line(stretches: list[Stretch]) -> bytes:
    return json.dumps(stretches).encode() + b"\n"


def parts(path: Path) -> tuple[tuple[Part, ...], str]:
    """What is sent of a file that `take_apart` has written, and the bash that prints what was taken apart."""
    with path.open("rb") as file:
        first = file.readline()
    found: list[Part] = []
    at, commands = len(first), []
    for number, (form, size) in enumerate(json.loads(first)):
        found += cut(path, at, at + size, prefix=f"pack-{number}")
        commands.append(f'cat "$parts"/pack-{number}.*{" | base64 -w 0" if form == _BASE64 else ""}')
        at += size
    return tuple(found), f"{{ {'; '.join(commands)}; }}"
