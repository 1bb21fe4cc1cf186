"""A STAND-IN for pixi-pack 0.7.10, for tests: not the real program, and no code of it. Needs py-rattler.

What is real: locks of versions 4 to 7, as py-rattler reads them; conda packages and wheels, with their checksums; the
check of what is injected; the layout of a pack, the order and the empty heads of its tar, the self-extracting file;
options, texts and exit statuses. What is not: the unpacking program in that file is the stand-in beside this one, and
not fetched; conda packages from source are refused, as they are without pixi; there are no mirrors and no log-ins.

PIXI_PACK_STAND_IN_LOG names a file that gets a line for each run, PIXI_PACK_STAND_IN_VERSION is the version, and
PIXI_PACK_STAND_IN_OFFLINE keeps it from fetching the unpacking program, which PIXI_UNPACK_STAND_IN names.
"""

import argparse
import asyncio
import base64
import hashlib
import json
import os
import shutil
import sys
import tarfile
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any
from urllib.parse import unquote, urlsplit

from rattler import LockFile, PackageRecord, RepoDataRecord, Subdir
from rattler.lock import CondaLockedBinaryPackage, CondaLockedSourcePackage

VERSION = os.environ.get("PIXI_PACK_STAND_IN_VERSION", "0.7.10")
# Of those there is an unpacking program to put into the file.
EXECUTABLE = ("linux-64", "linux-aarch64", "osx-64", "osx-arm64", "win-64", "win-arm64")
CONDA = (".conda", ".tar.bz2")
ZEROED_SECONDS = 1153704088

HEADER = r"""#!/usr/bin/env bash
# Made by a stand-in for pixi-pack, for tests.
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
line_of() { grep -anm 1 "^@@$1@@" "$0" | cut -d : -f 1; }
begin=$(line_of END_HEADER) end=$(line_of END_ARCHIVE)
sed -n "$((begin + 2)),$((end - 1))p" "$0" | base64 -d >"$place/archive.tar"
sed -n "$((end + 1)),\$p" "$0" | base64 -d >"$place/pixi-unpack"
chmod +x "$place/pixi-unpack"
"$place/pixi-unpack" "$@" "$place/archive.tar"
exit 0
@@END_HEADER@@
"""


class FailedError(Exception):
    """What the real program prints behind `Error: `."""


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="pixi-pack", description="A stand-in, for tests.", allow_abbrev=False)
    parser.add_argument("-e", "--environment", default="default")
    parser.add_argument("-p", "--platform", default=str(Subdir.current()))
    parser.add_argument("-o", "--output-file", type=Path)
    parser.add_argument("-i", "--inject", type=Path, nargs="*", action="extend", default=[])
    parser.add_argument("--use-cache", type=Path)
    parser.add_argument("--ignore-pypi-non-wheel", action="store_true")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--create-executable", action="store_true")
    form.add_argument("--directory-only", action="store_true")
    for option in ("--auth-file", "--pixi-unpack-source", "--config"):
        parser.add_argument(option, type=Path)
    parser.add_argument("-V", "--version", action="version", version=f"pixi-pack {VERSION}")
    parser.add_argument("manifest_path", nargs="?", type=Path, default=Path.cwd())
    return parser.parse_args()


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


class Packing:
    """One pack.

    Args:
        asked: The options.
        out: The directory that becomes the pack.
    """

    def __init__(self, asked: argparse.Namespace, out: Path) -> None:
        self.asked = asked
        self.out = out
        self.records: dict[str, PackageRecord] = {}
        self.wheels: list[tuple[str, str]] = []
        manifest = asked.manifest_path
        if not manifest.exists():
            raise FailedError(f"manifest path does not exist at {manifest}")
        self.base = manifest if manifest.is_dir() else manifest.parent

    def make(self) -> None:
        conda, wheels = self.locked()
        say(f"⏳ Downloading {len(conda)} packages...")
        for each in conda:
            to = self.out / "channel" / each.subdir / each.file_name
            self.fetch(each.url, to, each.subdir, each.sha256.hex() if each.sha256 else None)
            self.records[each.file_name] = each
        if wheels:
            say(f"⏳ Downloading {len(wheels)} pypi packages...")
        for each in wheels:
            location = each.location.removeprefix("direct+")
            self.fetch(location, self.out / "pypi" / unquote(location.rpartition("/")[2]), "pypi", None)
            self.wheels.append((each.name, str(each.version)))
        self.inject()
        self.describe()

    def locked(self) -> tuple[list[Any], list[Any]]:
        path = self.base / "pixi.lock"
        try:
            lock = LockFile.from_path(path)
        except Exception as error:
            raise FailedError(f"could not read lockfile at {path}: {error}") from error
        environment = lock.environment(self.asked.environment)
        if environment is None:
            raise FailedError(f"environment not found in lockfile: {self.asked.environment}")
        wanted = (each for each in environment.platforms() if str(each.subdir) == self.asked.platform)
        platform = next(wanted, None)
        if platform is None:
            raise FailedError(f"platform not found in lockfile: {self.asked.platform}")
        conda, wheels = [], []
        for package in environment.packages(platform) or []:
            if isinstance(package, CondaLockedBinaryPackage):
                conda.append(package.repo_data_record())
            elif isinstance(package, CondaLockedSourcePackage):
                raise FailedError("No such file or directory (os error 2)")
            elif package.location.endswith(".whl"):
                wheels.append(package)
            elif not self.asked.ignore_pypi_non_wheel:
                raise FailedError(
                    f"package {package.name} is not a wheel file, we currently require all dependencies to be wheels."
                )
        return conda, wheels

    def fetch(self, location: str, to: Path, kind: str, sha256: str | None) -> None:
        """A package, from the cache without a look at it, or from where it is; then its checksum is looked at."""
        to.parent.mkdir(parents=True, exist_ok=True)
        kept = self.asked.use_cache / kind / to.name if self.asked.use_cache else None
        if kept and kept.exists():
            shutil.copyfile(kept, to)
            return
        parts = urlsplit(location)
        try:
            if parts.scheme in ("http", "https"):
                with urllib.request.urlopen(location) as answer, to.open("wb") as file:
                    shutil.copyfileobj(answer, file)
                if sha256 and hashlib.sha256(to.read_bytes()).hexdigest() != sha256:
                    raise FailedError(f"could not download package: Download {to.name} failed, checksum mismatch")
            else:
                shutil.copyfile(self.base / (unquote(parts.path) if parts.scheme == "file" else location), to)
        except urllib.error.URLError as error:
            raise FailedError(
                f"could not download package: error sending request for url ({location}): {error}"
            ) from error
        if kept:
            kept.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(to, kept)

    def inject(self) -> None:
        for path in self.asked.inject:
            if path.name.endswith(CONDA):
                record = asyncio.run(as_record(path))
                self.copy(path, self.out / "channel" / record.subdir / path.name)
                self.records[path.name] = record
            elif path.suffix == ".whl":
                (self.out / "pypi").mkdir(exist_ok=True)
                self.copy(path, self.out / "pypi" / path.name)
                name, version = path.name.split("-")[:2]
                self.wheels.append((name, version))
        if any(path.name.endswith(CONDA) for path in self.asked.inject):
            try:
                PackageRecord.validate(list(self.records.values()))
            except Exception as error:
                raise FailedError(str(error)) from error

    def copy(self, path: Path, to: Path) -> None:
        try:
            shutil.copyfile(path, to)
        except OSError as error:
            said = f"{error.strerror} (os error {error.errno})"
            raise FailedError(f"could not copy file to channel directory: {said}") from error

    def describe(self) -> None:
        """Write the files about the packages."""
        for subdir in sorted({record.subdir for record in self.records.values()}):
            listed = {name: plain(each) for name, each in sorted(self.records.items()) if each.subdir == subdir}
            index = {"info": {"subdir": subdir}, "packages": {}, "packages.conda": listed, "repodata_version": 2}
            (self.out / "channel" / subdir / "repodata.json").write_text(json.dumps(index, indent=2))
        about = {"version": "1", "pixi-pack-version": VERSION, "platform": self.asked.platform}
        (self.out / "pixi-pack.json").write_text(json.dumps(about, indent=2))
        lines = ["channels:", "- ./channel", "- nodefaults", "dependencies:"]
        lines += [f"- {each.name.normalized}={each.version}={each.build}" for each in self.records.values()]
        if self.wheels:
            lines += ["- pip:", "  - --no-index", "  - --find-links ./pypi"]
            lines += [f"  - {name}=={version}" for name, version in self.wheels]
        (self.out / "environment.yml").write_text("\n".join(lines) + "\n")


async def as_record(path: Path) -> PackageRecord:
    return await RepoDataRecord.from_package_archive(path)


def plain(record: PackageRecord) -> dict[str, Any]:
    said: dict[str, Any] = json.loads(record.to_json())
    return {key: value for key, value in said.items() if key not in ("fn", "url", "channel")}


def walked(directory: Path) -> Iterator[Path]:
    for path in sorted(directory.iterdir()):
        yield path
        if path.is_dir():
            yield from walked(path)


def write_archive(directory: Path, out: IO[bytes]) -> None:
    """An uncompressed tar, in order, without owners and dates."""
    with tarfile.open(fileobj=out, mode="w|", format=tarfile.GNU_FORMAT) as tar:
        for path in walked(directory):
            info = tarfile.TarInfo(path.relative_to(directory).as_posix())
            info.mtime = ZEROED_SECONDS
            if path.is_dir():
                info.type, info.mode = tarfile.DIRTYPE, 0o755
                tar.addfile(info)
                continue
            info.size, info.mode = path.stat().st_size, 0o644
            with path.open("rb") as content:
                tar.addfile(info, content)


def write_executable(asked: argparse.Namespace, directory: Path, output: Path) -> None:
    archive = directory.with_name(f"{directory.name}.tar")
    with archive.open("wb") as file:
        write_archive(directory, file)
    with output.open("wb") as out, archive.open("rb") as file:
        out.write(HEADER.encode() + b"\n")
        while block := file.read(3 << 20):
            out.write(base64.b64encode(block))
        out.write(b"\n@@END_ARCHIVE@@\n")
        archive.unlink()
        if asked.platform not in EXECUTABLE:
            raise FailedError(f"could not archive directory: Unsupported platform: {asked.platform}")
        say("📥 Fetching pixi-unpack executable...")
        if os.environ.get("PIXI_PACK_STAND_IN_OFFLINE"):
            url = f"https://github.com/Quantco/pixi-pack/releases/download/v{VERSION}/pixi-unpack"
            raise FailedError(f"could not archive directory: error sending request for url ({url})")
        source = asked.pixi_unpack_source or Path(os.environ["PIXI_UNPACK_STAND_IN"])
        out.write(base64.b64encode(source.read_bytes()))
    output.chmod(0o755)


def pack(asked: argparse.Namespace) -> None:
    if asked.directory_only:
        output = asked.output_file or Path.cwd() / "environment"
        output.mkdir()
        Packing(asked, output).make()
        say(f"📦 Created pack directory at {output}.")
        return
    with tempfile.TemporaryDirectory() as work:
        made = Path(work, "pack")
        made.mkdir()
        Packing(asked, made).make()
        if asked.create_executable:
            say("📦 Creating self-extracting executable")
            # The suffix is `.sh`, whatever was asked for.
            output = (asked.output_file or Path.cwd() / "environment.sh").with_suffix(".sh")
            write_executable(asked, made, output)
        else:
            output = asked.output_file or Path.cwd() / "environment.tar"
            with output.open("wb") as file:
                write_archive(made, file)
    say(f"📦 Created pack at {output} with size {output.stat().st_size} B.")


def main() -> int:
    asked = options()
    if asked.pixi_unpack_source and not asked.create_executable:
        say("error: --pixi-unpack-source needs --create-executable")
        return 2
    if log := os.environ.get("PIXI_PACK_STAND_IN_LOG"):
        with Path(log).open("a", encoding="utf-8") as file:
            file.write(" ".join(sys.argv[1:]) + "\n")
    try:
        pack(asked)
    except (FailedError, OSError) as error:
        say(f"Error: {error}")
        return 1
    return 0


try:
    status = main()
except SystemExit as error:
    status = error.code if isinstance(error.code, int) else 0
sys.stdout.flush()
# py-rattler 0.28.0 ends one process in six by a signal as the interpreter is taken down.
os._exit(status)
