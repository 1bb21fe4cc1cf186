"""The stream of a tree: what tarfile and sha256sum read back is what was put in."""

from __future__ import annotations

import io
import subprocess
import tarfile
from pathlib import Path, PurePosixPath

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from dagster_slurm.errors import InvalidRequestError
from dagster_slurm.transport import TreeEntry
from dagster_slurm.transport.content import BLOCK_BYTES, CHECKSUMS_NAME, archive_tree

parts = st.text(
    st.characters(exclude_categories=("Cs",), exclude_characters="\0/\n\r\\"), min_size=1, max_size=40
).filter(lambda part: part not in (".", ".."))
names = st.lists(parts, min_size=1, max_size=4).map("/".join)
modes = st.integers(0, 0o777)
trees = st.lists(st.tuples(names, st.binary(max_size=2000), modes), max_size=8, unique_by=lambda item: item[0])


def entries_of(tree: list[tuple[str, bytes, int]]) -> list[TreeEntry]:
    return [TreeEntry(name, content, mode) for name, content, mode in tree]


def is_a_tree(tree: list[tuple[str, bytes, int]]) -> bool:
    files = {name for name, _, _ in tree}
    above = {str(parent) for name in files for parent in PurePosixPath(name).parents}
    return not files & above


@given(trees)
def test_tarfile_reads_back_what_was_put_in(tree: list[tuple[str, bytes, int]]) -> None:
    assume(is_a_tree(tree))
    archive = archive_tree(entries_of(tree))
    stream = b"".join(archive.blocks())
    assert len(stream) == archive.size_bytes
    with tarfile.open(fileobj=io.BytesIO(stream)) as tar:
        members = tar.getmembers()
        read = [(member.name, tar.extractfile(member), member.mode) for member in members]
        seen = [(name, file.read() if file else None, mode) for name, file, mode in read]
    assert seen[0][0] == CHECKSUMS_NAME
    assert seen[1:] == tree


@given(
    names.map(lambda name: name[:150].rstrip("/")),
    st.sampled_from(["file", "directory", "link"]),
    modes,
    st.text("ab/é", max_size=130),
)
def test_heads_are_those_of_tarfile_however_long_the_name_is(name: str, kind: str, mode: int, link: str) -> None:
    """Python makes a whole one in 30 us, of which a tree of a thousand tasks has ten thousand."""
    info = tarfile.TarInfo(f"{name}/" if kind == "directory" else name)
    info.mode = mode
    entry = TreeEntry(info.name, b"" if kind != "file" else b"12", mode)
    if kind == "directory":
        info.type, info.mode = tarfile.DIRTYPE, 0o700
    elif kind == "link":
        info.type, info.linkname = tarfile.SYMTYPE, f"to{link}"
        entry = TreeEntry(name, mode=mode, link=f"to{link}")
    else:
        info.size = 2
    assert archive_tree([entry]).members[1][0] == info.tobuf(tarfile.PAX_FORMAT)


def test_a_symlink_has_neither_content_nor_a_checksum() -> None:
    stream = b"".join(archive_tree([TreeEntry("log/one", b"1"), TreeEntry("log/two", link="one")]).blocks())
    with tarfile.open(fileobj=io.BytesIO(stream)) as tar:
        sums, one, two = tar.getmembers()
        listed = tar.extractfile(sums)
        assert listed is not None and listed.read().endswith(b"  ./log/one\n")
        assert (one.isfile(), two.issym(), two.name, two.linkname) == (True, True, "log/two", "one")
    with pytest.raises(InvalidRequestError, match="is a symlink, and has content"):
        archive_tree([TreeEntry("two", b"1", link="one")])


@pytest.mark.parametrize("is_file", [False, True])
def test_large_content_is_never_copied_as_a_whole(tmp_path: Path, is_file: bool) -> None:
    """What reads a block cuts it into pieces: of one block of 60 MB each piece copied all that followed it."""
    whole = bytes(range(256)) * 8192
    (tmp_path / "large").write_bytes(whole)
    archive = archive_tree([TreeEntry("large", tmp_path / "large" if is_file else whole)])
    blocks = list(archive.blocks())
    assert max(map(len, blocks)) <= 3 * BLOCK_BYTES
    assert whole in b"".join(blocks)


@given(trees)
@settings(max_examples=40, deadline=None)
def test_tar_and_sha256sum_agree(tmp_path_factory: pytest.TempPathFactory, tree: list[tuple[str, bytes, int]]) -> None:
    assume(is_a_tree(tree))
    # Some file systems take no name beyond 255 bytes.
    assume(all(len(part.encode()) < 256 for name, _, _ in tree for part in name.split("/")))
    directory = tmp_path_factory.mktemp("tree")
    archive = archive_tree(entries_of(tree))
    subprocess.run(["tar", "-xf", "-", "-C", directory], input=b"".join(archive.blocks()), check=True)
    check = ["sha256sum", "--check", "--quiet", "--strict", "--", CHECKSUMS_NAME]
    done = subprocess.run(check, cwd=directory, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if tree:
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert {name: (directory / name).read_bytes() for name, _, _ in tree} == {name: data for name, data, _ in tree}


def test_files_are_read_when_they_are_sent(tmp_path: Path) -> None:
    source = tmp_path / "big"
    source.write_bytes(b"x" * 1_000_000)
    archive = archive_tree([TreeEntry("big", source)])
    assert max(map(len, archive.blocks())) < 1_000_000
    assert sum(map(len, archive.blocks())) == archive.size_bytes


@pytest.mark.parametrize("after", [b"", b"shorter", b"x" * 3_000_000], ids=["empty", "shorter", "longer"])
def test_a_file_that_changed_its_size_never_gives_more_than_announced(tmp_path: Path, after: bytes) -> None:
    source = tmp_path / "file"
    source.write_bytes(b"x" * 1_000_000)
    archive = archive_tree([TreeEntry("file", source)])
    source.write_bytes(after)
    sent = 0
    with pytest.raises(InvalidRequestError, match="changed"):
        for block in archive.blocks():
            sent += len(block)
    assert sent <= archive.size_bytes


def test_empty_directories(tmp_path: Path) -> None:
    deep = "deep/" * 30
    archive = archive_tree([TreeEntry("claim/"), TreeEntry("a/b", b"1"), TreeEntry(deep), TreeEntry("a/c/")])
    subprocess.run(["tar", "-xf", "-", "-C", tmp_path], input=b"".join(archive.blocks()), check=True)
    made = sorted(path for path in tmp_path.rglob("*") if path.is_dir() and not any(path.iterdir()))
    assert made == sorted(tmp_path / name for name in ("claim", deep, "a/c"))
    assert {path.stat().st_mode & 0o777 for path in made} == {0o700}


@pytest.mark.parametrize(
    "entries",
    [
        [TreeEntry("a/", b"x")],
        [TreeEntry("a/"), TreeEntry("a", b"x")],
        [TreeEntry("../a/")],
        [TreeEntry("/")],
        [TreeEntry("a//")],
    ],
)
def test_no_directory_like_that(entries: list[TreeEntry]) -> None:
    with pytest.raises(InvalidRequestError):
        archive_tree(entries)


@given(st.text(max_size=12) | st.from_regex(r"[a./\\\n]{0,8}", fullmatch=True))
def test_no_name_leaves_the_tree(name: str) -> None:
    try:
        archive = archive_tree([TreeEntry(name, b"x")])
    except InvalidRequestError:
        return
    path = PurePosixPath("/root", name)
    assert path.is_relative_to("/root") and ".." not in path.parts and str(path) == f"/root/{name}"
    assert archive.members[-1][1].name == name
