"""Pixi projects with real locks and real conda packages, and stand-ins for what packs and unpacks them.

The packages are built here; a server of this process serves them, and counts. The stand-ins are in tests/stand_ins.
"""

from __future__ import annotations

import fcntl
import functools
import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
STAND_INS = ROOT / "tests" / "stand_ins"
OWN = "linux-64"
OTHER = "linux-aarch64"
# One that every user of this machine can run.
INTERPRETER = "/usr/bin/python3"


@dataclass(frozen=True)
class Conda:
    """A conda package.

    Args:
        name: Its name, and that of its module, which says its version.
        version: Its version.
        size_bytes: Of its module's content besides.
        fill: What is in it: `module`, `command`, `python` or `waves`.
        subdir: The directory of the channel.
        glibc: The oldest C library that it says it needs; empty for none.
    """

    name: str
    version: str = "1.0"
    size_bytes: int = 0
    fill: str = "module"
    subdir: str = "noarch"
    glibc: str = ""

    @property
    def filename(self) -> str:
        """Of its file."""
        return f"{self.name}-{self.version}-{'pyh' if self.subdir == 'noarch' else 'h'}{self.size_bytes}_0.conda"

    @property
    def depends(self) -> list[str]:
        """What its metadata says."""
        needed = [f"__glibc >={self.glibc}"] if self.glibc else []
        return [*needed, "python >=3.8"] if self.subdir == "noarch" else needed


@dataclass(frozen=True)
class PyPI:
    """A package from PyPI, or from this machine.

    Args:
        name: Its name.
        location: As in the lock.
        version: Its version.
        sha256: As in the lock; empty for none.
    """

    name: str
    location: str
    version: str = "1.0"
    sha256: str = ""


Packages = Sequence[Conda | PyPI]
# A binary, a script and a script for the activation with a baked-in prefix; a command.
WAVES = Conda("waves", "2.1", fill="waves", subdir=OWN)
HARBOUR = Conda("harbour", "0.2", fill="command")


class Lab:
    """What all projects of this machine share: py-rattler where every user can read it, and the package of Python."""

    def __init__(self) -> None:
        sources = [
            *sorted(Path(__file__).parent.glob("conda_*.py")),
            *sorted(STAND_INS.glob("pixi_*.py")),
            Path(__file__),
        ]
        digest = hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()[:16]
        self.directory = Path(tempfile.gettempdir()) / f"dagster-slurm-tests-pixi-{digest}"
        with self._alone():
            if not (self.directory / "made").exists():
                self._make()

    @contextmanager
    def _alone(self) -> Iterator[None]:
        with Path(f"{self.directory}.lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def _make(self) -> None:
        found = importlib.util.find_spec("rattler")
        assert found and found.origin
        library = self.directory / "library" / "rattler"
        shutil.rmtree(self.directory, ignore_errors=True)
        shutil.copytree(Path(found.origin).parent, library, ignore=shutil.ignore_patterns("__pycache__"))
        programs = {"pixi-unpack": self.unpacker, "pixi-pack": self.packer}
        start = (
            f"#!{INTERPRETER} -I\n"
            f"import os, sys; sys.path.insert(0, {str(library.parent)!r})\n"
            f"os.environ.setdefault('PIXI_UNPACK_STAND_IN', {str(self.unpacker)!r})\n"
        )
        for name in ("pixi-unpack", "pixi-pack"):
            text = (STAND_INS / f"{name.replace('-', '_')}.py").read_text()
            programs[name].parent.mkdir()
            programs[name].write_text(start + text)
        self.build([self.python, WAVES, HARBOUR], self.directory / "channel")
        for path in (self.directory, *self.directory.rglob("*")):
            path.chmod(0o755 if path.is_dir() or path in programs.values() else 0o644)
        (self.directory / "made").touch()

    @functools.cached_property
    def python(self) -> Conda:
        """The package of Python."""
        said = subprocess.run([INTERPRETER, "-V"], capture_output=True, text=True, check=True).stdout
        return Conda("python", said.split()[1].rstrip("+"), fill="python", subdir=OWN, glibc="2.17")

    @property
    def packer(self) -> Path:
        """The stand-in for pixi-pack, alone in its directory."""
        return self.directory / "packer" / "pixi-pack"

    @property
    def unpacker(self) -> Path:
        """The stand-in for pixi-unpack, alone in its directory."""
        return self.directory / "unpacker" / "pixi-unpack"

    def build(self, packages: Iterable[Conda], channel: Path) -> None:
        """Build packages that the channel does not have."""
        wanted = []
        for each in packages:
            path = channel / each.subdir / each.filename
            if path.exists():
                continue
            if each.fill != "module" and channel != self.directory / "channel":
                path.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(self.directory / "channel" / each.subdir / each.filename, path)
                continue
            wanted.append(
                {
                    "name": each.name,
                    "version": each.version,
                    "build": each.filename.removesuffix(".conda").rpartition("-")[2],
                    "subdir": each.subdir,
                    "depends": each.depends,
                    "fill": each.fill,
                    "size": each.size_bytes,
                    "interpreter": INTERPRETER,
                    "path": str(path),
                }
            )
        if wanted:
            argv = [sys.executable, "-m", "tests.support.conda_builder"]
            done = subprocess.run(argv, cwd=ROOT, input=json.dumps(wanted), text=True, capture_output=True, check=False)
            assert done.returncode == 0, done.stderr


@functools.lru_cache(maxsize=1)
def lab() -> Lab:
    """That of this machine, made when it is asked for first."""
    return Lab()


class Channel:
    """A conda channel in a directory, and a server for it.

    Attributes:
        asked: The paths that were asked for.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.asked: list[str] = []
        channel = self

        class Handler(SimpleHTTPRequestHandler):
            def __init__(self, *args: Any) -> None:
                super().__init__(*args, directory=str(directory))

            def do_GET(self) -> None:
                channel.asked.append(self.path)
                super().do_GET()

            def log_message(self, *args: object) -> None:
                del args

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def close(self) -> None:
        """Serve no more."""
        self._server.shutdown()
        self._server.server_close()


@dataclass
class PixiProject:
    """A pixi project.

    Args:
        directory: Where it lies; made with a manifest if it is not there.
        channel: Where its conda packages are.
        version: Of its lock: 4 to 7.
        manifest: The content of its manifest.
        manifest_name: The name of its manifest.
    """

    directory: Path
    channel: Channel
    version: int = 7
    manifest: str = '[workspace]\nname = "coast"\nchannels = []\nplatforms = ["linux-64"]\n'
    manifest_name: str = "pixi.toml"
    comment: str = field(default="")

    def lock(
        self, packages: Packages, *, environment: str = "default", platform: str = OWN, python: bool = True
    ) -> None:
        """Write the lock, and build the packages that the channel does not have; with Python among them."""
        self.directory.mkdir(parents=True, exist_ok=True)
        manifest = self.directory / self.manifest_name
        if not manifest.exists():
            manifest.write_text(self.manifest)
        chosen: Packages = [*([lab().python] if python else []), *packages]
        lab().build([each for each in chosen if isinstance(each, Conda)], self.channel.directory)
        text = lock_text(chosen, self.channel, self.version, environment=environment, platform=platform)
        (self.directory / "pixi.lock").write_text(self.comment + text)


def lock_text(
    packages: Packages, channel: Channel, version: int, *, environment: str = "default", platform: str = OWN
) -> str:
    """A lock as pixi writes it."""
    lines = [f"version: {version}"]
    if version >= 7:
        lines += ["platforms:", f"- name: {platform}"]
    lines += ["environments:", f"  {environment}:", "    channels:", f"    - url: {channel.url}/"]
    lines += ["    indexes:", "    - https://pypi.org/simple"] if version == 6 else []
    lines += ["    packages:", f"      {platform}:"]
    lines += [f"      - {_kind(each)}: {_location(each, channel)}" for each in packages]
    lines += ["packages:"]
    for each in packages:
        lines += _described(each, channel, version)
    return "\n".join(lines) + "\n"


def _kind(package: Conda | PyPI) -> str:
    return "conda" if isinstance(package, Conda) else "pypi"


def _location(package: Conda | PyPI, channel: Channel) -> str:
    if isinstance(package, PyPI):
        return package.location
    return f"{channel.url}/{package.subdir}/{package.filename}"


def _described(package: Conda | PyPI, channel: Channel, version: int) -> list[str]:
    location = _location(package, channel)
    if version >= 6:
        first = f"- {_kind(package)}: {location}"
    else:
        where = "url" if "://" in location else "path"
        first = f"- kind: {_kind(package)}\n  {where}: {location}"
    lines = [first]
    if isinstance(package, PyPI):
        lines += [f"  name: {package.name}", f"  version: '{package.version}'"]
        lines += [f"  sha256: {package.sha256}"] if package.sha256 else []
        return lines
    content = (channel.directory / package.subdir / package.filename).read_bytes()
    if version < 6:
        build = package.filename.removesuffix(".conda").rpartition("-")[2]
        lines += [f"  name: {package.name}", f"  version: '{package.version}'", f"  build: {build}"]
        lines += [f"  subdir: {package.subdir}"]
    lines += [f"  sha256: {hashlib.sha256(content).hexdigest()}", f"  md5: {hashlib.md5(content).hexdigest()}"]
    if package.depends:
        lines += ["  depends:", *(f"  - {each}" for each in package.depends)]
    return [*lines, f"  size: {len(content)}", "  timestamp: 1767225600000"]


def environment_for_tools(directory: Path) -> dict[str, str]:
    """Variables with which the stand-ins are what is found, and nothing of this machine's own pixi.

    Args:
        directory: Where the log of runs lies, and where pixi is not.
    """
    return {
        "PATH": f"{lab().packer.parent}:{os.defpath}:/usr/bin:/bin",
        "PIXI_HOME": str(directory / "no-pixi"),
        "PIXI_PACK_STAND_IN_LOG": str(directory / "runs.txt"),
    }
