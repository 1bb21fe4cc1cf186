"""The directory for runs: its file system, the room in it, and whether it can be written."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from dagster_slurm.doctor.finding import Finding, fine, from_error, warning, wrong
from dagster_slurm.doctor.world import Facts, World, read_facts
from dagster_slurm.errors import ConfigurationError, TransportTimeoutError
from dagster_slurm.text import counted, size_words
from dagster_slurm.transport import CompletedCommand
from dagster_slurm.transport.shell_transport import storage_fault

SPACE, WRITING = "space", "writing"
_GIB = 1 << 30
# Less than a run needs for its own files.
_NOTHING_BYTES = 1 << 20
_FEW_INODES = 0.01
_REMEDY = "Free space there, or choose another directory with SLURM_REMOTE_BASE."


@dataclass(frozen=True)
class Room:
    """What `df` says of a directory.

    Args:
        file_system: Its type, such as `nfs4`.
        mount: Where it is mounted.
        size_bytes: Its size.
        free_bytes: What this user may still write.
        inodes: How many files it can hold; None if it has no such limit.
        free_inodes: How many more.
    """

    file_system: str
    mount: str
    size_bytes: int
    free_bytes: int
    inodes: int | None
    free_inodes: int | None


# Paths have up to 4096 bytes.
_LONGEST_LINE = 5000


def parse_room(blocks: str, inodes: str) -> Room | None:
    """Read a line of `df -PTk` and one of `df -Pi`; None if the first is not one."""
    if max(len(blocks), len(inodes)) > _LONGEST_LINE:
        return None
    row = re.fullmatch(r".+?\s+(\S+)\s+(\d{1,18})\s+\d+\s+(-?\d{1,18})\s+\S+\s+(/.*)", blocks, re.ASCII)
    if row is None:
        return None
    files = re.fullmatch(r".+?\s+(\d{1,18})\s+\d+\s+(\d{1,18})\s+\S+\s+/.*", inodes, re.ASCII)
    total, free = (int(files[1]), int(files[2])) if files else (0, 0)
    # btrfs and some network file systems tell 0 of 0.
    return Room(
        file_system=row[1],
        mount=row[4],
        size_bytes=int(row[2]) * 1024,
        free_bytes=max(0, int(row[3])) * 1024,
        inodes=total or None,
        free_inodes=free if total else None,
    )


@dataclass(frozen=True)
class Quota:
    """One line of `quota -w` or `lfs quota`: of blocks (KiB) or of files; 0 is no limit."""

    file_system: str
    what: str
    used: int
    soft: int
    hard: int

    @property
    def is_full(self) -> bool:
        """Whether nothing more can be written."""
        return 0 < self.hard <= self.used

    @property
    def is_over(self) -> bool:
        """Whether the grace period runs."""
        return 0 < self.soft < self.used

    def __str__(self) -> str:
        return f"{self.used:,} of {self.hard or self.soft:,} {self.what} on {self.file_system}"


def parse_quotas(lines: Sequence[str]) -> list[Quota]:
    """Read the tables of `quota -w` (quota(1)) and `lfs quota`, which have the same columns; those with a limit.

    "FILESYSTEM BLOCKS QUOTA LIMIT [GRACE] FILES QUOTA LIMIT [GRACE]"; a star marks what is over. A long name of a
    file system may stand in a line of its own.
    """
    quotas = []
    for line in re.sub(r"\n[ \t]+(?=\d)", " ", "\n".join(lines)).splitlines():
        words = line.split()
        numbers = [int(word.rstrip("*")) for word in words[1:] if re.fullmatch(r"\d{1,18}\*?", word, re.ASCII)]
        if len(numbers) >= 6 and words[0].lower() != "disk":
            quotas += [Quota(words[0], "KiB", *numbers[:3]), Quota(words[0], "files", *numbers[3:6])]
    return [quota for quota in quotas if quota.soft or quota.hard]


def check_space(world: World) -> Finding:
    """Whether there is room for runs."""
    base = world.cluster.base()
    return judge_space(base, read_facts(_ask(world, "space", base).text))


def _ask(world: World, name: str, base: str) -> CompletedCommand:
    try:
        return world.run(name, [base])
    except TransportTimeoutError as error:
        error.hint = f"The file system of {base} may hang: try `ls` there on the login node, and ask the site."
        raise


def judge_space(base: str, facts: Facts) -> Finding:
    """Whether there is room."""
    room = parse_room(facts.get("blocks", [""])[0], facts.get("inodes", [""])[0])
    quotas = parse_quotas(facts.get("quota", []))
    if room is None:
        return warning(SPACE, f"`df` does not say how much space {base} has", "Run `df` on the login node by hand.")
    found = "; ".join([_describe(base, room), *map(str, quotas)])
    if room.free_bytes < _NOTHING_BYTES:
        return wrong(SPACE, f"No space is left for {base} (file system {room.mount})", _REMEDY, found)
    full = next((quota for quota in quotas if quota.is_full), None)
    if full is not None:
        return wrong(SPACE, f"The quota is used up: {full}", _REMEDY, found)
    return _judge_little(base, room, quotas, found)


def _judge_little(base: str, room: Room, quotas: Sequence[Quota], found: str) -> Finding:
    over = next((quota for quota in quotas if quota.is_over), None)
    if over is not None:
        return warning(SPACE, f"The quota is exceeded, and its grace period runs: {over}", _REMEDY, found)
    if room.free_bytes < _GIB:
        return warning(SPACE, f"Only {size_words(room.free_bytes)} are left for {base}", _REMEDY, found)
    if room.inodes and (room.free_inodes or 0) < _FEW_INODES * room.inodes:
        return warning(
            SPACE, f"Only {counted(room.free_inodes or 0, 'file', ',')} can be made for {base}", _REMEDY, found
        )
    return fine(SPACE, found)


def _describe(base: str, room: Room) -> str:
    files = f", {counted(room.free_inodes, 'file', ',')}" if room.free_inodes is not None else ""
    return f"{base} on {room.file_system}: {size_words(room.free_bytes)} of {size_words(room.size_bytes)} free{files}"


def check_writing(world: World) -> Finding:
    """Whether a run could make its directory there."""
    base = world.cluster.base()
    # Without Slurm's commands, other steps say what is wrong.
    with suppress(ConfigurationError):
        world.cluster.refuse_foreign_base()
    answer = _ask(world, "writing", base)
    if answer.returncode == 0:
        return judge_writing(base, read_facts(answer.text))
    said = answer.reason
    fault = storage_fault(said, what=base, host=world.cluster.host)
    if fault is not None:
        remedy = (fault.hint or "").replace("`remote_base`", "remote_base (SLURM_REMOTE_BASE)")
        return from_error(WRITING, fault, remedy=remedy)
    return wrong(WRITING, f"Cannot write {base}: {said}", "Choose another directory with SLURM_REMOTE_BASE.")


def judge_writing(base: str, facts: Facts) -> Finding:
    """Whether what was made there is kept from others."""
    directory, file = facts["mode"][0], facts["file"][0]
    mode, owner = facts["base"][0].split(" ")
    if (directory, file) != ("700", "600"):
        return warning(
            WRITING,
            f"{base} does not keep modes: a directory made 0700 is 0{directory}, a file made 0600 is 0{file}",
            "Others could read secrets of runs; choose a file system with Unix permissions.",
        )
    if int(mode, 8) & 0o022 and not int(mode, 8) & 0o1000:
        whoever = "Everybody" if int(mode, 8) & 0o002 else "The members of its group"
        return warning(
            WRITING,
            f"{whoever} may write to {base} (mode 0{mode}), and so put other directories in the place of ours",
            f"Run `chmod go-w {base}`, or choose another one.",
        )
    return fine(WRITING, f"{base} (mode 0{mode}, of {owner}): made, wrote, renamed, linked, removed")
