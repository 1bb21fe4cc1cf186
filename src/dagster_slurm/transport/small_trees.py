"""Small trees of files as requests: one by itself, or many in one stream."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from uuid import uuid4

from dagster_slurm.transport.archive import archive_tree
from dagster_slurm.transport.base import TreeEntry
from dagster_slurm.transport.shell import shell_file

_SMALL_BYTES = 256 << 10


@dataclass(frozen=True)
class SmallTree:
    """Files that are to become a directory.

    Args:
        files: What it is to hold.
        destination: Its absolute path.
    """

    files: Sequence[TreeEntry]
    destination: str

    @property
    def is_small(self) -> bool:
        """Whether others may wait for it, and whether it may be held in memory."""
        try:
            sizes = [
                len(each.source) if isinstance(each.source, bytes) else each.source.stat().st_size
                for each in self.files
            ]
        except OSError:
            # Whoever reads the files says what is wrong with them.
            return False
        return sum(sizes) <= _SMALL_BYTES

    def below(self, directory: str) -> Iterator[TreeEntry]:
        """Its files, in a directory of a larger tree."""
        return (replace(each, name=f"{directory}/{each.name}") for each in self.files)


@dataclass(frozen=True)
class TreeRequest:
    """What is to be run for trees."""

    script: str
    args: tuple[str, ...]
    stdin: bytes


def one_tree(tree: SmallTree) -> TreeRequest:
    """The request that puts one tree.

    Raises:
        InvalidRequestError: A name cannot be sent; see `archive_tree`.
    """
    archive = archive_tree(tree.files)
    args = (tree.destination, archive.checksums_name, str(len(tree.files)))
    return TreeRequest(_script("put_tree.sh"), args, b"".join(archive.blocks()))


def many_trees(trees: Sequence[SmallTree]) -> TreeRequest:
    """The request that puts several trees of one file system; if it fails, each is to be put by itself.

    Raises:
        InvalidRequestError: A name cannot be sent.
    """
    archive = archive_tree([entry for number, tree in enumerate(trees, start=1) for entry in tree.below(str(number))])
    # As put_tree.sh names what is not whole; only of digits, as a process id is.
    part = f"{trees[0].destination}.part.{uuid4().int}"
    args = (part, archive.checksums_name, *(tree.destination for tree in trees))
    return TreeRequest(_script("put_trees.sh"), args, b"".join(archive.blocks()))


def _script(name: str) -> str:
    return shell_file("dagster_slurm.transport.scripts", name)
