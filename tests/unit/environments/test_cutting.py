"""A file is cut where its content says."""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dagster_slurm.environments.cutting import LARGE, Sizes, cut, ends
from dagster_slurm.environments.recipe import Part

# The same at 1/256 of the size, where one place in 2**12 matches.
SMALL = Sizes(re.compile(rb"Q[A-P]"), 2, 1 << 10, 32 << 10)
SEEDS = st.integers(0, 2**32 - 1)


def contents(parts: Iterable[Part]) -> list[bytes]:
    fetched = [part.fetch() for part in parts]
    return [each if isinstance(each, bytes) else each.read_bytes() for each in fetched]


def pieces(content: bytes, sizes: Sizes = SMALL) -> list[bytes]:
    return [content[begin:end] for begin, end in pairwise([0, *ends(content, 0, len(content), sizes)])]


content = st.one_of(
    st.binary(max_size=200),
    st.builds(lambda seed, size: random.Random(seed).randbytes(size), SEEDS, st.integers(0, 200_000)),
    st.builds(bytes, st.integers(0, 200_000)),
    st.builds(lambda times: b"QAQB" * times, st.integers(0, 50_000)),
)


@given(content)
def test_the_pieces_are_the_whole(content: bytes) -> None:
    assert b"".join(pieces(content)) == content


@given(content)
def test_the_sizes_are_within_bounds(content: bytes) -> None:
    sizes = [len(piece) for piece in pieces(content)]
    assert all(SMALL.minimum_bytes <= size <= SMALL.maximum_bytes for size in sizes[:-1])
    assert all(0 < size <= SMALL.maximum_bytes for size in sizes[-1:])


@given(SEEDS, st.binary(min_size=1, max_size=5_000), st.integers(0, 300_000))
def test_what_is_put_in_changes_few_pieces(seed: int, added: bytes, where: int) -> None:
    before = random.Random(seed).randbytes(600_000)
    after = before[:where] + added + before[where:]
    old, new = set(pieces(before)), set(pieces(after))
    changed = sum(len(piece) for piece in new - old)
    # About 120 pieces of 5 KiB; the chains of cuts fall into step after a few of them.
    assert changed < 200_000
    assert len(new & old) > 40


def test_a_file_is_cut_in_a_range(tmp_path: Path) -> None:
    path = tmp_path / "file"
    whole = random.Random(1).randbytes(200_000)
    path.write_bytes(whole)
    parts = cut(path, 1_000, 150_000, prefix="pack", sizes=SMALL)
    assert [part.name for part in parts] == [f"pack.{number:05d}" for number in range(len(parts))]
    assert len(parts) > 10
    read = contents(parts)
    assert b"".join(read) == whole[1_000:150_000]
    assert [part.sha256 for part in parts] == [hashlib.sha256(each).hexdigest() for each in read]
    assert [part.size_bytes for part in parts] == [len(each) for each in read]


def test_nothing_has_no_pieces(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    assert cut(tmp_path / "file", 0, 0) == ()


@pytest.mark.parametrize(
    "alphabet", [bytes(range(256)), b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"]
)
def test_large_files_have_pieces_worth_a_transfer(alphabet: bytes) -> None:
    table = bytes(alphabet[number % len(alphabet)] for number in range(256))
    content = random.Random(2).randbytes(24 << 20).translate(table)
    found = [len(piece) for piece in pieces(content, LARGE)]
    assert 3 <= len(found) <= 96
    assert all(256 << 10 <= size <= 8 << 20 for size in found[:-1])
