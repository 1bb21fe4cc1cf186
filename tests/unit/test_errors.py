"""The error tree is the one that is drawn, and every error says where it happened and what to do."""

from __future__ import annotations

import inspect
import pickle
from collections.abc import Iterator

import pytest

from dagster_slurm import errors
from dagster_slurm.errors import ConfigurationError, DagsterSlurmError, JobFailedError, SlurmError, TransportError

CLASSES = [
    each
    for each in vars(errors).values()
    if isinstance(each, type) and issubclass(each, DagsterSlurmError) and each.__module__ == errors.__name__
]
PLACE = {"host": "user@login:2222", "command": "sbatch --parsable x", "job_id": "4711", "hint": "Do this."}
DOCTOR = "\n`dagster-slurm doctor` checks the way to the cluster step by step."
REQUIRED = {"returncode": 3, "stderr": "said", "state": "FAILED"}


def drawn_tree() -> Iterator[tuple[str, str | None, str]]:
    """Name, parent's name and remark of each line of the drawing."""
    path: list[str] = []
    for line in (errors.__doc__ or "").splitlines():
        name, _, remark = line.replace("├──", "   ").replace("└──", "   ").replace("│", " ").strip().partition(" ")
        if not name.endswith("Error"):
            continue
        depth = (len(line) - len(line.lstrip(" │├└─")) - 4) // 4
        path[depth:] = [name]
        yield name, path[depth - 1] if depth else None, remark.strip()


def arguments(cls: type[DagsterSlurmError]) -> dict[str, object]:
    known = inspect.signature(cls).parameters
    given = {**REQUIRED, **PLACE}
    return {name: value for name, value in given.items() if name in known}


def test_the_drawing_is_the_tree() -> None:
    drawn = {name: parent for name, parent, _ in drawn_tree()}
    real = {cls.__name__: None if cls is DagsterSlurmError else cls.__bases__[0].__name__ for cls in CLASSES}
    assert drawn == real


def test_the_drawing_says_which_are_transient() -> None:
    drawn = {name for name, _, remark in drawn_tree() if "(transient)" in remark}
    assert drawn == {cls.__name__ for cls in CLASSES if cls.transient}


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_the_text_says_what_where_and_what_to_do(cls: type[DagsterSlurmError]) -> None:
    given = arguments(cls)
    text = str(cls("What happened", **given))  # type: ignore[arg-type]
    assert text.startswith("What happened")
    # `job_failure` puts host and job id of a failed job into the message itself.
    told = {"hint"} if issubclass(cls, JobFailedError) else {name for name in PLACE if name in given}
    assert {name for name in PLACE if str(PLACE[name]) in text} == told
    assert {"host", "job_id", "hint"} <= set(given)


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_what_is_not_known_leaves_no_trace(cls: type[DagsterSlurmError]) -> None:
    given = {name: value for name, value in arguments(cls).items() if name in REQUIRED}
    error = cls("What happened", **given)  # type: ignore[arg-type]
    assert str(error) == f"What happened{DOCTOR if issubclass(cls, TransportError) else ''}"
    assert error.where == {}


def test_place_added_later_is_told() -> None:
    error = TransportError("What happened")
    error.host = "login"
    assert str(error) == f"What happened [host login]{DOCTOR}"


def test_golden_text() -> None:
    error = TransportError("It broke", hint="Mend it.", host="login", command="squeue", job_id="7")
    assert str(error) == f"It broke [host login, command squeue, job 7]\nMend it. {DOCTOR.strip()}"


def test_the_doctor_is_named_once() -> None:
    error = TransportError("It broke", hint="`dagster-slurm doctor` looks at it.")
    assert str(error) == "It broke\n`dagster-slurm doctor` looks at it."


def test_settings_that_a_host_does_not_have_are_of_the_way() -> None:
    assert str(ConfigurationError("No sbatch", hint="Extend PATH.", host="login")).endswith(DOCTOR.replace("\n", " "))
    assert str(ConfigurationError("No host", hint="Set it.")) == "No host\nSet it."


def test_what_was_said_comes_after_what_to_do() -> None:
    error = SlurmError("It broke\none\ntwo", hint="Mend it.", host="login")
    assert str(error) == "It broke [host login]\nMend it.\none\ntwo"
    assert error.first_line == "It broke [host login]"


def test_a_line_that_introduces_what_was_said_has_the_last_of_it() -> None:
    error = SlurmError("It cannot be built:\nwarning: old\nerror: no such file\n\n", hint="Mend it.", host="login")
    assert error.first_line == "It cannot be built: error: no such file [host login]"
    assert str(error).splitlines()[1:] == ["Mend it.", "warning: old", "error: no such file"]


def test_errors_of_the_request_are_those_that_end_the_same_again() -> None:
    """And none of them is one that time mends."""
    of_request = {cls.__name__ for cls in CLASSES if cls.is_of_request}
    request = {cls.__name__ for cls in CLASSES if issubclass(cls, ValueError)}
    others = {
        "InterpreterNotFoundError",
        "WheelNotFoundError",
        "HostNotFoundError",
        "AuthenticationError",
        "HostKeyError",
    }
    assert of_request == request | others
    assert not [cls.__name__ for cls in CLASSES if cls.is_of_request and cls.transient]


def test_errors_of_requests_and_settings_are_value_errors() -> None:
    values = {cls.__name__ for cls in CLASSES if issubclass(cls, ValueError)}
    wrong = {
        cls.__name__ for cls in CLASSES if issubclass(cls, (errors.InvalidRequestError, errors.ConfigurationError))
    }
    assert values == wrong
    assert {"SubmissionRejectedError", "SSHConfigurationError"} <= wrong


def test_a_failed_job_knows_how_it_ended() -> None:
    error = JobFailedError("Gone", state="TIMEOUT", exit_code=1, signal=9, node="n1", kept_path="/p", stderr_tail="t")
    seen = (error.state, error.exit_code, error.signal, error.node, error.kept_path, error.stderr_tail)
    assert seen == ("TIMEOUT", 1, 9, "n1", "/p", "t")


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_it_can_be_caught_as_the_base_with_its_message_in_args(cls: type[DagsterSlurmError]) -> None:
    required = {name: value for name, value in arguments(cls).items() if name in REQUIRED}
    with pytest.raises(DagsterSlurmError) as caught:
        raise cls("What happened", **required)  # type: ignore[arg-type]
    assert caught.value.args == ("What happened",)
    if not required:
        assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)
