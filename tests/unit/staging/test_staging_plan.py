"""What a call's data is: names, clashes, and what is refused before anything is uploaded."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from dagster_slurm.errors import InvalidRequestError, OutputNotFoundError, PayloadNotFoundError
from dagster_slurm.launchers import Scratch
from dagster_slurm.staging import DataOptions, RemotePath, Staging, plan_staging
from dagster_slurm.staging.on_this_machine import used_in_place
from dagster_slurm.staging.patterns import kept_names, missing, output_not_found, select

FILES = ("model.txt", "stations/2024/a.csv", "stations/2024/b.csv", "stations/2025/a.csv", "odd[1].txt")
WAVES = RemotePath("/base/results/waves", "me@login")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    for name in FILES:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    return tmp_path


def planned(inputs: Any = None, uploaded: tuple[str, ...] = (), **options: Any) -> Staging:
    return plan_staging(DataOptions(inputs, **options), uploaded=uploaded)


STATIONS = {
    "2024/a.csv": "stations/2024/a.csv",
    "2024/b.csv": "stations/2024/b.csv",
    "2025/a.csv": "stations/2025/a.csv",
}


@pytest.mark.parametrize(
    ("inputs", "names"),
    [
        (["{}/model.txt"], {"model.txt": "model.txt"}),
        (["{}/odd[1].txt"], {"odd[1].txt": "odd[1].txt"}),
        (["{}/stations"], {f"stations/{name}": path for name, path in STATIONS.items()}),
        (["{}/stations/"], {f"stations/{name}": path for name, path in STATIONS.items()}),
        (["{}/stations/**/*.csv"], STATIONS),
        (["{}/stations/*"], STATIONS),
        (["{}/stations/2024/?.csv", "{}/model.txt"], {"a.csv": FILES[1], "b.csv": FILES[2], "model.txt": FILES[0]}),
        (["{}/model.txt", "{}/*.txt"], {"model.txt": FILES[0], "odd[1].txt": FILES[4]}),
        ({"m": "{}/model.txt"}, {"m": "model.txt"}),
        ({"s": "{}/stations"}, {f"s/{name}": path for name, path in STATIONS.items()}),
        ({"s/deep": "{}/stations/*/a.csv"}, {"s/deep/2024/a.csv": FILES[1], "s/deep/2025/a.csv": FILES[3]}),
    ],
)
@pytest.mark.parametrize("relative", [False, True])
def test_names(
    data: Path, monkeypatch: pytest.MonkeyPatch, inputs: Any, names: Mapping[str, str], relative: bool
) -> None:
    monkeypatch.chdir(data)
    root = "." if relative else str(data)
    given = (
        {name: path.format(root) for name, path in inputs.items()}
        if isinstance(inputs, dict)
        else [path.format(root) for path in inputs]
    )
    files = planned(given).inputs.files
    assert {name: path.resolve() for name, path in files.items()} == {name: data / path for name, path in names.items()}
    assert all(path.is_absolute() for path in files.values())


def test_remote_paths_are_used_by_name() -> None:
    assert planned({"waves": WAVES}).inputs.remote == {"waves": WAVES}
    assert planned([WAVES]).inputs.remote == {"waves": WAVES}


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        (["{}/*.nc"], "'{}/*.nc' matches no file"),
        (["{}/empty"], "matches no file"),
        (["{}/stations/2024/a.csv", "{}/stations/2025/a.csv"], "Two inputs would be 'a.csv'"),
        ({"../x": "{}/model.txt"}, "not a name in the working directory"),
        ({"/x": "{}/model.txt"}, "not a name in the working directory"),
        ({"a\nb": "{}/model.txt"}, "line break"),
        ({"main.py": "{}/model.txt"}, "Two files would be 'main.py'"),
        ({"lib": "{}/model.txt"}, "Two files would be 'lib'"),
        ({"waves": WAVES, "waves/x": "{}/model.txt"}, "Two files would be 'waves'"),
    ],
)
def test_what_is_refused(data: Path, inputs: Any, said: str) -> None:
    (data / "empty").mkdir()
    if isinstance(inputs, dict):
        given: Any = {name: path.format(data) if isinstance(path, str) else path for name, path in inputs.items()}
    else:
        given = [path.format(data) for path in inputs]
    with pytest.raises(InvalidRequestError, match=re.escape(said.format(data))):
        planned(given, uploaded=("main.py", "lib/util.py"))


def test_one_path_is_no_list(data: Path) -> None:
    with pytest.raises(InvalidRequestError, match="not one path"):
        planned(str(data / "model.txt"))


def test_a_missing_path_says_how_to_build_one(data: Path) -> None:
    with pytest.raises(PayloadNotFoundError, match="build them from `__file__`"):
        planned([data / "absent.csv"])


def test_another_host_is_refused_and_none_is_anywhere() -> None:
    assert WAVES.on("me@login") == WAVES.path
    assert RemotePath("/shared/x").on("anywhere") == "/shared/x"
    assert RemotePath("/base/results/waves/a.nc", "me@login") == (WAVES / "a.nc")
    with pytest.raises(InvalidRequestError, match="lies on me@login, and the job runs on you@other"):
        WAVES.on("you@other")


@pytest.mark.parametrize("path", ["", " ", "/a\nb"])
def test_remote_paths_that_are_none(path: str) -> None:
    with pytest.raises(InvalidRequestError, match="is not a path"):
        RemotePath(path)


def test_in_mode_local_this_machine_says_where_one_leads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "waves").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("WORK", str(tmp_path))
    for path in ("waves", "~/waves", "$WORK/waves", f"{tmp_path}/waves"):
        assert used_in_place(RemotePath(path)) == tmp_path / "waves"
    with pytest.raises(InvalidRequestError, match="leads nowhere on this machine: 'NOTHING'"):
        used_in_place(RemotePath("$NOTHING/waves"))


def test_where_outputs_go(tmp_path: Path) -> None:
    default = Path("/default")
    listed = planned(outputs=["out/*.csv", "log"]).outputs
    assert listed.needs_default
    assert listed.destination("out/*.csv", "out/a.csv", default) == Path("/default/out/a.csv")
    chosen = planned(outputs=["out/*.csv"], outputs_dir=tmp_path).outputs
    assert not chosen.needs_default
    assert chosen.destination("out/*.csv", "out/a.csv", default) == tmp_path / "out/a.csv"
    mapped = planned(outputs={"out/**/*.csv": tmp_path / "x", "run/log.txt": tmp_path / "y"}).outputs
    assert mapped.destination("out/**/*.csv", "out/deep/a.csv", default) == tmp_path / "x/deep/a.csv"
    assert mapped.destination("run/log.txt", "run/log.txt", default) == tmp_path / "y/log.txt"


@pytest.mark.parametrize("options", [{"outputs": "*.csv"}, {"keep_on_cluster": "waves"}, {"scratch": "relative"}])
def test_options_of_another_form(options: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequestError):
        planned(**options)


def test_scratch_takes_back_all_that_is_wanted() -> None:
    asked = {"outputs": ["a", "b"], "keep_on_cluster": ["b", "c"]}
    assert planned(scratch=True, **asked).scratch == Scratch("", ("a", "b", "c"))
    assert planned(scratch="/local/scratch/", **asked).scratch == Scratch("/local/scratch", ("a", "b", "c"))
    assert planned(scratch=False, **asked).scratch is None


def test_a_version_changes_with_the_inputs(data: Path) -> None:
    model = data / "model.txt"
    first = planned([model]).inputs.version()
    assert planned([model]).inputs.version() == first
    assert planned({"m": model}).inputs.version() != first
    assert planned([model, WAVES]).inputs.version() != first
    os.utime(model, ns=(1, 1))
    assert planned([model]).inputs.version() != first
    assert planned().inputs.version() == ""


LEFT = ["main.py", "in.csv", "out/a.csv", "out/b.csv", "waves/1/x.nc", "waves/2/y.nc"]


def test_what_lay_there_before_is_an_output_only_by_its_name() -> None:
    found = select(["*.csv", "in.csv", "out/*", "waves", "no"], LEFT, {"main.py", "in.csv"})
    assert found == {
        "*.csv": [],
        "in.csv": ["in.csv"],
        "out/*": ["out/a.csv", "out/b.csv"],
        "waves": ["waves/1/x.nc", "waves/2/y.nc"],
        "no": [],
    }
    assert missing(found) == ["*.csv", "no"]


@pytest.mark.parametrize(
    ("patterns", "names"),
    [
        (["waves"], ["waves"]),
        (["waves/*"], ["waves/1", "waves/2"]),
        (["waves", "waves/1/*.nc"], ["waves"]),
        (["out/*.csv"], ["out/a.csv", "out/b.csv"]),
    ],
)
def test_names_of_what_is_kept(patterns: list[str], names: list[str]) -> None:
    assert kept_names(select(patterns, LEFT, ()), patterns) == names


def test_a_missing_output_names_what_there_is() -> None:
    error = output_not_found(
        ["*.nc"], [f"{n:02}.csv" for n in range(30)], kept_path="/runs/x", host="login", job_id="7"
    )
    assert isinstance(error, OutputNotFoundError)
    assert "'*.nc'" in str(error)
    assert "There is: 00.csv, 01.csv" in str(error)
    assert "and 10 more" in str(error)
    assert "/runs/x" in str(error)
    nothing = output_not_found(["*.nc"], [], kept_path=None, host="this machine")
    assert "nothing that it has written" in str(nothing)
    assert "debug_mode" in str(nothing)
