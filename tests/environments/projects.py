"""Projects with a `uv.lock` as uv writes it, of small wheels that are made here; nothing is fetched."""

from __future__ import annotations

import base64
import hashlib
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

# Content that does not shrink: what is sent is what was asked for.
_BLOCK = b"".join(hashlib.sha256(bytes([n])).digest() for n in range(256))
_MODULE = """__version__ = "{version}"


def main():
    print("{name}", __version__)
"""


@dataclass
class Package:
    """A package of the lock.

    Args:
        name: Its name, and that of its module, which says its version.
        version: Its version.
        tag: What its wheel is good for.
        size_bytes: Of the content of its module besides.
        markers: When the project depends on it.
    """

    name: str
    version: str = "1.0"
    tag: str = "py3-none-any"
    size_bytes: int = 0
    marker: str = ""
    requires: Sequence[str] = ()


@dataclass
class Project:
    """A project on this machine."""

    directory: Path
    packages: list[Package] = field(default_factory=list)
    groups: Mapping[str, Sequence[str]] = field(default_factory=dict)
    is_package: bool = False

    def write(self) -> Path:
        """Write manifest, lock and wheels; what is there is replaced."""
        (self.directory / "wheels").mkdir(parents=True, exist_ok=True)
        grouped = {name for names in self.groups.values() for name in names}
        direct = [each for each in self.packages if each.name not in grouped]
        (self.directory / "pyproject.toml").write_text(self._manifest())
        source = f'{{ {"editable" if self.is_package else "virtual"} = "." }}'
        lock = ["version = 1", 'requires-python = ">=3.8"', "", "[[package]]", 'name = "tides"', 'version = "0.1.0"']
        lock += [f"source = {source}", "dependencies = [", *map(_dependency, direct), "]", ""]
        if self.groups:
            lock += ["[package.dev-dependencies]"]
            for group, names in self.groups.items():
                lock += [f"{group} = [", *(_dependency(each) for each in self.packages if each.name in names), "]"]
        for package in self.packages:
            lock += ["", *self._locked(package)]
        (self.directory / "uv.lock").write_text("\n".join(lock) + "\n")
        return self.directory

    def _manifest(self) -> str:
        lines = ["[project]", 'name = "tides"', 'version = "0.1.0"', ""]
        if self.groups:
            lines += ["[dependency-groups]", *(f"{name} = {list(names)!r}" for name, names in self.groups.items())]
        if self.is_package:
            (self.directory / "tides").mkdir(exist_ok=True)
            (self.directory / "tides" / "__init__.py").touch()
            lines += ["[build-system]", 'requires = ["hatchling"]', 'build-backend = "hatchling.build"']
        return "\n".join(lines) + "\n"

    def _locked(self, package: Package) -> list[str]:
        wheel = make_wheel(self.directory / "wheels", package)
        digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
        return [
            "[[package]]",
            f'name = "{package.name}"',
            f'version = "{package.version}"',
            'source = { registry = "wheels" }',
            f"dependencies = [{', '.join(f'{{ name = {name!r} }}' for name in package.requires)}]".replace("'", '"'),
            f'wheels = [{{ path = "{wheel.name}", hash = "sha256:{digest}", size = {wheel.stat().st_size} }}]',
        ]


def _dependency(package: Package) -> str:
    marker = f', marker = "{package.marker}"' if package.marker else ""
    return f'    {{ name = "{package.name}"{marker} }},'


def make_wheel(directory: Path, package: Package) -> Path:
    """A wheel with one module and one command, both named as the package is."""
    name, version = package.name, package.version
    info = f"{name}-{version}.dist-info"
    files = {
        f"{name}/__init__.py": _MODULE.format(name=name, version=version).encode(),
        f"{name}/data.bin": (_BLOCK * (package.size_bytes // len(_BLOCK) + 1))[: package.size_bytes],
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n".encode(),
        f"{info}/WHEEL": f"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: {package.tag}\n".encode(),
        f"{info}/entry_points.txt": f"[console_scripts]\n{name} = {name}:main\n".encode(),
    }
    record = "".join(f"{path},sha256={_digest(content)},{len(content)}\n" for path, content in files.items())
    files[f"{info}/RECORD"] = f"{record}{info}/RECORD,,\n".encode()
    path = directory / f"{name}-{version}-{package.tag}.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for member, content in files.items():
            archive.writestr(zipfile.ZipInfo(member), content)
    return path


def _digest(content: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
