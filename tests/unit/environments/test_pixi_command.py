"""The command that packs: what it injects, which task it is, what its failures mean."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from dagster_slurm.environments import pixi_command
from dagster_slurm.environments.pixi_command import DEFAULT, Attempt, created, expanded, injecting
from dagster_slurm.environments.pixi_lock import of_task
from dagster_slurm.errors import EnvironmentBuildError, InvalidRequestError, LocalStorageError


@pytest.fixture
def project(tmp_path: Path) -> Path:
    for name in (
        "coast/dist/a-1.whl",
        "coast/dist/b-1.whl",
        "coast/c.conda",
        "packages/dist/d-1.whl",
        "coast/notes.txt",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    return tmp_path / "coast"


@pytest.mark.parametrize(
    ("command", "found"),
    [
        ("pixi-pack", []),
        ("pixi-pack --inject a.conda pixi.toml", ["a.conda"]),
        ("pixi-pack --inject=a.conda b.whl", ["--inject=a.conda"]),
        ("pixi-pack -i a.conda b.whl --inject c.tar.bz2 pixi.toml", ["a.conda", "b.whl", "c.tar.bz2"]),
        ("pixi-pack --inject a.conda -e prod b.whl", ["a.conda"]),
        ("pixi-pack --inject dist/* more/*.whl pixi.toml", ["dist/*", "more/*.whl"]),
        ("make-pack -i something", ["something"]),
    ],
)
def test_what_a_command_injects(command: str, found: list[str]) -> None:
    words = command.split()
    assert [words[number] for number in injecting(words)] == found


def test_patterns_are_expanded_as_a_shell_does(project: Path) -> None:
    found = expanded(["pixi-pack", "-i", "dist/*.whl", "../packages/dist/*.whl", "c.conda", "pixi.toml"], project)
    assert found.argv[2:] == ("dist/a-1.whl", "dist/b-1.whl", "../packages/dist/d-1.whl", "c.conda", "pixi.toml")
    assert list(found.files) == ["dist/a-1.whl", "dist/b-1.whl", "../packages/dist/d-1.whl", "c.conda"]
    absolute = expanded(["pixi-pack", f"--inject={project}/dist/*.whl"], project)
    assert absolute.argv[1:] == (f"--inject={project}/dist/a-1.whl", f"--inject={project}/dist/b-1.whl")


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        ("--inject wheels/*.whl", "No file matches 'wheels/*.whl' of --inject"),
        ("--inject e.conda", "e.conda to inject"),
        ("--inject notes.txt", "'notes.txt' cannot be injected, and the packer would leave it out without a word"),
        ("--inject dist", "dist to inject"),
    ],
)
def test_what_cannot_be_injected(words: str, problem: str, project: Path) -> None:
    with pytest.raises(InvalidRequestError, match=re.escape(problem)):
        expanded(["pixi-pack", *words.split()], project)


TOML = '[workspace]\nname = "coast"\n'


@pytest.mark.parametrize(
    ("name", "text", "task"),
    [
        ("pixi.toml", TOML, None),
        ("pixi.toml", TOML + '[tasks]\npack = "pixi-pack"\n', "pack"),
        ("pixi.toml", TOML + '[tasks]\npack = "x"\npack-only = { cmd = "pixi-pack" }\n', "pack-only"),
        ("pixi.toml", TOML + '[feature.packing.tasks]\npack-only = "pixi-pack"\n', "pack-only"),
        ("pixi.toml", TOML + '[target.linux.tasks]\npack = "pixi-pack"\n', "pack"),
        ("pyproject.toml", '[tool.pixi.tasks]\npack = "pixi-pack"\n', "pack"),
        ("pyproject.toml", '[tool.other.tasks]\npack = "x"\n', None),
    ],
)
def test_the_task_of_a_project(name: str, text: str, task: str | None, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    found = of_task(tmp_path)
    assert (found.words if found else None) == (("pixi", "run", "--frozen", task) if task else None)


def test_what_a_task_injects(project: Path) -> None:
    """By itself, by what it depends on, and as far as it is there: it may be built first."""
    (project / "sub").mkdir()
    (project / "sub" / "e-1.whl").touch()
    (project / "pixi.toml").write_text(
        TOML
        + '[tasks]\npack = { cmd = "pixi-pack -i dist/*.whl more/*.whl pixi.toml", depends-on = ["other", "other"] }\n'
        'other = { cmd = ["pixi-pack", "--inject=e-1.whl"], cwd = "sub", depends-on = { task = "pack" } }\n'
        'broken = "it\'s"\n'
    )
    found = of_task(project)
    assert found
    assert sorted(path.relative_to(project).as_posix() for path in found.injected().values()) == [
        "dist/a-1.whl",
        "dist/b-1.whl",
        "sub/e-1.whl",
    ]


def test_wheels_stand_before_another_option() -> None:
    words = pixi_command.with_wheels(DEFAULT, ["a.whl", "b.whl"])
    assert [words[number] for number in injecting(words)] == ["a.whl", "b.whl"]
    assert "--ignore-pypi-non-wheel" in words
    assert words[-1] == "{manifest}"
    assert pixi_command.with_wheels(DEFAULT, []) == DEFAULT


def test_on_the_login_node_it_makes_a_directory() -> None:
    words = pixi_command.for_login_node(DEFAULT, ["a.whl"])
    assert "--directory-only" in words
    assert not {"--create-executable", "--use-cache", "{cache}"}.intersection(words)
    assert pixi_command.for_login_node(("make", "pack"), []) == ("make", "pack")


@pytest.mark.parametrize(
    ("said", "path"),
    [
        ("📦 Created pack at /a b/environment.tar with size 1.2 MiB.\n", "/a b/environment.tar"),
        ("📦 Created pack directory at build/environment.\nbye\n", "build/environment"),
        ("Created pack at one.sh with size 1 B.\nCreated pack at two.sh with size 2 B.", "two.sh"),
        ("nothing of the kind", None),
    ],
)
def test_where_the_pack_is_said_to_be(said: str, path: str | None) -> None:
    assert created(said) == path


ATTEMPT = Attempt("the pixi environment default of coast", "pixi-pack ...", "linux-64", 7, Path("/cache/work"))


@pytest.mark.parametrize(
    ("said", "hint"),
    [
        ("Error: could not read lockfile at pixi.lock: found newer lockfile format version 7", "needs pixi-pack 0.7.7"),
        ("Error: environment not found in lockfile: gpu", "`environment` names one of"),
        ("Error: platform not found in lockfile: linux-64", "Add linux-64 to `platforms`"),
        ("Error: package slow is not a wheel file, we currently require all dependencies to be wheels.", "only wheels"),
        ("Error: could not archive directory: Unsupported platform: linux-64", "no pixi-unpack for linux-64"),
        ("Error: could not download package: Download x failed, checksum mismatch", "not what the lock names"),
        ("Error: could not copy file to channel directory: No such file or directory (os error 2)", "is injected"),
        ("Error: package 'x' has dependency 'python >=3.14', which is not in the environment", "does not go with"),
        ("Fetching pixi-unpack\nError: error sending request for url (https://github.com/x)", "fetches pixi-unpack"),
        (
            "Error: could not download package: error sending request for url (https://c.example/x)",
            "is there a network",
        ),
        ("Error: dns error: failed to lookup address information: Name or service not known", "is there a network"),
        ("error: unexpected argument '--use-cache' found", "0.7.6 or later does"),
        ("Error: No such file or directory (os error 2)", "a path is missing on this machine"),
        ("Error: something new", "Try the same command"),
    ],
)
def test_what_a_failure_means(said: str, hint: str) -> None:
    error = ATTEMPT.error(1, f"Downloading\n{said}\n")
    assert isinstance(error, EnvironmentBuildError)
    assert error.message.startswith("The pixi environment default of coast cannot be packed, status 1:\n")
    assert said.splitlines()[-1] in error.message
    assert hint in str(error.hint)


def test_a_failure_without_a_word_has_a_reason() -> None:
    assert ATTEMPT.error(137, " \n").message.splitlines()[1] == "it ended with status 137 and said nothing"


@pytest.mark.parametrize("said", ["Error: No space left on device (os error 28)", "Disk quota exceeded"])
def test_no_space_here_is_an_error_of_this_machine(said: str) -> None:
    error = ATTEMPT.error(1, said)
    assert isinstance(error, LocalStorageError)
    assert "in /cache/work" in error.message
    assert "DAGSTER_SLURM_CACHE_DIR" in str(error.hint)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "pixi-pack --pixi-unpack-source https://me:s3cret@mirror/x",
            "pixi-pack --pixi-unpack-source https://***@mirror/x",
        ),
        ("url (https://conda.example/t/to-ken/forge/x.conda)", "url (https://conda.example/t/***/forge/x.conda)"),
        ("git@host:repo and a@b.c", "git@host:repo and a@b.c"),
    ],
)
def test_secrets_are_in_no_log(text: str, said: str) -> None:
    assert pixi_command.without_secrets(text) == said
    assert said in ATTEMPT.error(1, text).message


def test_a_plain_archive_of_the_same() -> None:
    words = "pixi-pack -e x --create-executable --pixi-unpack-source here -o out --pixi-unpack-source=there pixi.toml"
    assert pixi_command.without_executable(words.split()) == ["pixi-pack", "-e", "x", "-o", "out", "pixi.toml"]
