"""Builds real conda packages, in a process of its own, from a list of them on its stdin.

py-rattler ends one process in six by a signal as the interpreter is taken down, so that this one ends by `os._exit`.
"""

from __future__ import annotations

import datetime
import json
import os
import shutil
import sys
import tempfile
import traceback
from pathlib import Path
from typing import Any

from rattler_build.cli_api import build_recipes
from rattler_build.package_assembler import assemble_package

from tests.support import conda_fills

WHEN = datetime.datetime(2026, 1, 1, tzinfo=datetime.timezone.utc)
# What is to replace a prefix, or to make commands, has to be built from a recipe.
RECIPE = """\
package:
  name: {name}
  version: "{version}"
build:
  number: 0
  string: {build}
  script:
    - {interpreter} {fills} {fill} $PREFIX
"""
ENTRY_POINTS = """\
  noarch: python
  python:
    entry_points:
      - {name}-say = {name}:main
"""


def build(about: dict[str, Any]) -> None:
    """One package, which appears under its name when it is whole."""
    with tempfile.TemporaryDirectory() as place:
        made = (
            from_recipe(about, Path(place)) if about["fill"] in ("waves", "command") else assembled(about, Path(place))
        )
        path = Path(about["path"])
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(f".{os.getpid()}")
        shutil.copyfile(made, part)
        part.replace(path)


def assembled(about: dict[str, Any], place: Path) -> Path:
    """A package of files as they are."""
    root = place / "root"
    root.mkdir()
    conda_fills.FILLS[about["fill"]](root, about)
    made = assemble_package(
        about["name"],
        about["version"],
        about["subdir"],
        about["build"],
        place / "made",
        files_dir=root,
        depends=about["depends"],
        noarch="python" if about["fill"] == "module" else None,
        timestamp=WHEN,
        compression_level=1,
    )
    return Path(made.path)


def from_recipe(about: dict[str, Any], place: Path) -> Path:
    """A package as conda-forge builds them."""
    recipe = place / "recipe.yaml"
    text = RECIPE.format(**about, fills=conda_fills.__file__)
    if about["fill"] == "command":
        text += ENTRY_POINTS.format(**about)
    needed = "".join(f"    - {each}\n" for each in about["depends"])
    recipe.write_text(text + (f"requirements:\n  run:\n{needed}" if needed else ""))
    build_recipes([recipe], output_dir=place / "made", channel=[place.as_uri()], test="skip")
    (found,) = (place / "made").glob(f"*/{about['name']}-*.conda")
    return found


try:
    for each in json.load(sys.stdin):
        build(each)
    status = 0
except Exception:  # noqa: BLE001 - told to who started this
    traceback.print_exc()
    status = 1
sys.stderr.flush()
os._exit(status)
