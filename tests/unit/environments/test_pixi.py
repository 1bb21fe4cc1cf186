"""Environments of `pixi.lock`, packed, unpacked and entered. What packs is a stand-in: tests/stand_ins/pixi-pack."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import subprocess
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from dagster_slurm.environments.pixi import NOT_ON_REMOTE, PixiRecipe, has_lock, injected_names
from dagster_slurm.environments.recipe import Needs, Pack, cache_key
from dagster_slurm.environments.target import MACHINES, Target
from dagster_slurm.errors import EnvironmentBuildError, InvalidRequestError

STAND_IN = Path(__file__).parents[2] / "stand_ins" / "pixi-pack"
OWN = next(name for name, machine in MACHINES.items() if machine == platform.machine())
TARGET = Target(OWN)
PACKAGES = {"python": ("3.11.2", 0), "tides": ("1.0", 3_000_000), "waves": ("2.1", 2_000_000)}
COMMAND = (
    *("pixi-pack", "--platform", "{platform}", "--environment", "{environment}", "--create-executable"),
    *("--output-file", "{output}"),
)


def write_lock(project: Path, packages: Mapping[str, tuple[str, int]], platforms: Iterable[str] = (OWN,)) -> None:
    listed = [
        {
            "conda": f"https://conda.invalid/{OWN}/{name}-{version}-0.conda",
            "name": name,
            "version": version,
            "size": size,
        }
        for name, (version, size) in packages.items()
    ]
    named = {each: [{"conda": package["conda"]} for package in listed] for each in platforms}
    lock = {"version": 6, "environments": {"default": {"channels": [], "packages": named}}, "packages": listed}
    (project / "pixi.lock").write_text(json.dumps(lock, indent=1), encoding="utf-8")


def make_project(directory: Path) -> Path:
    directory.mkdir(parents=True)
    (directory / "pixi.toml").write_text(
        '[workspace]\nname = "coast"\nchannels = []\nplatforms = []\n', encoding="utf-8"
    )
    write_lock(directory, PACKAGES)
    return directory


def make_wheel(path: Path, version: str = "1.0") -> Path:
    path.parent.mkdir(exist_ok=True)
    with zipfile.ZipFile(path, "w") as wheel:
        # Without a date of today.
        wheel.writestr(zipfile.ZipInfo("harbour.py"), f'__version__ = "{version}"\n')
    return path


def ignore(told: str) -> None:
    del told


@pytest.fixture(autouse=True)
def _tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The stand-in is what is found, and nothing of this machine's own pixi."""
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "pixi-pack").symlink_to(STAND_IN)
    monkeypatch.setenv("PATH", f"{tools}:/usr/bin:/bin")
    monkeypatch.setenv("PIXI_HOME", str(tmp_path / "no-pixi"))
    monkeypatch.setenv("DAGSTER_SLURM_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("PIXI_PACK_STAND_IN_LOG", str(tmp_path / "runs.txt"))


@pytest.fixture
def project(tmp_path: Path) -> Path:
    return make_project(tmp_path / "it's coast")


def runs(tmp_path: Path) -> list[str]:
    log = tmp_path / "runs.txt"
    return log.read_text(encoding="utf-8").splitlines() if log.exists() else []


def install(pack: Pack, entry: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """As the cluster does it: the parts under their names in a directory, and the lines of bash beside it."""
    parts = entry / ".parts"
    parts.mkdir(parents=True)
    for part in pack.parts:
        fetched = part.fetch()
        content = fetched if isinstance(fetched, bytes) else fetched.read_bytes()
        assert hashlib.sha256(content).hexdigest() == part.sha256
        (parts / part.name).write_bytes(content)
    return subprocess.run(
        ["bash", "-c", 'set -e; eval "$1"', "bash", pack.install],
        cwd=entry,
        env={**os.environ, "parts": str(parts), **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )


def names_in(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def python(entry: Path, program: str) -> str:
    done = subprocess.run(
        ["bash", "-c", '. ./activate.sh; python -c "$1"', "bash", program],
        cwd=entry,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_packed_sent_unpacked_and_entered(project: Path, tmp_path: Path) -> None:
    told: list[str] = []
    pack = PixiRecipe(project).pack(TARGET, told.append)
    entry = tmp_path / "an entry's place"
    done = install(pack, entry)
    assert done.returncode == 0, done.stderr
    assert names_in(entry) == [".parts", "activate.sh", "env"]
    assert python(entry, "import tides, waves; print(tides.__version__, waves.__version__)") == "1.0 2.1"
    assert python(entry, "import sys; print(sys.prefix)") == str(entry / "env")
    assert told[0].startswith("Running pixi-pack --environment default")
    assert told[1].startswith("Packed ")


def test_what_bash_runs_is_what_was_packed_to_the_byte(project: Path, tmp_path: Path) -> None:
    pack = PixiRecipe(project).pack(TARGET, ignore)
    subprocess.run(["pixi-pack", "--create-executable", "-o", tmp_path / "direct.sh"], cwd=project, check=True)
    again = replace(pack, install=pack.install.replace("bash ./environment.sh\nrm -f ./environment.sh\n", ""))
    install(again, tmp_path / "entry")
    assert (tmp_path / "entry/environment.sh").read_bytes() == (tmp_path / "direct.sh").read_bytes()


@pytest.mark.parametrize("added_bytes", [0, 1, 700, 512_001])
def test_an_unchanged_package_is_not_sent_again(project: Path, added_bytes: int) -> None:
    packages = {**PACKAGES, "tides": ("1.0", 12_000_000)}
    write_lock(project, packages)
    before = PixiRecipe(project).pack(TARGET, ignore).parts
    # Before tides by name; in base64 what follows it would read otherwise.
    write_lock(project, {**packages, "anchor": ("1.0", added_bytes)})
    after = PixiRecipe(project).pack(TARGET, ignore).parts
    new = {part.sha256: part.size_bytes for part in after}.keys() - {part.sha256 for part in before}
    sent = sum(part.size_bytes for part in after if part.sha256 in new)
    assert sent < 6_000_000
    assert sum(part.size_bytes for part in after) > 14_000_000


def test_a_file_of_another_make_is_sent_as_it_is(project: Path, tmp_path: Path) -> None:
    script = "mkdir -p env/bin\ntouch activate.sh\nexit 0\n" + "@@END_HEADER@@\nnot base64!\n@@END_ARCHIVE@@\n"
    (project / "make.sh").write_text(f"printf '%s' '{script}' >environment.sh\n", encoding="utf-8")
    pack = PixiRecipe(project, pack_cmd=("sh", "make.sh")).pack(TARGET, ignore)
    assert [part.name for part in pack.parts] == ["pack-0.00000"]
    assert install(pack, tmp_path / "entry").returncode == 0
    assert (tmp_path / "entry/activate.sh").exists()


def test_it_is_packed_once(project: Path, tmp_path: Path) -> None:
    recipe = PixiRecipe(project)
    first, second = recipe.pack(TARGET, ignore), recipe.pack(TARGET, ignore)
    assert [part.sha256 for part in first.parts] == [part.sha256 for part in second.parts]
    assert len(runs(tmp_path)) == 1
    write_lock(project, {**PACKAGES, "waves": ("2.2", 10)})
    recipe.pack(TARGET, ignore)
    assert len(runs(tmp_path)) == 2


def test_a_failed_pack_leaves_nothing(project: Path, tmp_path: Path) -> None:
    with pytest.raises(EnvironmentBuildError):
        PixiRecipe(project, environment="gpu").pack(TARGET, ignore)
    assert list((tmp_path / "cache/packs").iterdir()) == []


def test_the_key_is_the_same_in_every_checkout(project: Path, tmp_path: Path) -> None:
    other = make_project(tmp_path / "elsewhere")
    for each in (project, other):
        make_wheel(each / "dist/harbour-1.0-py3-none-any.whl")
    os.utime(other / "pixi.lock", (1, 1))
    keys = set()
    for each in (project, other):
        wheel = f"{each}/dist/harbour-1.0-py3-none-any.whl"
        recipe = PixiRecipe(each, pack_cmd=(*COMMAND, "--inject", wheel), cache_inject_globs=("dist/*.whl",))
        keys.add(cache_key(recipe, TARGET))
        assert str(tmp_path) not in json.dumps(dict(recipe.key_inputs(TARGET)))
    assert len(keys) == 1


def test_what_makes_it_another_environment(project: Path) -> None:
    wheel = make_wheel(project / "dist/harbour-1.0-py3-none-any.whl")
    recipe = PixiRecipe(project)
    keys = [
        cache_key(recipe, TARGET),
        cache_key(recipe, Target("linux-s390x")),
        cache_key(replace(recipe, environment="gpu"), TARGET),
        cache_key(replace(recipe, pack_cmd=COMMAND), TARGET),
        cache_key(replace(recipe, cache_inject_globs=("dist/**/*.whl",)), TARGET),
        cache_key(replace(recipe, pack_cmd=(*COMMAND, "-i", "dist/harbour-1.0-py3-none-any.whl")), TARGET),
    ]
    make_wheel(wheel, "1.0.1")
    keys.append(cache_key(replace(recipe, cache_inject_globs=("dist/**/*.whl",)), TARGET))
    keys.append(cache_key(replace(recipe, pack_cmd=(*COMMAND, "-i", "dist/harbour-1.0-py3-none-any.whl")), TARGET))
    write_lock(project, {**PACKAGES, "waves": ("2.2", 10)})
    keys.append(cache_key(recipe, TARGET))
    assert len(set(keys)) == len(keys)


def test_where_it_is_packed_makes_no_other_environment(project: Path) -> None:
    recipe = PixiRecipe(project, pack_on_remote=True)
    fallback = recipe.fallback()
    assert fallback == PixiRecipe(project)
    assert cache_key(recipe, TARGET) == cache_key(fallback, TARGET)
    assert fallback.fallback() is None


def test_it_needs_no_interpreter(project: Path) -> None:
    assert PixiRecipe(project, platform="linux-64").needs() == Needs(platform="linux-64")
    assert PixiRecipe(project).title == "the pixi environment default of it's coast"
    assert has_lock(project)
    assert not has_lock(project.parent)


@pytest.mark.parametrize(
    ("command", "names"),
    [
        ("pixi-pack", []),
        ("pixi-pack --inject a.conda pixi.toml", ["a.conda"]),
        ("pixi-pack --inject=a.conda b.whl", ["a.conda"]),
        ("pixi-pack -i a.conda b.whl --inject c.tar.bz2 pixi.toml", ["a.conda", "b.whl", "c.tar.bz2"]),
        ("pixi-pack --inject a.conda -e prod b.whl", ["a.conda"]),
        ("make-pack -i something", ["something"]),
    ],
)
def test_what_a_command_injects(command: str, names: list[str]) -> None:
    assert injected_names(command.split()) == names


def test_an_injected_wheel_can_be_imported(project: Path, tmp_path: Path) -> None:
    make_wheel(project / "dist/harbour-1.0-py3-none-any.whl", "1.7")
    recipe = PixiRecipe(project, pack_cmd=(*COMMAND, "--inject", "dist/harbour-1.0-py3-none-any.whl"))
    assert install(recipe.pack(TARGET, ignore), tmp_path / "entry").returncode == 0
    assert python(tmp_path / "entry", "import harbour; print(harbour.__version__)") == "1.7"


def test_a_command_without_output_leaves_the_file_in_the_project(project: Path, tmp_path: Path) -> None:
    pack = PixiRecipe(project, pack_cmd=("pixi-pack", "--create-executable")).pack(TARGET, ignore)
    assert (project / "environment.sh").exists()
    assert install(pack, tmp_path / "entry").returncode == 0


def test_relative_paths_are_those_of_this_process(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project.parent)
    monkeypatch.setenv("DAGSTER_SLURM_CACHE_DIR", "cache")
    assert PixiRecipe(Path(project.name)).pack(TARGET, ignore).parts
    assert (project.parent / "cache/packs").is_dir()


def test_a_file_of_before_does_not_count(project: Path) -> None:
    (project / "environment.sh").write_text("exit 0\n", encoding="utf-8")
    with pytest.raises(EnvironmentBuildError, match=r"has not made environment\.sh:\nwell, well"):
        PixiRecipe(project, pack_cmd=("echo", "well, well")).pack(TARGET, ignore)


def test_pixi_runs_it_where_only_pixi_is_installed(project: Path, tmp_path: Path) -> None:
    (tmp_path / "tools/pixi-pack").unlink()
    home = tmp_path / "no-pixi/bin"
    home.mkdir(parents=True)
    (home / "pixi").write_text(f'#!/bin/sh\n[ "$1 $2" = "exec pixi-pack" ] || exit 9\nshift 2\nexec {STAND_IN} "$@"\n')
    (home / "pixi").chmod(0o755)
    told: list[str] = []
    PixiRecipe(project).pack(TARGET, told.append)
    assert told[0].startswith("Running pixi exec pixi-pack --environment")


def test_without_a_tool(project: Path, tmp_path: Path) -> None:
    (tmp_path / "tools/pixi-pack").unlink()
    with pytest.raises(EnvironmentBuildError, match="pixi global install pixi-pack"):
        PixiRecipe(project).pack(TARGET, ignore)
    with pytest.raises(EnvironmentBuildError, match="no-such-tool cannot be run"):
        PixiRecipe(project, pack_cmd=("no-such-tool",)).pack(TARGET, ignore)


def test_the_tool_says_why_it_cannot(project: Path) -> None:
    with pytest.raises(EnvironmentBuildError, match="status 1:\nError: platform not found in lockfile: linux-s390x"):
        PixiRecipe(project).pack(Target("linux-s390x"), ignore)
    write_lock(project, PACKAGES, ["linux-s390x"])
    with pytest.raises(EnvironmentBuildError, match="Unsupported platform: linux-s390x"):
        PixiRecipe(project).pack(Target("linux-s390x"), ignore)


def test_a_pack_for_another_platform_does_not_unpack(project: Path, tmp_path: Path) -> None:
    other = "linux-aarch64" if OWN == "linux-64" else "linux-64"
    write_lock(project, PACKAGES, [other])
    done = install(PixiRecipe(project).pack(Target(other), ignore), tmp_path / "entry")
    assert done.returncode != 0
    assert "created for a different platform" in done.stderr


def test_refused_before_anything_is_packed(project: Path, tmp_path: Path) -> None:
    recipe = PixiRecipe(project)
    with pytest.raises(InvalidRequestError, match=r"dist/\*\.whl"):
        replace(recipe, cache_inject_globs=("dist/*.whl",)).key_inputs(TARGET)
    for pattern in ("/etc/*", ""):
        with pytest.raises(InvalidRequestError, match="is no pattern"):
            replace(recipe, cache_inject_globs=(pattern,)).key_inputs(TARGET)
    with pytest.raises(InvalidRequestError, match=r"There is no .*a\.conda to inject"):
        replace(recipe, pack_cmd=(*COMMAND, "--inject", "a.conda")).key_inputs(TARGET)
    (project / "pixi.toml").unlink()
    with pytest.raises(InvalidRequestError, match=r"neither pixi\.toml nor pyproject\.toml"):
        recipe.key_inputs(TARGET)
    (project / "pixi.lock").unlink()
    with pytest.raises(InvalidRequestError, match="`pixi lock` makes it"):
        recipe.key_inputs(TARGET)
    assert runs(tmp_path) == []


def test_packed_on_the_cluster(project: Path, tmp_path: Path) -> None:
    wheel = make_wheel(project / "dist/harbour-1.0-py3-none-any.whl", "1.7")
    (project / "environment.sh").write_text("of before", encoding="utf-8")
    recipe = PixiRecipe(project, pack_cmd=(*COMMAND, "--inject", os.path.relpath(wheel, project)), pack_on_remote=True)
    pack = recipe.pack(TARGET, ignore)
    assert [part.name for part in pack.parts] == ["project.tar.gz"]
    assert runs(tmp_path) == []
    assert recipe.pack(TARGET, ignore).parts[0].sha256 == pack.parts[0].sha256
    done = install(pack, tmp_path / "entry")
    assert done.returncode == 0, done.stderr
    assert names_in(tmp_path / "entry") == [".parts", "activate.sh", "env"]
    assert python(tmp_path / "entry", "import harbour; print(harbour.__version__)") == "1.7"


def test_packed_on_the_cluster_by_a_command_that_leaves_the_file(project: Path, tmp_path: Path) -> None:
    recipe = PixiRecipe(project, pack_cmd=("pixi-pack", "--create-executable"), pack_on_remote=True)
    assert install(recipe.pack(TARGET, ignore), tmp_path / "entry").returncode == 0
    assert python(tmp_path / "entry", "import tides") == ""


def test_a_cluster_without_pixi_is_told_apart_from_a_pack_that_fails(project: Path, tmp_path: Path) -> None:
    recipe = PixiRecipe(project, pack_on_remote=True)
    done = install(recipe.pack(TARGET, ignore), tmp_path / "without", PATH="/usr/bin:/bin")
    assert (done.returncode, done.stderr) == (NOT_ON_REMOTE, "pixi-pack is not on the PATH of the login node\n")
    done = install(replace(recipe, environment="gpu").pack(TARGET, ignore), tmp_path / "with")
    assert done.returncode == 1
    assert "environment not found in lockfile: gpu" in done.stderr
    assert "pixi-pack on the login node ended with 1" in done.stderr


def test_what_is_outside_the_project_is_not_packed_on_the_cluster(project: Path) -> None:
    make_wheel(project.parent / "dist/harbour-1.0-py3-none-any.whl")
    command = (*COMMAND, "--inject", "../dist/harbour-1.0-py3-none-any.whl")
    assert PixiRecipe(project, pack_cmd=command).pack(TARGET, ignore).parts
    with pytest.raises(InvalidRequestError, match="not within the project"):
        PixiRecipe(project, pack_cmd=command, pack_on_remote=True).pack(TARGET, ignore)


REAL = shutil.which("pixi-pack")
REAL_PROJECT = os.environ.get("DAGSTER_SLURM_TEST_PIXI_PROJECT")


@pytest.mark.skipif(
    not (REAL or shutil.which("pixi")) or not REAL_PROJECT,
    reason="needs pixi-pack or pixi on the PATH, a network, and a locked project with python in "
    "DAGSTER_SLURM_TEST_PIXI_PROJECT",
)
def test_the_real_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = REAL or shutil.which("pixi")
    assert tool and REAL_PROJECT
    monkeypatch.setenv("PATH", f"{Path(tool).parent}:/usr/bin:/bin")
    pack = PixiRecipe(Path(REAL_PROJECT)).pack(TARGET, ignore)
    assert len({part.name.partition(".")[0] for part in pack.parts}) == 3
    done = install(pack, tmp_path / "entry")
    assert done.returncode == 0, done.stderr
    assert python(tmp_path / "entry", "import sys; print(sys.prefix)") == str(tmp_path / "entry/env")
