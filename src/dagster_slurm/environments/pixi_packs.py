"""The packs of this machine: what was packed before, as lists of files kept by content, and what unpacks it."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path

from dagster_slurm.cluster.content_store import Part
from dagster_slurm.environments import local_store, pixi_pack, sources
from dagster_slurm.environments.pixi_lock import Kind, LockedPackage
from dagster_slurm.environments.pixi_pack import Contents, Expected, Member
from dagster_slurm.environments.recipe import Pack, Tell
from dagster_slurm.environments.target import Target, version_of
from dagster_slurm.errors import EnvironmentBuildError
from dagster_slurm.transport.shell import quote, shell_file

# From this one on, pixi-unpack takes a directory.
_TAKES_DIRECTORY = (0, 7, 6)
_SMALL_BYTES = 1024


def kept(name: str) -> Contents | None:
    """What was packed before under a name; None if it was not, or is not whole any more."""
    path = local_store.directory() / "packs" / name
    try:
        found = _read(path)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if any(local_store.stored(each.sha256) is None for each in found.files):
        local_store.forget(f"packs/{name}")
        return None
    path.touch()
    return found


def keep(make: Callable[[Path], Contents], name: Callable[[], str]) -> Contents:
    """Pack, and keep it.

    Args:
        make: Packs in the directory that it is given; every file is there afterwards under the SHA-256 of its content.
        name: Says afterwards under which name; nothing if what it is made of has changed meanwhile.

    Raises:
        EnvironmentBuildError: It cannot be packed; nothing is kept.
    """
    with local_store.workplace() as work:
        made = make(work)
        for sha256 in {each.sha256 for each in made.files}:
            local_store.store(work / sha256, sha256)
    if made.unpacker:
        _write(_unpacker_name(made.platform, made.version), made.unpacker)
    if found := name():
        _write(f"packs/{found}", made)
    return made


def _write(name: str, said: Contents | Member) -> None:
    text = json.dumps(asdict(said))

    def write(part: Path) -> None:
        part.write_text(text, encoding="utf-8")

    local_store.forget(name)
    local_store.kept(name, write)


def _read(path: Path) -> Contents:
    said = json.loads(path.read_text(encoding="utf-8"))
    unpacker = Member(**said["unpacker"]) if said["unpacker"] else None
    return Contents(tuple(Member(**each) for each in said["members"]), said["platform"], said["version"], unpacker)


def discard(name: str) -> None:
    """Forget what is kept under a name, its files and the program that it brought: one of them does not work."""
    found = kept(name)
    local_store.forget(f"packs/{name}")
    if found is None:
        return
    for each in found.files:
        local_store.forget(f"content/{each.sha256}")
    if found.unpacker:
        local_store.forget(_unpacker_name(found.platform, found.version))


def _unpacker_name(platform: str, version: str) -> str:
    return f"unpackers/{platform}/{'.'.join(map(str, version_of(version))) or 'unknown'}"


def unpackers(platform: str) -> list[tuple[tuple[int, ...], Member]]:
    """The programs that unpack for a platform and are kept here, by version, the newest first."""
    found = []
    for path in (local_store.directory() / "unpackers" / platform).glob("[!.]*"):
        try:
            program = Member(**json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            continue
        if local_store.stored(program.sha256):
            path.touch()
            found.append((version_of(path.name), program))
    return sorted(found, key=lambda each: each[0], reverse=True)


def pack_of(contents: Contents, target: Target) -> Pack:
    """What is sent of a pack, and how it is unpacked on the cluster.

    Raises:
        EnvironmentBuildError: There is nothing to unpack it with.
    """
    if contents.unpacker:
        version, program, path = version_of(contents.version), contents.unpacker, ""
    elif target.program:
        version, program, path = target.program.version, None, target.program.path
    else:
        programs = unpackers(target.platform)
        if not programs:
            raise EnvironmentBuildError(
                f"There is no pixi-unpack for {target.platform}: not in the pack, not on the PATH of the login node, "
                "and none of an earlier pack",
                hint="Pack with `--create-executable`, which brings it, or install it on the cluster: "
                "`pixi global install pixi-unpack`.",
            )
        (version, program), path = programs[0], ""
    parts = [_part(member) for member in contents.members]
    if program:
        parts.append(Part("pixi-unpack", program.sha256, program.size_bytes, partial(_content, program)))
    form = "directory" if version >= _TAKES_DIRECTORY else "tar"
    functions = shell_file("dagster_slurm.environments", "unpack_pixi.sh")
    return Pack(tuple(parts), f"{functions}unpack_pixi {form} {quote(path) if path else ''}\n")


def _part(member: Member) -> Part:
    if member.is_package or member.size_bytes < _SMALL_BYTES:
        return Part(f"pack/{member.name}", member.sha256, member.size_bytes, partial(_content, member))
    # The files about packages are others after each change.
    return Part.of(f"pack/{member.name}.gz", gzip.compress(_content(member).read_bytes(), mtime=0))


def _content(member: Member) -> Path:
    found = local_store.stored(member.sha256)
    if found is None:
        raise EnvironmentBuildError(
            f"{member.name} has disappeared from {local_store.directory()}", hint="The next run packs it anew."
        )
    return found


@contextmanager
def cache_of(cache: Path, expected: Mapping[Path, str], tell: Tell) -> Iterator[None]:
    """Let one packer at a time use its cache, without those files in it that are not what is expected.

    Args:
        cache: The directory.
        expected: The checksum by path in it, as the lock has it.
        tell: Gets what is done.
    """
    with local_store.one_at_a_time(f"pixi {cache}", lambda: tell("Another process packs; waiting")):
        for name, checksum in expected.items():
            path = cache / name
            # The packer takes a file that is there as it is: a damaged one, or a local wheel of before.
            if path.is_file() and checksum and not sources.has_checksum(path, checksum):
                tell(f"{path} is not what the lock names; it is fetched again")
                path.unlink()
        yield


def cached_name(package: LockedPackage) -> Path:
    """Where a packer's cache has a package (pixi-pack 0.7.10)."""
    return Path("pypi" if package.kind is Kind.WHEEL else package.subdir, package.filename)


def taken_apart(path: Path, work: Path, expected: Sequence[Expected], target: Target) -> Contents:
    """The files of a pack, checked; they lie in `work` under the SHA-256 of their contents.

    Raises:
        EnvironmentBuildError: It is not whole, or not what it has to be.
    """
    contents = pixi_pack.take_apart(path, work)
    pixi_pack.check(contents, expected, platform=target.platform, path=path)
    return contents


def keep_once(cache: Path, expected: Mapping[Path, str]) -> None:
    """Have what the packer keeps be the same files as what is kept here."""
    for name, checksum in expected.items():
        if (cache / name).is_file():
            local_store.share(cache / name, checksum)


def without_packs(project: Path, paths: Iterable[Path]) -> list[Path]:
    """The files but for packs, which a task leaves in the project."""
    listed = list(paths)
    above = {parent for path in listed for parent in path.parents if parent != Path()}
    packs = {each for each in above if pixi_pack.looks_like_pack(project / each)}
    packs |= {each for each in listed if each.suffix in (".sh", ".tar") and pixi_pack.looks_like_pack(project / each)}
    return [path for path in listed if packs.isdisjoint((path, *path.parents))]
