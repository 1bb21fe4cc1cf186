"""Which process is meant, also after it has ended: host, boot, PID namespace, pid and start time.

A pid alone is used again by others. What is judged here is whether a process that was noted once still lives.
"""

from __future__ import annotations

import calendar
import enum
import hashlib
import json
import os
import socket
import subprocess
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

_PROC = Path("/proc")
_MACHINE_IDS = (Path("/etc/machine-id"), Path("/var/lib/dbus/machine-id"))
_UNREADABLE = ""
_NO_PID = 1 << 31
_CLOCKS_AGREE_WITHIN_SECONDS = 3600.0
# By process: a fork has the memory of its parent, and another number.
_own_starts: dict[int, str] = {}


class Life(enum.Enum):
    """What can be said of a process from here."""

    ALIVE = "alive"
    GONE = "gone"
    UNKNOWN = "cannot be judged from here"


@dataclass(frozen=True)
class ProcessIdentity:
    """A process, told from every other one before and after it.

    Args:
        host: The machine's name when this was noted; for people, and where there is no boot id in common.
        boot_id: Of the machine's run since it was switched on; empty if there is none.
        pid_namespace: As in `pid:[4026531836]` (pid_namespaces(7)); empty where there are no namespaces.
        pid: Its number, as seen in that namespace.
        started: When it started, in the system's own words: two of the same pid are compared, nothing is computed.
        machine: Stands for the installation of the system (machine-id(5)); empty if it has none, or was not noted.
    """

    host: str
    boot_id: str
    pid_namespace: str
    pid: int
    started: str
    machine: str = ""

    @classmethod
    def of_this_process(cls) -> ProcessIdentity:
        """The one that asks."""
        pid = os.getpid()
        if pid not in _own_starts:
            started = _start_of(pid)
            if not started:
                return cls._noted(pid, _UNREADABLE)
            _own_starts[pid] = started
        return cls._noted(pid, _own_starts[pid])

    @classmethod
    def of(cls, pid: int) -> ProcessIdentity | None:
        """A process of this machine, by its number here; None if there is none, or only its zombie."""
        started = _start_of(pid)
        return None if started is None else cls._noted(pid, started)

    @classmethod
    def _noted(cls, pid: int, started: str) -> ProcessIdentity:
        here = Vantage.here()
        return cls(here.host, here.boot_id, here.pid_namespace, pid, started, here.machine)

    def to_json(self) -> str:
        """As one line of JSON."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> ProcessIdentity:
        """What `to_json` wrote; a later release may have added fields, which are left out.

        Raises:
            ValueError: It is not that.
        """
        try:
            return cls.from_mapping(json.loads(text))
        except RecursionError as error:
            raise ValueError("not the identity of a process: it has too many levels") from error

    @classmethod
    def from_mapping(cls, values: object) -> ProcessIdentity:
        """The same of what the JSON holds.

        Raises:
            ValueError: It does not hold an identity.
        """
        if not isinstance(values, Mapping):
            raise ValueError(f"not the identity of a process: {values!r}")
        known = {"machine": "", **values}
        known = {field.name: known.get(field.name) for field in fields(cls)}
        wanted = {name: int if name == "pid" else str for name in known}
        is_of_kind = all(type(value) is wanted[name] for name, value in known.items())
        # Another one kill(2) takes for something else, or not at all.
        if not is_of_kind or not 0 <= known["pid"] < _NO_PID:
            raise ValueError(f"not the identity of a process: {values!r}")
        return cls(**known)

    def life(self) -> Life:
        """Whether it still lives, as far as can be said from this process."""
        return judge(self, Vantage.here(), _start_of(self.pid))


@dataclass(frozen=True)
class Vantage:
    """From where a process is looked at."""

    host: str
    boot_id: str
    pid_namespace: str
    machine: str = ""

    @classmethod
    def here(cls) -> Vantage:
        """From this process."""
        return cls(socket.gethostname(), _boot_id(), _pid_namespace(os.getpid()), _machine())


def judge(noted: ProcessIdentity, here: Vantage, started: str | None) -> Life:
    """Whether a noted process still lives. Pure.

    Args:
        noted: The process.
        here: From where it is looked at.
        started: When the process of that number here started; None if there is none, empty if it cannot be read.
    """
    same_boot = bool(noted.boot_id) and noted.boot_id == here.boot_id
    if not same_boot:
        # No process outlives its boot. The name of a host alone proves nothing: it may change between two networks, and
        # two machines may have the same.
        is_other = bool(noted.machine and here.machine) and noted.machine != here.machine
        is_restarted = noted.host == here.host and noted.boot_id and here.boot_id and not is_other
        return Life.GONE if is_restarted else Life.UNKNOWN
    if noted.pid_namespace != here.pid_namespace:
        return Life.UNKNOWN
    if started is None:
        return Life.GONE
    if not (started and noted.started):
        return Life.UNKNOWN
    return Life.ALIVE if started == noted.started else Life.GONE


def may_have_been(pid: int, noted_at: float) -> bool:
    """Whether the process of that number here may be one whose number alone was noted.

    Args:
        pid: The number.
        noted_at: When it was noted, in seconds since the epoch, by a clock that may be off by less than an hour.
    """
    started = _start_of(pid)
    if started is None:
        return False
    return started == _UNREADABLE or _epoch_of(started) <= noted_at + _CLOCKS_AGREE_WITHIN_SECONDS


def _epoch_of(started: str) -> float:
    """A start time in seconds since the epoch: ticks since boot (Linux), or what `ps` writes."""
    if not started.isdigit():
        return calendar.timegm(time.strptime(started, "%a %b %d %H:%M:%S %Y"))
    lines = (_PROC / "stat").read_text(encoding="ascii").splitlines()
    booted = next(int(line.split()[1]) for line in lines if line.startswith("btime "))
    return booted + int(started) / os.sysconf("SC_CLK_TCK")


class Stat(NamedTuple):
    """What /proc/PID/stat says of a process. Its start is in clock ticks since boot."""

    state: str
    parent: int
    session: int
    start_ticks: int


def parse_stat(text: str) -> Stat:
    """Read a line of /proc/PID/stat (proc(5), fields 3, 4, 6 and 22).

    The second field is the name in parentheses, which may hold blanks and parentheses itself.

    Raises:
        ValueError: It is no such line.
    """
    rest = text.rpartition(")")[2].split()
    if len(rest) < 20:
        raise ValueError(f"not a line of /proc/PID/stat: {text[:200]!r}")
    return Stat(rest[0], int(rest[1]), int(rest[3]), int(rest[19]))


def stat_of(pid: int) -> Stat | None:
    """What the kernel says of a process of this machine; None if there is none of that number, or it is hidden."""
    try:
        return parse_stat((_PROC / str(pid) / "stat").read_text(encoding="utf-8", errors="replace"))
    except (FileNotFoundError, ProcessLookupError, PermissionError, ValueError):
        return None


def of_session(session: int) -> list[int]:
    """The numbers of the processes of a session, whatever group they are in; none where there is no /proc."""
    pids = [int(path.name) for path in _PROC.glob("[0-9]*")]
    return [pid for pid in pids if (stat := stat_of(pid)) and stat.session == session]


def parse_ps(text: str) -> tuple[str, str] | None:
    """State and start time of the output of `ps -o stat= -o lstart=`; None if it lists no process."""
    state, _, started = text.strip().partition(" ")
    return (state, " ".join(started.split())) if started.strip() else None


def _start_of(pid: int) -> str | None:
    """When the process of that number started; None if there is none, empty if it is hidden from this user."""
    found = _look_in_proc(pid) if (_PROC / "self" / "stat").exists() else _ask_ps(pid)
    if found is None:
        return _UNREADABLE if _exists(pid) else None
    state, started = found
    # Dead already: only its parent has not asked how it ended (Z), or it is being removed (X).
    return None if state[0] in "ZX" else started


def _look_in_proc(pid: int) -> tuple[str, str] | None:
    stat = stat_of(pid)
    return stat and (stat.state, str(stat.start_ticks))


def _ask_ps(pid: int) -> tuple[str, str] | None:
    argv = ["ps", "-o", "stat=", "-o", "lstart=", "-p", str(pid)]
    environment = {**os.environ, "LC_ALL": "C", "TZ": "UTC"}
    try:
        done = subprocess.run(argv, capture_output=True, text=True, env=environment, check=False, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return parse_ps(done.stdout)


def _exists(pid: int) -> bool:
    # /proc mounted with hidepid=2 does not show the processes of others; kill(2) still tells them from none.
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


@lru_cache(maxsize=1)
def _machine() -> str:
    """A digest, as machine-id(5) asks for: the id itself is to be told to nobody."""
    for path in _MACHINE_IDS:
        with suppress(OSError):
            if text := path.read_bytes().strip():
                return hashlib.sha256(b"dagster-slurm " + text).hexdigest()[:12]
    return ""


@lru_cache(maxsize=1)
def _boot_id() -> str:
    try:
        return (_PROC / "sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        # macOS. Not kern.boottime, which follows the clock when that is set.
        return _sysctl("kern.bootsessionuuid")


def _sysctl(name: str) -> str:
    try:
        done = subprocess.run(["sysctl", "-n", name], capture_output=True, text=True, check=False, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip()


def _pid_namespace(pid: int) -> str:
    try:
        return str((_PROC / str(pid) / "ns" / "pid").readlink())
    except OSError:
        return ""
