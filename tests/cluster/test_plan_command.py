"""`dagster-slurm plan`: an asset's own function up to its call, a payload alone, and what goes wrong."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from dagster_slurm.cli import main
from dagster_slurm.sandbox import Sandbox
from tests.support.terminals import assert_fits, lines_on_a_terminal

CODE = """
from pathlib import Path

import dagster as dg
from dagster_slurm import BashLauncher, ComputeResource, LocalPipesClient, SlurmResource, SlurmRunConfig

HERE = Path(__file__).parent
DAYS = dg.StaticPartitionsDefinition(["mon", "tue", "wed"])

@dg.asset(metadata={"slurm": {"cpus": 2}}, retry_policy=dg.RetryPolicy(max_retries=3, delay=60))
def model(context: dg.AssetExecutionContext, compute: ComputeResource, config: SlurmRunConfig):
    print("printed by the asset")
    try:
        compute.run(context, HERE / "train.py", extra_env={"TOKEN": "s3cret"}, config=config)
    except Exception:
        (HERE / "caught").touch()
    (HERE / "went-on").touch()

@dg.asset(key_prefix="by", partitions_def=DAYS, backfill_policy=dg.BackfillPolicy.single_run())
def day(context: dg.AssetExecutionContext, compute: ComputeResource):
    return compute.run_partitions(context, HERE / "train.py", max_parallel=2).get_materialize_result()

@dg.multi_asset(specs=[dg.AssetSpec("left"), dg.AssetSpec("right")])
def both(context: dg.AssetExecutionContext, compute: ComputeResource):
    yield from compute.run(context, HERE / "train.py").get_results()

@dg.asset
def reads(context: dg.AssetExecutionContext, compute: ComputeResource, model):
    return compute.run(context, HERE / "train.py").get_materialize_result()

@dg.asset
def no_call() -> int:
    return 1

@dg.asset
def fails(compute: ComputeResource):
    raise ValueError("something is wrong here")

@dg.asset
def refused(context: dg.AssetExecutionContext, compute: ComputeResource):
    compute.run(context, HERE / "train.py", extra_slurm_opts={"partitoin": "x"})

@dg.asset
def by_a_client(context: dg.AssetExecutionContext):
    LocalPipesClient().run(context=context, payload=HERE / "train.py")

class Recorder(dg.ConfigurableIOManager):
    def load_input(self, context):
        raise NotImplementedError

    def handle_output(self, context, obj):
        (HERE / "written").touch()

defs = dg.Definitions(
    assets=[model, day, both, reads, no_call, fails, refused, by_a_client],
    resources={"compute": ComputeResource(RESOURCE), "io_manager": Recorder()},
)
"""

Plan = Callable[..., Result]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "train.py").write_text("from pathlib import Path\nPath('/tmp/never').touch()\n")
    (tmp_path / "code.py").write_text(CODE.replace("RESOURCE", 'mode="local"'))
    return tmp_path


@pytest.fixture
def plan(folder: Path) -> Plan:
    def run(*args: str) -> Result:
        return CliRunner().invoke(main, ["plan", "-f", str(folder / "code.py"), *args])

    return run


class TestAnAsset:
    def test_it_is_run_up_to_its_call(self, plan: Plan, folder: Path) -> None:
        done = plan("--asset", "model")
        assert done.exit_code == 0, done.output
        assert done.stdout.startswith("# Plan: train.py on this machine\n")
        assert "printed by the asset" in done.stderr
        assert "s3cret" not in done.output
        assert sorted(path.name for path in folder.glob("*") if path.is_file()) == ["code.py", "train.py"]

    def test_config_of_the_launchpad(self, plan: Plan, folder: Path) -> None:
        (folder / "config.yaml").write_text("ops: {model: {config: {extra_files: [CODE]}}}".replace("CODE", __file__))
        told = json.loads(plan("--asset", "model", "-c", str(folder / "config.yaml"), "--json").stdout)
        assert {"name": "extra_files", "value": repr([__file__]), "source": "launchpad"} in told["settings"]

    @pytest.mark.parametrize("asset", ["left", "right"])
    def test_of_several_from_one_function(self, plan: Plan, asset: str) -> None:
        assert plan("--asset", asset).exit_code == 0

    @pytest.mark.parametrize(("args", "tasks"), [(("--partition", "tue"), 1), (("--partition-range", "mon...wed"), 3)])
    def test_partitions(self, plan: Plan, args: tuple[str, ...], tasks: int) -> None:
        done = plan("--asset", "by/day", *args, "--json")
        assert done.exit_code == 0, done.output
        assert json.loads(done.stdout)["tasks"] == tasks

    @pytest.mark.parametrize(
        ("args", "said"),
        [
            (("--asset", "reads"), "The asset takes model as an argument, and a plan cannot load it"),
            (("--asset", "no_call"), "The asset no_call has ended without a call of the compute resource"),
            (("--asset", "fails"), "ValueError: something is wrong here"),
            (("--asset", "refused"), "sbatch has no option 'partitoin'"),
            (("--asset", "by_a_client"), "LocalPipesClient.run cannot be planned"),
            (("--asset", "nothing"), "There is no asset nothing"),
            ((), "Name one with --asset: by/day, by_a_client, "),
            (("--asset", "by/day"), "Name a partition: --partition KEY"),
            (("--asset", "by/day", "--partition", "sun"), "Could not find a partition with key `sun`"),
            (("--asset", "model", "--partition", "mon"), "has no partitions"),
        ],
    )
    def test_refused(self, plan: Plan, folder: Path, args: tuple[str, ...], said: str) -> None:
        if "refused" in args:
            text = (folder / "code.py").read_text().replace('mode="local"', 'mode="slurm", slurm=SlurmResource()')
            (folder / "code.py").write_text(text)
        done = plan(*args)
        assert done.exit_code == 1
        assert said in done.stderr
        assert done.stdout == ""
        assert not (folder / "written").exists()


@pytest.mark.parametrize(
    "args",
    [
        (),
        ("-f", __file__, "-m", "os"),
        ("-f", __file__, "--option", "nodes=2"),
        ("-f", __file__, "--partition", "a", "--partition-range", "a...b"),
        ("-f", __file__, "--partition-range", "a"),
    ],
)
def test_wrong_usage(args: tuple[str, ...]) -> None:
    assert CliRunner().invoke(main, ["plan", *args]).exit_code == 2


def test_code_that_cannot_be_loaded(tmp_path: Path) -> None:
    (tmp_path / "code.py").write_text("import nothing_like_this\n")
    done = CliRunner().invoke(main, ["plan", "-f", str(tmp_path / "code.py")])
    assert done.exit_code == 1
    assert "nothing_like_this" in done.stderr


@pytest.mark.cluster
def test_a_payload_alone(sandbox: Sandbox, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {**sandbox.env(), "SLURM_TIME": "00:04:00", "SLURM_MEM": "100M"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(folder)
    args = ["--payload", "train.py", "-o", "nodes=2", "-o", "hold", "--remote-base", "~/plans", "--json"]
    done = CliRunner().invoke(main, ["plan", *args])
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    found = {each["name"]: (each["value"], each["source"]) for each in told["options"]}
    assert (found["--nodes"], found["--hold"]) == (("2", "call"), ("", "call"))
    assert (found["--time"], found["--cpus-per-task"]) == (("00:04:00", "resource"), ("2", "built-in"))
    assert "/plans/runs/RUN_ID/" in told["directory"]


@pytest.mark.cluster
def test_as_a_process_of_its_own(sandbox: Sandbox, folder: Path) -> None:
    resource = 'mode="slurm", slurm=SlurmResource.from_env()'
    (folder / "code.py").write_text(CODE.replace("RESOURCE", resource))
    variables = {**sandbox.env(), "SLURM_MEM": "100M", "SLURM_REMOTE_BASE": f"~/plans-{folder.name}"}
    command = [str(Path(sys.executable).with_name("dagster-slurm")), "plan", "-f", "code.py", "--asset", "model"]
    done = subprocess.run(
        ["env", *(f"{name}={value}" for name, value in variables.items()), *command],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert "| --cpus-per-task | 2 " in done.stdout
    assert " UTC, by Slurm's estimate" in done.stdout
    assert "s3cret" not in done.stdout + done.stderr
    assert sandbox.run(["sh", "-c", f"test -e ~/plans-{folder.name}"]).returncode != 0


@pytest.mark.cluster
def test_on_a_terminal_it_fits_and_has_the_script_if_it_is_asked_for(sandbox: Sandbox, folder: Path) -> None:
    variables = {**os.environ, **sandbox.env(), "SLURM_TIME": "00:04:00", "SLURM_MEM": "100M"}
    arguments = ["plan", "--payload", "train.py", "--remote-base", "~/plans"]
    code, lines = lines_on_a_terminal(arguments, variables, cwd=folder)
    assert code == 0, lines
    assert_fits(lines)
    assert any(line.startswith("| --output ") and "… |" in line for line in lines)
    assert not any("SBATCH" in line for line in lines)
    code, lines = lines_on_a_terminal([*arguments, "--script"], variables, cwd=folder)
    assert code == 0, lines
    assert "#SBATCH --mem=100M" in lines
