"""The shell files of the cluster, run by the shell of this machine."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dagster_slurm.cluster import FilePosition, SlurmCluster
from dagster_slurm.cluster.claims import Claims
from dagster_slurm.errors import (
    ConfigurationError,
    EnvironmentNotFoundError,
    RemoteStorageError,
    SubmissionRejectedError,
    SubmissionUnknownError,
    TransportError,
)
from dagster_slurm.run_directory import STREAMS, RunDirectory
from dagster_slurm.slurm.request import merge
from dagster_slurm.transport import CompletedCommand, LocalTransport, TreeEntry
from dagster_slurm.transport.shell import verb

SBATCH = """#!/bin/sh
[ "$1" = --version ] && { echo 'slurm 22.05.8'; exit; }
echo "$*" >>"$(dirname "$0")/calls"
sleep 0.2
[ -e "$(dirname "$0")/die" ] && kill -9 $$
[ -e "$(dirname "$0")/refuse" ] && { echo 'sbatch: error: invalid partition specified: x' >&2; exit 1; }
umask >"$(dirname "$0")/umask"
echo 4711
"""


@pytest.fixture(scope="module")
def transport() -> Iterator[LocalTransport]:
    transport = LocalTransport()
    yield transport
    transport.close()


@pytest.fixture
def cluster(transport: LocalTransport, tmp_path: Path) -> SlurmCluster:
    (tmp_path / "base it's" / "runs").mkdir(parents=True)
    return SlurmCluster(transport, remote_base=str(tmp_path / "base it's"))


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Programs that stand in for Slurm's, for what has to fail on demand."""
    directory = tmp_path / "bin"
    directory.mkdir()
    for name in ("sbatch", "squeue", "scancel"):
        (directory / name).write_text(SBATCH)
        (directory / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{directory}:{os.environ['PATH']}")
    return directory


@pytest.fixture
def own(programs: Path, tmp_path: Path) -> Iterator[SlurmCluster]:
    """A cluster whose shells find those programs."""
    transport = LocalTransport(channels=4)
    yield SlurmCluster(transport, remote_base=str(tmp_path / "base"))
    transport.close()


def wait_until(condition: Callable[[], bool], seconds: float = 20.0) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def created(cluster: SlurmCluster, name: str = "key") -> RunDirectory:
    directory = RunDirectory(cluster.base(), "run", name)
    work = [TreeEntry("payload.py", b"print()", 0o700), TreeEntry("sub/data", b"d")]
    files = directory.files(script="#!/bin/bash\n", env="export A=1\n", context=b"{}", work=work)
    cluster.transport.put_tree(files, directory.path)
    return directory


class TestReadNew:
    """poll.sh: what is new in many files, in one round trip."""

    @given(
        files=st.lists(st.none() | st.binary(max_size=300), min_size=1, max_size=6),
        offsets=st.lists(st.integers(0, 310), min_size=6, max_size=6),
        max_bytes=st.integers(1, 400),
    )
    @settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    def test_any_files_at_any_offsets(
        self, cluster: SlurmCluster, files: list[bytes | None], offsets: list[int], max_bytes: int
    ) -> None:
        root = Path(cluster.base()) / "runs"
        expected = {}
        for number, content in enumerate(files):
            path = root / f"f{number}"
            path.unlink(missing_ok=True)
            if content is not None:
                path.write_bytes(content)
                expected[path.name] = content[offsets[number] : offsets[number] + max_bytes]
        positions = [FilePosition(f"f{number}", offsets[number]) for number in range(len(files))]
        seen = cluster.read_new(positions, max_bytes=max_bytes)
        assert seen == {name: data for name, data in expected.items() if data}

    def test_many_jobs_in_one_question(self, cluster: SlurmCluster) -> None:
        directories = [created(cluster, f"key{number}") for number in range(50)]
        for number, directory in enumerate(directories):
            Path(directory.path, "log", "stdout.0").write_bytes(b"%d" % number)
        positions = [FilePosition(each.log_name(f"{name}.0"), 0) for each in directories for name in STREAMS]
        seen = cluster.read_new(positions, max_bytes=100)
        assert seen == {each.log_name("stdout.0"): b"%d" % number for number, each in enumerate(directories)}

    def test_a_file_that_is_not_there_yet_or_no_file(self, cluster: SlurmCluster) -> None:
        path = Path(cluster.base(), "runs", "new")
        positions = [FilePosition("new", 0), FilePosition(".", 0)]
        assert cluster.read_new(positions, max_bytes=9) == {}
        path.write_bytes(b"first\0")
        assert cluster.read_new(positions, max_bytes=9) == {"new": b"first\0"}

    def test_a_directory_that_is_removed(self, cluster: SlurmCluster) -> None:
        """Nobody was told."""
        gone, there = created(cluster, "gone"), created(cluster, "there")
        positions = [FilePosition(each.log_name(name), 0) for each in (gone, there) for name in ("status", "stdout.0")]
        assert cluster.read_new(positions, max_bytes=9) == {}
        shutil.rmtree(gone.path)
        Path(there.path, "log", "stdout.0").write_bytes(b"x")
        assert cluster.read_new(positions, max_bytes=9) == {
            gone.log_name("status"): b"",
            there.log_name("stdout.0"): b"x",
        }
        shutil.rmtree(Path(cluster.base()))
        assert cluster.read_new(positions, max_bytes=9) == {each.log_name("status"): b"" for each in (gone, there)}

    @pytest.mark.parametrize("name", ["total", "run/total"])
    def test_a_file_with_the_name_of_the_total(self, cluster: SlurmCluster, name: str) -> None:
        path = Path(cluster.base(), "runs", name)
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"x")
        assert cluster.read_new([FilePosition("a", 0), FilePosition(name, 0)], max_bytes=9) == {name: b"x"}

    def test_a_missing_root_holds_nothing_new(self, transport: LocalTransport, tmp_path: Path) -> None:
        assert SlurmCluster(transport, remote_base=str(tmp_path)).read_new([FilePosition("a", 0)], max_bytes=9) == {}


@pytest.fixture(params=["perl", "without perl", "a broken perl"])
def shell_with(request: pytest.FixtureRequest, programs: Path) -> LocalTransport:
    """A login node with Perl, or without; the second and the third find a stand-in that fails as the shell would."""
    if request.param != "perl":
        (programs / "perl").write_text(f"#!/bin/sh\nexit {127 if request.param == 'without perl' else 2}\n")
        (programs / "perl").chmod(0o755)
    return LocalTransport()


class TestReadNewWithAndWithoutPerl(TestReadNew):
    """The same with one process for all files, and with one for each."""

    @pytest.fixture
    def cluster(self, shell_with: LocalTransport, tmp_path: Path) -> Iterator[SlurmCluster]:
        (tmp_path / "base it's" / "runs").mkdir(parents=True)
        yield SlurmCluster(shell_with, remote_base=str(tmp_path / "base it's"))
        shell_with.close()

    @pytest.fixture
    def transport(self, shell_with: LocalTransport) -> LocalTransport:
        return shell_with


class TestWaitingForNews:
    """poll.sh may wait on the cluster: for something new in any of the files, and no longer than it was told."""

    LONG = "600"

    @pytest.fixture
    def runs(self, tmp_path: Path) -> Path:
        for name in ("one", "two"):
            (tmp_path / name).mkdir()
            (tmp_path / name / "status").touch()
        return tmp_path

    def begun(self, runs: Path, seconds: str, path: str = os.environ["PATH"]) -> subprocess.Popen[bytes]:
        words = [word for name in ("one/status", "one/out", "two/status", "two/out") for word in ("0", name)]
        argv = [
            str(shutil.which("dash")),
            "-c",
            verb("poll", "dagster_slurm.cluster_scripts"),
            "poll",
            str(runs),
            "100",
            seconds,
        ]
        return subprocess.Popen([*argv, *words], stdout=subprocess.PIPE, env={"PATH": path})

    def said(self, process: subprocess.Popen[bytes]) -> bytes:
        """Long before it would have waited to the end."""
        return process.communicate(timeout=60.0)[0]

    def test_what_comes_meanwhile_is_answered_at_once(self, runs: Path) -> None:
        with self.begun(runs, self.LONG) as waiting:
            time.sleep(0.3)
            assert waiting.poll() is None
            (runs / "two" / "out").write_bytes(b"new")
            assert self.said(waiting) == b"two/out 0 3\nnew"

    def test_what_is_there_is_answered_at_once(self, runs: Path) -> None:
        (runs / "one" / "out").write_bytes(b"old")
        with self.begun(runs, self.LONG) as waiting:
            assert self.said(waiting) == b"one/out 0 3\nold"

    def test_where_nothing_comes_it_ends(self, runs: Path) -> None:
        began = time.monotonic()
        with self.begun(runs, "0.6") as waiting:
            assert self.said(waiting) == b""
        # The clock of proc(5) has hundredths.
        assert time.monotonic() - began > 0.57

    def test_without_a_time_it_does_not_wait(self, runs: Path) -> None:
        with self.begun(runs, "0") as process:
            assert self.said(process) == b""

    def test_a_status_that_is_removed_is_answered_at_once(self, runs: Path) -> None:
        with self.begun(runs, self.LONG) as waiting:
            time.sleep(0.3)
            shutil.rmtree(runs / "one")
            assert self.said(waiting) == b"one/status 0 0\n"

    def test_looks_at_many_files_are_gentle(self, tmp_path: Path) -> None:
        """Of each a few milliseconds."""
        names = [f"{number}.out" for number in range(400)]
        for name in names:
            (tmp_path / name).touch()
        words = [word for name in names for word in ("0", name)]
        began, before = time.monotonic(), os.times()
        argv = ["sh", "-c", verb("poll", "dagster_slurm.cluster_scripts"), "poll", str(tmp_path), "100", "3"]
        assert subprocess.run([*argv, *words], capture_output=True, check=True).stdout == b""
        after, elapsed = os.times(), time.monotonic() - began
        used = after.children_user - before.children_user + after.children_system - before.children_system
        assert 0 < used < 0.1 * elapsed

    def test_without_perl_it_does_not_wait(self, runs: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
        programs = tmp_path_factory.mktemp("programs")
        for name in ("wc", "dd"):
            (programs / name).symlink_to(str(shutil.which(name)))
        (runs / "two" / "out").write_bytes(b"new")
        for expected in (b"two/out 0 3\nnew", b""):
            with self.begun(runs, self.LONG, str(programs)) as process:
                assert self.said(process) == expected
            (runs / "two" / "out").unlink(missing_ok=True)


class TestRunDirectory:
    """Created as a whole, removed or trimmed as a whole."""

    def test_created(self, cluster: SlurmCluster) -> None:
        directory = created(cluster)
        root = Path(directory.path)
        files = {str(path.relative_to(root)): path.stat().st_mode & 0o777 for path in root.rglob("*") if path.is_file()}
        logs = {f"log/{name}": 0o600 for name in ("status", "stdout.0", "stderr.0", "messages.0", "messages")}
        assert files == {
            "protocol": 0o600,
            "launch.json": 0o600,
            "job.sh": 0o700,
            "env.sh": 0o600,
            "pipes/context.json": 0o600,
            "work/payload.py": 0o700,
            "work/sub/data": 0o600,
            **logs,
        }
        assert root.stat().st_mode & 0o777 == 0o700
        assert (root / "log/messages").readlink() == Path("messages.0")
        assert Path(directory.script).read_text() == "#!/bin/bash\n"
        assert Path(directory.context).read_text() == "{}"

    def test_removed_with_the_run_s_directory_when_it_was_the_last(self, cluster: SlurmCluster) -> None:
        first, second = created(cluster, "a"), created(cluster, "b")
        first.remove(cluster.transport)
        assert wait_until(lambda: not Path(first.launch).exists())
        assert Path(second.path).exists()
        second.remove(cluster.transport)
        assert wait_until(lambda: not Path(second.launch).parent.exists())
        second.remove(cluster.transport)
        assert Path(cluster.base(), "runs").exists()

    def test_trimmed_to_script_status_and_the_end_of_stderr(self, cluster: SlurmCluster) -> None:
        directory = created(cluster)
        logs = Path(directory.path, "log")
        for name in ("stderr.0", "stderr.1"):
            (logs / name).write_text("".join(f"{name} {n}\n" for n in range(1500)))
        (logs / "stdout.0").write_text("x")
        (logs / "slurm.log").write_text("killed")
        directory.trim(cluster.transport)
        left = sorted(
            str(path.relative_to(directory.path)) for path in Path(directory.path).rglob("*") if path.is_file()
        )
        assert left == [
            "job.sh",
            "launch.json",
            "log/slurm.log",
            "log/status",
            "log/stderr.0",
            "log/stderr.1",
            "protocol",
        ]
        lines = (logs / "stderr.1").read_text().splitlines()
        assert (len(lines), lines[0], lines[-1]) == (1000, "stderr.1 500", "stderr.1 1499")
        directory.trim(cluster.transport)

    def test_trimming_what_is_gone_harms_nothing(self, cluster: SlurmCluster) -> None:
        RunDirectory(cluster.base(), "no", "such").trim(cluster.transport)
        assert cluster.transport.run("echo on").text == "on\n"


class TestEnvironmentLayout:
    """environment.sh: which layout lies at a path."""

    def test_layouts(self, cluster: SlurmCluster, tmp_path: Path) -> None:
        for name in ("packed's/env/bin", "prefix/bin"):
            (tmp_path / name).mkdir(parents=True)
            (tmp_path / name / "python").write_text("")
            (tmp_path / name / "python").chmod(0o755)
        (tmp_path / "packed's" / "activate.sh").write_text("")
        assert cluster.environment_layout(str(tmp_path / "packed's")) == "packed"
        assert cluster.environment_layout(str(tmp_path / "prefix")) == "prefix"

    def test_neither(self, cluster: SlurmCluster, tmp_path: Path) -> None:
        for path, problem in ((tmp_path, "is not an environment"), (tmp_path / "missing", "does not exist")):
            with pytest.raises(EnvironmentNotFoundError, match=problem) as caught:
                cluster.environment_layout(str(path))
            assert str(path) in str(caught.value)
            assert caught.value.hint

    def test_many_steps_ask_once_and_what_was_missing_is_asked_about_again(
        self, cluster: SlurmCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        asked, path = [], str(tmp_path / "prefix")
        script = cluster.script
        monkeypatch.setattr(cluster, "script", lambda name, words: asked.append(name) or script(name, words))
        with pytest.raises(EnvironmentNotFoundError):
            cluster.environment_layout(path)
        (tmp_path / "prefix/bin").mkdir(parents=True)
        (tmp_path / "prefix/bin/python").touch(mode=0o755)
        with ThreadPoolExecutor(8) as pool:
            assert set(pool.map(cluster.environment_layout, [path] * 20)) == {"prefix"}
        assert asked == ["environment"] * 2


class TestBase:
    """Where runs lie."""

    def test_home_is_expanded_on_the_cluster(self, own: SlurmCluster) -> None:
        home = own.facts().home
        bases = [SlurmCluster(own.transport, remote_base=base).base() for base in ("~", "~/", "~/x/", "/x/y/")]
        assert bases == [home, home, f"{home}/x", "/x/y"]

    @pytest.mark.parametrize("base", ["", " ", "~other/x", "a\nb"])
    def test_what_leads_nowhere_is_refused(self, transport: LocalTransport, base: str) -> None:
        with pytest.raises(ConfigurationError, match="not an absolute path"):
            SlurmCluster(transport, remote_base=base).base()

    def test_missing_commands_are_named(self, programs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        tools = tmp_path / "tools"
        tools.mkdir()
        for name in ("env", "sed", "head", "cat", "sh"):
            (tools / name).symlink_to(f"/usr/bin/{name}" if Path(f"/usr/bin/{name}").exists() else f"/bin/{name}")
        monkeypatch.setenv("PATH", str(tools))
        transport = LocalTransport()
        with pytest.raises(ConfigurationError, match="is not on the PATH") as caught:
            SlurmCluster(transport).facts()
        transport.close()
        assert caught.value.hint


@pytest.fixture
def at_home(programs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalTransport]:
    """The way to a login with a home directory, whose profile alone sets SCRATCH and WORK, and prints something."""
    (tmp_path / ".bash_profile").write_text("echo welcome\nexport SCRATCH=/scratch/of/$USER WORK=work\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USER", "me")
    for name in ("SCRATCH", "WORK", "NOTHING"):
        monkeypatch.delenv(name, raising=False)
    transport = LocalTransport(channels=1)
    yield transport
    transport.close()


class TestPaths:
    """Those of the cluster are absolute before anything is made of them, and the login says where they lead."""

    @pytest.mark.parametrize(
        ("base", "leads_to"),
        [
            ("runs", "HOME/runs"),
            ("./runs/", "HOME/runs"),
            ("~/$USER/runs", "HOME/me/runs"),
            ("$HOME", "HOME"),
            ("$SCRATCH/runs", "/scratch/of/me/runs"),
            ("$WORK/runs", "HOME/work/runs"),
            ("/data/${USER}/runs", "/data/me/runs"),
        ],
    )
    def test_of_the_runs(self, at_home: LocalTransport, tmp_path: Path, base: str, leads_to: str) -> None:
        cluster = SlurmCluster(at_home, remote_base=base)
        assert cluster.base() == leads_to.replace("HOME", str(tmp_path))
        assert cluster.facts().home == str(tmp_path)

    def test_a_base_in_which_others_may_write_is_refused_by_whatever_name(
        self, at_home: LocalTransport, tmp_path: Path
    ) -> None:
        (tmp_path / "work" / "runs" / "runs").mkdir(parents=True)
        (tmp_path / "work" / "runs" / "runs").chmod(0o777)
        with pytest.raises(RemoteStorageError, match="everybody may write to 'runs'"):
            SlurmCluster(at_home, remote_base="$WORK/runs").refuse_foreign_base()

    def test_any_other(self, at_home: LocalTransport, tmp_path: Path) -> None:
        cluster = SlurmCluster(at_home, remote_base=str(tmp_path / "base"))
        paths = {
            "${SCRATCH}/a b": "/scratch/of/me/a b",
            "~": str(tmp_path),
            "envs/analysis": f"{tmp_path}/envs/analysis",
            "/shared//x/": "/shared//x",
            "/": "/",
            "/a$/b": "/a$/b",
        }
        assert {path: cluster.absolute(path, "a path") for path in paths} == paths

    def test_a_variable_that_is_not_set_is_named(self, at_home: LocalTransport, tmp_path: Path) -> None:
        cluster = SlurmCluster(at_home, remote_base=str(tmp_path / "base"))
        with pytest.raises(ConfigurationError, match=r"It is '\$NOTHING/x', and the login has no variable NOTHING"):
            cluster.absolute("$NOTHING/x", "It")
        with pytest.raises(ConfigurationError, match="It '~you/x' is not an absolute path, and cannot be made one"):
            cluster.absolute("~you/x", "It")

    def test_each_is_asked_for_once(
        self, at_home: LocalTransport, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        cluster = SlurmCluster(at_home, remote_base=str(tmp_path / "base"))
        cluster.facts()
        asked: list[Sequence[str]] = []
        run = at_home.run

        def counting(script: str, args: Sequence[str] = (), **options: Any) -> CompletedCommand:
            asked.append(args)
            return run(script, args, **options)

        monkeypatch.setattr(at_home, "run", counting)
        for _ in range(3):
            for path in ("/x", "~/x", "$HOME/$USER", "x", "$SCRATCH/x"):
                cluster.absolute(path, "a path")
        assert asked == [["SCRATCH"]]


class TestSubmit:
    """submit.sh: sbatch is run once for a claim, whoever asks."""

    def calls(self, programs: Path) -> int:
        path = programs / "calls"
        return len(path.read_text().splitlines()) if path.exists() else 0

    def test_once_for_all_who_ask_at_the_same_moment(self, own: SlurmCluster, programs: Path) -> None:
        directory = created(own)
        with ThreadPoolExecutor(6) as threads:
            ids = list(threads.map(lambda _: Claims(own).submit(directory), range(6)))
        assert ids == ["4711"] * 6
        assert self.calls(programs) == 1
        assert (
            programs / "calls"
        ).read_text() == f"--parsable --job-name={directory.job_name()} {directory.script} 0\n"

    def test_with_the_login_s_umask(self, own: SlurmCluster, programs: Path) -> None:
        Claims(own).submit(created(own))
        assert int((programs / "umask").read_text(), 8) == int(own.transport.run('echo "$login_umask"').text, 8)

    def test_a_refusal_is_kept(self, own: SlurmCluster, programs: Path) -> None:
        (programs / "refuse").touch()
        directory = created(own)
        for _ in range(2):
            with pytest.raises(SubmissionRejectedError, match="invalid partition"):
                Claims(own).submit(directory)
        assert self.calls(programs) == 1
        (programs / "refuse").unlink()
        assert Claims(own).submit(directory, generation=1) == "4711"

    def test_a_killed_sbatch_may_have_submitted(self, own: SlurmCluster, programs: Path) -> None:
        (programs / "die").touch()
        with pytest.raises(SubmissionUnknownError):
            Claims(own).submit(created(own))

    def test_a_claim_that_cannot_be_written(self, own: SlurmCluster, programs: Path) -> None:
        directory = created(own)
        Path(directory.path, "claim").rmdir()
        Path(directory.path, "claim").write_text("in the way")
        with pytest.raises((RemoteStorageError, TransportError)) as caught:
            Claims(own).submit(directory)
        assert directory.claim(0) in str(caught.value)
        assert self.calls(programs) == 0


class TestPresent:
    """present.sh: what lies there; it changes nothing."""

    def test_names_and_paths(self, own: SlurmCluster, tmp_path: Path) -> None:
        store = tmp_path / "store"
        store.mkdir()
        (store / "aa").write_text("123")
        found = own.present(str(store), ["aa", "bb"], [str(store), str(tmp_path / "no such"), "/nothing"])
        assert found.sizes_bytes == {"aa": 3}
        assert found.missing == (str(tmp_path / "no such"), "/nothing")

    def test_a_directory_that_is_not_there(self, own: SlurmCluster, tmp_path: Path) -> None:
        assert own.present(str(tmp_path / "store"), ["aa"]).sizes_bytes == {}
        assert own.present(str(tmp_path / "store"), []).missing == ()
        assert not (tmp_path / "store").exists()


class TestNodesAway:
    """nodes_away.sh: whether a refusal of `sbatch --test-only` may be about nodes that come back."""

    TESTED = """#!/bin/sh
case $* in
*--test-only*) cat >/dev/null; echo "allocation failure: $(cat "$(dirname "$0")/refusal")" >&2; exit 1 ;;
*) printf '%s\\n' $(cat "$(dirname "$0")/states"); echo "$*" >"$(dirname "$0")/asked" ;;
esac
"""

    @pytest.fixture
    def says(self, programs: Path) -> Callable[[str, str], None]:
        (programs / "sinfo").write_text(SBATCH)
        (programs / "sinfo").chmod(0o755)

        def play(refusal: str, states: str) -> None:
            for name in ("sbatch", "sinfo"):
                (programs / name).write_text(self.TESTED)
            (programs / "refusal").write_text(refusal)
            (programs / "states").write_text(states)

        return play

    @pytest.mark.parametrize("states", ["drained", "idle down*", "maint mixed", "idle idle*", "reserved", "idle$"])
    def test_a_job_is_let_through_while_nodes_are_away(
        self, own: SlurmCluster, says: Callable[[str, str], None], states: str, programs: Path
    ) -> None:
        own.facts()
        says("Requested node configuration is not available", states)
        own.check(merge({"partition": "a,b"}))
        assert (programs / "asked").read_text().split()[-1] == "--partition=a,b"

    @pytest.mark.parametrize("states", ["idle", "idle mixed allocated completing planned", "idle~ mixed#", ""])
    def test_a_job_is_refused_when_all_are_there(
        self, own: SlurmCluster, says: Callable[[str, str], None], states: str
    ) -> None:
        own.facts()
        says("Requested node configuration is not available", states)
        with pytest.raises(SubmissionRejectedError):
            own.check(merge({}))

    @pytest.mark.parametrize("hours", [-1, 1])
    @pytest.mark.parametrize(("booted", "is_starting"), [("12:00:00", True), ("11:00:00", False)])
    def test_a_controller_has_just_started_by_its_own_clock(
        self, own: SlurmCluster, programs: Path, booted: str, is_starting: bool, hours: int
    ) -> None:
        """By the login node's, one that was an hour ahead was never starting, and one behind for an hour."""
        config = f"Configuration data as of 2026-11-29T12:00:05\nBOOT_TIME = 2026-11-29T{booted}"
        date = f'#!/bin/sh\nexec {shutil.which("date")} -d "2026-11-29 12:00:05 {hours} hours" "$@"\n'
        real = f'#!/bin/sh\ncase $1 in -d) exec {shutil.which("date")} "$@" ;; esac\n{date[10:]}'
        for name, text in (("scontrol", f"#!/bin/sh\necho '{config}'\n"), ("sinfo", "#!/bin/sh\n"), ("date", real)):
            (programs / name).write_text(text)
            (programs / name).chmod(0o755)
        assert own.script("nodes_away", ("",)).text == ("starting\n" if is_starting else "")

    def test_a_job_that_is_refused_for_something_else_is_refused(
        self, own: SlurmCluster, says: Callable[[str, str], None]
    ) -> None:
        own.facts()
        says("Invalid partition name specified", "drained")
        with pytest.raises(SubmissionRejectedError):
            own.check(merge({}))
