"""What holds on this machine holds on the cluster: the same asset, the same payload, the same results."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from dagster_slurm import ComputeResource, SlurmRunConfig
from dagster_slurm.pipes.step import Step
from dagster_slurm.resources.call import metadata_of_assets

from ..support import memory
from .conftest import asset_of, compute_log, echo_back, failure_of, log_messages, metadata_of, run_asset

pytestmark = pytest.mark.process

Write = Callable[..., Path]


def _messages(
    compute: ComputeResource, instance: dg.DagsterInstance, path: Path | str, **call: Any
) -> tuple[Any, dg.ExecuteInProcessResult]:
    """Run a payload and return its one custom message."""
    got: list[Any] = []

    @dg.asset
    def measured(context: dg.AssetExecutionContext, compute: ComputeResource) -> dg.MaterializeResult:
        completed = compute.run(context, path, **call)
        got.extend(completed.get_custom_messages())
        return completed.get_materialize_result()

    result = run_asset(measured, compute, instance)
    assert result.success
    (message,) = got
    return message, result


def test_messages_logs_and_metadata_arrive(
    compute: ComputeResource, instance: dg.DagsterInstance, payload: Write
) -> None:
    path = payload(
        "import sys\n"
        "from dagster_pipes import open_dagster_pipes\n"
        "with open_dagster_pipes() as pipes:\n"
        "    pipes.log.info('said by the payload')\n"
        "    print('on stdout'); print('on stderr', file=sys.stderr)\n"
        "    pipes.report_asset_materialization(metadata={'rows': 42}, data_version='v7')\n"
    )
    result = run_asset(asset_of(path), compute, instance)
    assert result.success
    assert metadata_of(result)["rows"] == 42
    (event,) = result.get_asset_materialization_events()
    assert event.materialization.tags["dagster/data_version"] == "v7"
    assert "said by the payload" in log_messages(result, instance)
    assert "on stdout\n" in compute_log(result, instance)
    assert "on stderr\n" in compute_log(result, instance, "stderr")


@pytest.mark.sampled("compute", share=2)
@pytest.mark.parametrize(
    ("text", "is_right"),
    [
        (memory.HAS_150_MIB, memory.is_150_mib),
        (memory.READS_1_GIB, memory.is_without_files),
        (memory.DROPS_200_MIB, memory.is_without_files),
    ],
    ids=["a short one", "one that reads a large file", "one whose file is dropped"],
)
def test_memory_and_cpu_time_are_what_the_payload_has_used(
    compute: ComputeResource,
    instance: dg.DagsterInstance,
    payload: Write,
    text: str,
    is_right: Callable[[float], bool],
) -> None:
    ballast = bytearray(300 << 20)  # what this process has is not the payload's
    got = metadata_of(run_asset(asset_of(payload(text)), compute, instance))
    assert ballast and is_right(got["max_memory_mb"]), got
    assert got["elapsed_seconds"] >= 0.4
    assert 0 < got["cpu_efficiency_pct"] <= 110


def test_chosen_figures(compute: ComputeResource, instance: dg.DagsterInstance, payload: Write) -> None:
    asset = asset_of(payload("import time; time.sleep(0.3)"), slurm_metrics=["max_memory_mb"])
    found = list(metadata_of(run_asset(asset, compute, instance)))
    # A job's number stays, whatever is chosen.
    assert found == [*(["slurm_job_id"] if compute.mode == "slurm" else []), "max_memory_mb"]


def test_output_arrives_byte_by_byte(compute: ComputeResource, instance: dg.DagsterInstance, payload: Write) -> None:
    lines = "".join(f"{number:05d} äöü 😀\n" for number in range(20_000))
    path = payload("for number in range(20_000): print(f'{number:05d} äöü 😀')\nprint('no end of line', end='')\n")
    result = run_asset(asset_of(path), compute, instance)
    assert compute_log(result, instance) == lines + "no end of line"


def test_extras_variables_and_files(
    compute: ComputeResource, instance: dg.DagsterInstance, payload: Write, tmp_path: Path
) -> None:
    hostile = "a 'b' \"c\" $(touch x) `id`; \\ ü\nsecond line"
    tree = tmp_path / "tree"
    (tree / "deeper").mkdir(parents=True)
    (tree / "deeper" / "two words.txt").write_text("deep")
    path = payload(
        echo_back(
            extras="pipes.extras",
            variable="os.environ['HOSTILE']",
            named="pathlib.Path('data/input.txt').read_text()",
            deep="pathlib.Path('tree/deeper/two words.txt').read_text()",
            here="sorted(os.listdir('.'))",
        )
    )
    (tmp_path / "input").write_text("named")
    message, _ = _messages(
        compute,
        instance,
        path,
        extras={"alpha": [1, 2.5, None]},
        extra_env={"HOSTILE": hostile},
        extra_files={"data/input.txt": tmp_path / "input", "tree": tree},
    )
    assert message == {
        "extras": {"alpha": [1, 2.5, None]},
        "variable": hostile,
        "named": "named",
        "deep": "deep",
        "here": ["data", "payload.py", "tree"],
    }


def test_shell_script_without_pipes(compute: ComputeResource, instance: dg.DagsterInstance, payload: Write) -> None:
    path = payload("echo from bash $((6 * 7))\n", name="job.sh")
    result = run_asset(asset_of(path), compute, instance)
    assert result.success
    assert compute_log(result, instance) == "from bash 42\n"
    assert not any("did not receive" in message for message in log_messages(result, instance))


def test_executable_with_its_own_interpreter(
    compute: ComputeResource, instance: dg.DagsterInstance, payload: Write
) -> None:
    path = payload("#!/usr/bin/awk -f\nBEGIN { print 6 * 7 }\n", name="answer", mode=0o755)
    result = run_asset(asset_of(path), compute, instance)
    assert compute_log(result, instance) == "42\n"


def _files(directory: Path, **texts: str) -> Path:
    directory.mkdir(parents=True)
    for name, text in texts.items():
        (directory / f"{name}.py").write_text(text)
    return directory


def test_directory_with_a_main_module(compute: ComputeResource, instance: dg.DagsterInstance, tmp_path: Path) -> None:
    main = echo_back(
        answer="__import__('helper').ANSWER",
        name="__name__",
        here="sorted(os.listdir('.'))",
        inside="sorted(name for name in os.listdir('prepare') if name != '__pycache__')",
        tool="os.access('prepare/tool', os.X_OK)",
        data="os.access('prepare/data', os.X_OK)",
        beside="pathlib.Path('beside.txt').read_text()",
    )
    prepare = _files(tmp_path / "prepare", __main__=main, helper="ANSWER = 42")
    (prepare / "data").touch()
    (prepare / "tool").touch(mode=0o755)
    (prepare / "__pycache__").mkdir()
    (prepare / "__pycache__" / "helper.cpython-311.pyc").write_text("of another interpreter")
    (tmp_path / "beside.txt").write_text("beside it")
    message, _ = _messages(compute, instance, prepare, extra_files=[tmp_path / "beside.txt"])
    assert message == {
        "answer": 42,
        "name": "__main__",
        "here": ["beside.txt", "prepare"],
        "inside": ["__main__.py", "data", "helper.py", "tool"],
        "tool": True,
        "data": False,
        "beside": "beside it",
    }


def test_package(compute: ComputeResource, instance: dg.DagsterInstance, tmp_path: Path) -> None:
    main = "from . import ONE\nfrom .deep.two import TWO\n" + echo_back(both="[ONE, TWO]", package="__package__")
    package = _files(tmp_path / "package", __init__="ONE = 1", __main__=main)
    _files(package / "deep", two="from .. import ONE\nTWO = ONE + ONE")
    message, _ = _messages(compute, instance, package)
    assert message == {"both": [1, 2], "package": "package"}


@pytest.mark.parametrize(("name", "seen_as"), [("-m lib.work", "__main__"), ("lib.work:main", "lib.work")])
def test_module_and_function_among_the_extra_files(
    compute: ComputeResource, instance: dg.DagsterInstance, tmp_path: Path, name: str, seen_as: str
) -> None:
    body = echo_back(name="__name__", sibling="other.NAME", beside="settings.NAME").replace("\n", "\n    ")
    work = f"import settings\nfrom . import other\ndef main():\n    {body}\nif __name__ == '__main__': main()\n"
    lib = _files(tmp_path / "lib", work=work, other="NAME = 'sibling'")
    (tmp_path / "settings.py").write_text("NAME = 'beside'")
    message, _ = _messages(compute, instance, name, extra_files=[lib, tmp_path / "settings.py"])
    assert message == {"name": seen_as, "sibling": "sibling", "beside": "beside"}


@pytest.mark.parametrize(("name", "said"), [("-m calendar", "December"), ("this:c.bit_length", "Zen")])
def test_module_and_function_of_the_environment(
    compute: ComputeResource, instance: dg.DagsterInstance, name: str, said: str
) -> None:
    result = run_asset(asset_of(name), compute, instance)
    assert result.success
    assert said in compute_log(result, instance)


@pytest.mark.parametrize("name", ["prepare", "package", "-m lib.work", "lib.work:main"])
def test_every_form_fails_with_its_traceback(
    compute: ComputeResource, instance: dg.DagsterInstance, tmp_path: Path, name: str
) -> None:
    fails = "def main():\n    raise ValueError('it went wrong')\nif __name__ == '__main__': main()\n"
    _files(tmp_path / "prepare", __main__=fails)
    _files(tmp_path / "package", __init__="", __main__=fails)
    lib = _files(tmp_path / "lib", work=fails)
    path = tmp_path / name
    result = run_asset(asset_of(path if path.exists() else name, extra_files=[lib]), compute, instance)
    kind, text = failure_of(result)
    assert kind == "PayloadFailedError"
    assert "ValueError: it went wrong" in text
    assert ", line 2, in main" in text
    assert "exit code 1" in text


def test_failing_payload(compute: ComputeResource, instance: dg.DagsterInstance, payload: Write) -> None:
    path = payload("import sys\nprint('before the end', file=sys.stderr)\nsys.exit(7)\n")
    result = run_asset(asset_of(path), compute, instance)
    assert not result.success
    kind, text = failure_of(result)
    assert kind == "PayloadFailedError"
    assert "before the end" in text
    assert "State FAILED, exit code 7, node " in text


def test_payload_that_raises_inside_pipes(
    compute: ComputeResource, instance: dg.DagsterInstance, payload: Write
) -> None:
    path = payload(
        "from dagster_pipes import open_dagster_pipes\n"
        "with open_dagster_pipes() as pipes:\n"
        "    raise ValueError('it went wrong')\n"
    )
    result = run_asset(asset_of(path), compute, instance)
    assert "ValueError: it went wrong" in failure_of(result)[1]
    assert any("pipes closed with exception" in message for message in log_messages(result, instance))


def test_killed_payload(compute: ComputeResource, instance: dg.DagsterInstance, payload: Write) -> None:
    path = payload("import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)\n")
    result = run_asset(asset_of(path), compute, instance)
    assert "signal 11" in failure_of(result)[1]


def test_unreadable_message_is_told_and_loses_nothing(
    compute: ComputeResource, instance: dg.DagsterInstance, payload: Write
) -> None:
    path = payload(
        "from dagster_pipes import open_dagster_pipes, PipesEnvVarParamsLoader\n"
        "where = PipesEnvVarParamsLoader().load_messages_params()['path']\n"
        "with open_dagster_pipes() as pipes:\n"
        "    open(where, 'a').write('this is no message\\n')\n"
        "    pipes.report_asset_materialization(metadata={'rows': 1})\n"
    )
    result = run_asset(asset_of(path), compute, instance)
    assert metadata_of(result)["rows"] == 1
    assert any("this is no message" in message for message in log_messages(result, instance))


def test_multi_asset_with_checks(compute: ComputeResource, instance: dg.DagsterInstance, payload: Write) -> None:
    path = payload(
        "from dagster_pipes import open_dagster_pipes\n"
        "with open_dagster_pipes() as pipes:\n"
        "    for number, key in enumerate(('left', 'right')):\n"
        "        pipes.report_asset_materialization(asset_key=key, metadata={'number': number})\n"
        "    pipes.report_asset_check(asset_key='left', check_name='positive', passed=False, severity='WARN')\n"
    )

    @dg.multi_asset(
        specs=[dg.AssetSpec("left"), dg.AssetSpec("right")],
        check_specs=[dg.AssetCheckSpec("positive", asset="left")],
    )
    def both(context: dg.AssetExecutionContext, compute: ComputeResource):  # type: ignore[no-untyped-def]
        yield from compute.run(context, path).get_results()

    result = run_asset(both, compute, instance)
    assert result.success
    numbers = {
        event.asset_key.to_user_string(): event.materialization.metadata["number"].value
        for event in result.get_asset_materialization_events()
        if event.asset_key
    }
    assert numbers == {"left": 0, "right": 1}
    (evaluation,) = result.get_asset_check_evaluations()
    assert not evaluation.passed


def test_asset_check(compute: ComputeResource, instance: dg.DagsterInstance, payload: Write) -> None:
    path = payload(
        "from dagster_pipes import open_dagster_pipes\n"
        "with open_dagster_pipes() as pipes:\n"
        "    pipes.report_asset_check(asset_key='checked', check_name='sound', passed=True, metadata={'seen': 3})\n"
    )

    @dg.asset
    def checked() -> None:
        """Nothing to do."""

    @dg.asset_check(asset=checked)
    def sound(context: dg.AssetCheckExecutionContext, compute: ComputeResource) -> dg.AssetCheckResult:
        return compute.run(context, path).get_asset_check_result()

    result = (
        dg.Definitions(assets=[checked], asset_checks=[sound], resources={"compute": compute})
        .resolve_implicit_global_asset_job_def()
        .execute_in_process(instance=instance, raise_on_error=False)
    )
    assert result.success
    (evaluation,) = result.get_asset_check_evaluations()
    assert evaluation.passed
    assert evaluation.metadata["seen"].value == 3


def test_metadata_of_an_asset_check(instance: dg.DagsterInstance) -> None:
    """It was dropped without a word: a check that asked for a GPU got none."""
    seen = []

    @dg.asset_check(asset="checked", metadata={"slurm": {"partition": "gpu"}, "slurm_scratch": True})
    def sound(context: dg.AssetCheckExecutionContext) -> dg.AssetCheckResult:
        step = Step.of(context)
        seen.extend(metadata_of_assets(step, key) for key in ("slurm", "slurm_scratch", "slurm_inputs"))
        return dg.AssetCheckResult(passed=True)

    spec = dg.AssetCheckSpec("tidy", asset="both", metadata={"slurm": {"partition": "long"}})

    @dg.asset(check_specs=[spec])
    def both(context: dg.AssetExecutionContext):
        seen.append(metadata_of_assets(Step.of(context), "slurm"))
        yield dg.MaterializeResult(check_results=[dg.AssetCheckResult(passed=True, check_name="tidy")])

    definitions = dg.Definitions(assets=[both], asset_checks=[sound])
    job = definitions.resolve_implicit_global_asset_job_def()
    assert job.execute_in_process(instance=instance).success
    assert {"partition": "gpu"} in seen
    assert {"partition": "long"} in seen
    assert True in seen
    assert None in seen


def test_op(compute: ComputeResource, instance: dg.DagsterInstance, payload: Write) -> None:
    path = payload(echo_back(sum="1 + 1"))

    @dg.op
    def add(context: dg.OpExecutionContext, compute: ComputeResource) -> int:
        (message,) = compute.run(context, path).get_custom_messages()
        return int(message["sum"])

    @dg.job(resource_defs={"compute": compute})
    def adding() -> None:
        add()

    result = adding.execute_in_process(instance=instance)
    assert result.output_for_node("add") == 2


def test_partition_key_and_run_id(compute: ComputeResource, instance: dg.DagsterInstance, payload: Write) -> None:
    path = payload(echo_back(partition="pipes.partition_key", run="pipes.run_id"))
    got: list[Any] = []

    @dg.asset(partitions_def=dg.StaticPartitionsDefinition(["a b", "c|d"]))
    def parted(context: dg.AssetExecutionContext, compute: ComputeResource) -> dg.MaterializeResult:
        completed = compute.run(context, path)
        got.extend(completed.get_custom_messages())
        return completed.get_materialize_result()

    result = run_asset(parted, compute, instance, partition_key="c|d")
    assert got == [{"partition": "c|d", "run": result.run_id}]


def test_two_calls_in_one_asset(compute: ComputeResource, instance: dg.DagsterInstance, payload: Write) -> None:
    path = payload(echo_back(which="pipes.extras['which']"))
    got: list[Any] = []

    @dg.asset
    def twice(context: dg.AssetExecutionContext, compute: ComputeResource) -> dg.MaterializeResult:
        for which in ("first", "second"):
            completed = compute.run(context, path, extras={"which": which})
            got.extend(completed.get_custom_messages())
        return completed.get_materialize_result()

    assert run_asset(twice, compute, instance).success
    assert got == [{"which": "first"}, {"which": "second"}]


def test_step_retry_runs_the_payload_again(
    compute: ComputeResource, instance: dg.DagsterInstance, payload: Write
) -> None:
    path = payload(
        "import sys\n"
        "from dagster_pipes import open_dagster_pipes\n"
        "with open_dagster_pipes() as pipes:\n"
        "    print('attempt', pipes.retry_number)\n"
        "    sys.exit(1 if pipes.retry_number == 0 else 0)\n"
    )

    @dg.asset(retry_policy=dg.RetryPolicy(max_retries=1))
    def flaky(context: dg.AssetExecutionContext, compute: ComputeResource) -> dg.MaterializeResult:
        return compute.run(context, path).get_materialize_result()

    result = run_asset(flaky, compute, instance)
    assert result.success
    assert compute_log(result, instance) == "attempt 0\nattempt 1\n"


def test_launchpad_configuration_reaches_the_call(
    compute: ComputeResource, instance: dg.DagsterInstance, payload: Write, tmp_path: Path
) -> None:
    path = payload("print(open('chosen.txt').read())\n")
    (tmp_path / "chosen.txt").write_text("in the launchpad")

    @dg.asset
    def configured(
        context: dg.AssetExecutionContext, compute: ComputeResource, config: SlurmRunConfig
    ) -> dg.MaterializeResult:
        return compute.run(context, path, config=config).get_materialize_result()

    chosen = {"ops": {"configured": {"config": {"extra_files": [str(tmp_path / "chosen.txt")]}}}}
    result = run_asset(configured, compute, instance, run_config=chosen)
    assert compute_log(result, instance) == "in the launchpad\n"


@pytest.mark.parametrize(
    ("name", "text", "call", "kind", "named"),
    [
        ("absent.py", None, {}, "PayloadNotFoundError", "absent.py"),
        ("data.txt", "no program", {}, "InvalidRequestError", "data.txt"),
        ("p.py", "", {"extra_files": ["/no/such/file"]}, "PayloadNotFoundError", "/no/such/file"),
        ("p.py", "", {"extra_files": {"p.py": "/etc/hostname"}}, "InvalidRequestError", "'p.py'"),
        ("p.py", "", {"extra_files": {"../x": "/etc/hostname"}}, "InvalidRequestError", "'../x'"),
        ("p.py", "", {"extra_env": {"NOT-A-NAME": "1"}}, "InvalidRequestError", "'NOT-A-NAME'"),
    ],
)
def test_bad_requests_are_refused(
    compute: ComputeResource,
    instance: dg.DagsterInstance,
    tmp_path: Path,
    name: str,
    text: str | None,
    call: dict[str, Any],
    kind: str,
    named: str,
) -> None:
    path = tmp_path / name
    if text is not None:
        path.write_text(text)
    result = run_asset(asset_of(path, **call), compute, instance)
    assert not result.success
    assert failure_of(result)[0] == kind
    assert named in failure_of(result)[1]


def test_context_of_another_kind_is_refused(compute: ComputeResource, payload: Write) -> None:
    with pytest.raises(TypeError, match="asset, asset check or op context"):
        compute.run(json, payload(""))  # type: ignore[arg-type]
