"""Cuts a large file where its content says: what is the same in another file becomes the same pieces. Pure.

Where a piece ends depends on the bytes around that place alone, and not on what lies before: after something has been
put in front, cuts fall into step again at the first place where both files had one (content-defined chunking).
"""

from __future__ import annotations

import hashlib
import mmap
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from dagster_slurm.environments.recipe import Part


@dataclass(frozen=True)
class Sizes:
    """How a file is cut.

    Args:
        mark: A piece ends behind a match of it. Short, of fixed length, and such that matches cannot overlap.
        mark_bytes: The length of a match.
        minimum_bytes: Of a piece, but for the last.
        maximum_bytes: Of a piece.
    """

    mark: re.Pattern[bytes]
    mark_bytes: int
    minimum_bytes: int
    maximum_bytes: int


# One place in 2**20 of compressed bytes matches. Two letters that are fixed let `re` search in step with memory, and
# all three are printable so that text (base64 among it) has such places, too.
LARGE = Sizes(re.compile(rb"Q7[A-P]"), 3, 256 << 10, 8 << 20)


def ends(content: bytes | mmap.mmap, begin: int, end: int, sizes: Sizes = LARGE) -> Iterator[int]:
    """Where pieces end, in order; the last one ends at `end`."""
    while begin < end:
        limit = min(begin + sizes.maximum_bytes, end)
        found = sizes.mark.search(content, begin + sizes.minimum_bytes - sizes.mark_bytes, limit)
        begin = found.end() if found else limit
        yield begin


def cut(path: Path, begin: int, end: int, *, prefix: str = "pack", sizes: Sizes = LARGE) -> tuple[Part, ...]:
    """The pieces of a range of a file, which has to stay as it is.

    Args:
        path: The file.
        begin: Of the range, in bytes.
        end: Of the range, in bytes.
        prefix: Of the names of the pieces: `pack.00000` and on, which sort as they follow each other.
        sizes: How it is cut.
    """
    if begin == end:
        return ()
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        pieces = []
        for number, piece_end in enumerate(ends(content, begin, end, sizes)):
            with memoryview(content) as view, view[begin:piece_end] as piece:
                digest = hashlib.sha256(piece).hexdigest()
            fetch = partial(_read, path, begin, piece_end)
            pieces.append(Part(f"{prefix}.{number:05d}", digest, piece_end - begin, fetch))
            begin = piece_end
    return tuple(pieces)


def _read(path: Path, begin: int, end: int) -> bytes:
    with path.open("rb") as file:
        file.seek(begin)
        return file.read(end - begin)
