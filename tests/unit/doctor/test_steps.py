"""The run through the steps, with a login node that is played: what depends on a fault is not checked."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import pytest
from tests.support.scripted import ScriptedTransport

from dagster_slurm.doctor import STEPS, Asked, Settings, Step, World, diagnose
from dagster_slurm.doctor.finding import Finding, Status, fine, wrong
from dagster_slurm.errors import AuthenticationError, ConfigurationError, TransportTimeoutError
from dagster_slurm.slurm.request import merge
from dagster_slurm.transport import CompletedCommand
from dagster_slurm.transport.shell import Verb, verb

Raised = Callable[[], Exception]
COMMANDS = ("sbatch", "squeue", "scancel", "sacct", "scontrol", "sinfo", "sacctmgr")
ANSWERS = {
    "login": "user me\nhost login1\nsystem Linux 6\nhome /home/me\n",
    "shell": "shell /bin/bash\nnoise 0\nbash 5.2\n",
    "commands": "".join(f"{name} /usr/bin/{name}\n" for name in COMMANDS) + "version slurm 22.05.8\n",
    "controller": "ping Slurmctld(primary) at ctl is UP\njobs 1\n",
    "associations": "association c|research||normal\n",
    "partitions": "partition PartitionName=compute Default=YES MaxTime=01:00:00 State=UP\n"
    "nodes compute|3|8|16000|(null)|(null)|idle\n",
    "space": "blocks nas nfs4 9000000 1 8000000 1% /home\ninodes nas 100 1 99 1% /home\n",
    "writing": "mode 700\nfile 600\nbase 700 me\n",
    "clock": "time 1000.0\n",
    "python": "dagster-slurm python 3.11.2 pipes 1.13.0\n",
}


def checked(script: str) -> str:
    """Which check it is; empty for none."""
    return script.name.removeprefix("check_") if isinstance(script, Verb) and script.name.startswith("check_") else ""


def played(**changes: str | Raised) -> World:
    """A world of this machine whose shell files answer as above, but for `changes` (`clock=...`)."""
    answers: Mapping[str, str | Raised] = {**ANSWERS, **changes}
    facts = verb("facts", "dagster_slurm.cluster_scripts")

    def answer(script: str, args: Sequence[str], stdin: bytes) -> CompletedCommand:
        told = "home /home/me\nuser me\nversion slurm 22.05.8\n" if script == facts else ""
        name = checked(script)
        said = answers[name] if name else told
        if callable(said):
            raise said()
        return CompletedCommand(said.encode(), b"", 0)

    return World(
        Asked(local=True),
        read=lambda asked: Settings(None, merge({"partition": "compute", "time": "30"}), "~/runs"),
        transport=ScriptedTransport(answer),
        clock=lambda: 1000.0,
    )


def statuses(world: World) -> dict[str, Status]:
    return {finding.step: finding.status for finding in diagnose(world)}


SSH_STEPS = {"name", "port", "host key", "connection"}


def after(name: str) -> Sequence[Step]:
    """The steps behind that one."""
    return STEPS[[step.name for step in STEPS].index(name) + 1 :]


def test_all_is_fine() -> None:
    expected = {step.name: "skipped" if step.name in {*SSH_STEPS, "job"} else "ok" for step in STEPS}
    assert statuses(played()) == expected


def test_every_check_speaks_for_its_own_step() -> None:
    assert [finding.step for finding in diagnose(played())] == [step.name for step in STEPS]


def test_slurm_is_asked_for_each_thing_once() -> None:
    world = played()
    list(diagnose(world))
    transport = world.transport
    assert isinstance(transport, ScriptedTransport)
    asked = [checked(script) for script, _ in transport.calls if checked(script)]
    for name in ("partitions", "associations", "controller"):
        assert asked.count(name) == 1


def test_the_home_directory_is_known_without_slurm() -> None:
    assert played().cluster.base() == "/home/me/runs"


def test_a_refused_login_is_asked_for_once() -> None:
    calls: list[int] = []

    def refuse() -> Exception:
        calls.append(1)
        return AuthenticationError("The login was refused", hint="Correct it.")

    found = statuses(played(login=refuse))
    assert len(calls) == 1
    assert found["login"] == "wrong"
    assert {found[step.name] for step in after("login")} == {"skipped"}


def test_a_connection_that_is_lost_ends_the_rest() -> None:
    world = played(commands=lambda: TransportTimeoutError("No answer in time", hint="Wait."))
    found = {finding.step: finding for finding in diagnose(world)}
    assert found["shell"].status == "ok"
    assert (found["commands"].status, found["commands"].problem) == ("wrong", "No answer in time")
    assert found["clock"].found == "the connection has to work first"
    assert {found[step.name].status for step in after("commands")} == {"skipped"}


def test_a_file_system_that_hangs_is_named() -> None:
    world = played(space=lambda: TransportTimeoutError("No answer in time"))
    remedies = [finding.remedy for finding in diagnose(world) if finding.status == "wrong"]
    assert len(remedies) == 1
    assert "The file system of /home/me/runs may hang" in remedies[0]


@pytest.mark.parametrize(
    ("changes", "step"),
    [({"clock": "time 1234.%N\n"}, "clock"), ({"shell": ""}, "shell"), ({"writing": "mode 700\n"}, "writing")],
)
def test_an_answer_that_nobody_expected_is_told_without_a_traceback(changes: dict[str, str], step: str) -> None:
    found = {finding.step: finding for finding in diagnose(played(**changes))}
    assert found[step].status == "wrong"
    assert "cannot be read" in found[step].problem


@pytest.mark.parametrize("base", ["~other/runs", " "])
def test_a_base_that_leads_nowhere(base: str) -> None:
    world = played()
    world.settings = Settings(None, world.settings.request, base)
    found = {finding.step: finding for finding in diagnose(world)}
    assert found["space"].status == "wrong"
    assert "is not an absolute path" in found["space"].problem


@pytest.mark.parametrize("base", ["runs", "./runs", "~/runs", "$HOME/runs"])
def test_a_base_is_made_absolute(base: str) -> None:
    world = played()
    world.settings = Settings(None, world.settings.request, base)
    assert world.cluster.base() == f"{world.log_in()['home'][0]}/runs"


def test_only_what_depends_on_a_fault_is_left_out() -> None:
    def check(status: Status) -> Callable[[World], Finding]:
        return lambda world: fine("x", "") if status == "ok" else wrong("x", "p", "r")

    steps = (
        Step("a", (), check("ok")),
        Step("b", ("a",), check("wrong")),
        Step("c", ("b",), check("ok")),
        Step("d", ("c",), check("ok")),
        Step("e", ("a",), check("ok")),
    )
    found = list(diagnose(played(), steps))
    assert [each.status for each in found] == ["ok", "wrong", "skipped", "skipped", "ok"]
    assert [each.found for each in found[2:4]] == ["b has to work first"] * 2


def test_settings_that_cannot_be_read() -> None:
    def read(asked: Asked) -> Settings:
        raise ConfigurationError("HOST is not set", hint="Set it.")

    found = statuses(World(Asked(), read=read))
    assert found.pop("settings") == "wrong"
    assert found.pop("package") == "ok"
    assert set(found.values()) == {"skipped"}
