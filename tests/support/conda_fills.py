"""What is in the conda packages of tests. `python3 conda_fills.py waves PREFIX` fills a directory."""

from __future__ import annotations

import os
import random
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

LEFT_OUT = (
    *("__pycache__", "test", "tests", "idlelib", "config-*", "site-packages", "dist-packages", "ensurepip", "*.a"),
    *("tkinter", "turtledemo", "lib2to3", "sitecustomize.py", "pydoc_data", "distutils"),
)
# Debian's Python looks for packages in dist-packages.
SITE = """import site
import sys

site.addsitedir(f"{sys.prefix}/lib/python{sys.version_info[0]}.{sys.version_info[1]}/site-packages")
"""


def module(root: Path, about: dict[str, Any]) -> None:
    """A module, with as many bytes besides that do not shrink."""
    name, version = about["name"].replace("-", "_"), about["version"]
    directory = root / "site-packages" / name
    directory.mkdir(parents=True)
    directory.joinpath("__init__.py").write_text(
        f'__version__ = "{version}"\n\n\ndef main():\n    print("{name}", __version__)\n'
    )
    directory.joinpath("content.bin").write_bytes(random.Random(f"{name} {version}").randbytes(about["size"]))


def command(root: Path, about: dict[str, Any]) -> None:
    """The module `harbour`, for a command."""
    del about
    directory = root / "lib" / "python3.11" / "site-packages" / "harbour"
    directory.mkdir(parents=True)
    directory.joinpath("__init__.py").write_text('import sys\n\n\ndef main():\n    print("harbour", sys.prefix)\n')


def python(root: Path, about: dict[str, Any]) -> None:
    """The interpreter of this machine that every user can run."""
    asked = "import sys, sysconfig; print(sys.executable, sysconfig.get_path('stdlib'), sysconfig.get_python_version())"
    said = subprocess.run(
        [about["interpreter"], "-c", asked], capture_output=True, text=True, check=True
    ).stdout.split()
    program, library, version = Path(said[0]).resolve(), Path(said[1]), said[2]
    there = root / "lib" / f"python{version}"
    shutil.copytree(
        library, there, ignore=shutil.ignore_patterns(*LEFT_OUT), symlinks=False, ignore_dangling_symlinks=True
    )
    (there / "site-packages").mkdir()
    (there / "sitecustomize.py").write_text(SITE)
    (root / "bin").mkdir()
    shutil.copy2(program, root / "bin" / f"python{version}")
    for alias in ("python", "python3"):
        (root / "bin" / alias).symlink_to(f"python{version}")


def waves(root: Path, about: dict[str, Any]) -> None:
    """A binary and a script with a baked-in prefix, and a script for the activation that is not written carefully."""
    del about
    activation = root / "etc" / "conda" / "activate.d"
    activation.mkdir(parents=True)
    activation.joinpath("waves.sh").write_text(
        'export WAVES_BEFORE=$WAVES_HOME\nexport WAVES_HOME="$CONDA_PREFIX/share/waves"\nfalse\n'
    )
    (root / "bin").mkdir()
    (root / "bin" / "waves-prefix").write_bytes(printing(os.fsencode(root)))
    (root / "bin" / "waves-script").write_text(f"#!{root}/bin/python\nimport sys\n\nprint(sys.prefix)\n")
    for path in (root / "bin").iterdir():
        path.chmod(0o755)


def printing(text: bytes) -> bytes:
    """A program for Linux on x86-64 that prints a text up to its first zero byte."""
    base, head = 0x400000, 64 + 56
    code = bytes.fromhex("31d2 803c1600 7404 ffc2 ebf6 b801000000 bf01000000 0f05 b83c000000 31ff 0f05")
    # lea rsi, [rip + what follows]
    code = bytes.fromhex("488d35") + struct.pack("<i", len(code)) + code
    size = head + len(code) + len(text) + 1
    elf = struct.pack("<16sHHIQQQIHHHHHH", b"\x7fELF\2\1\1", 2, 62, 1, base + head, 64, 0, 0, 64, 56, 1, 0, 0, 0)
    segment = struct.pack("<IIQQQQQQ", 1, 5, 0, base, base, size, size, 0x1000)
    return elf + segment + code + text + b"\0"


FILLS: dict[str, Callable[[Path, dict[str, Any]], None]] = {
    "module": module,
    "command": command,
    "python": python,
    "waves": waves,
}

if __name__ == "__main__":
    FILLS[sys.argv[1]](Path(sys.argv[2]), {})
