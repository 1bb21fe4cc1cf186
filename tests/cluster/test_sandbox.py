"""The sandbox itself, for real: an own one, beside whichever the other tests use."""

from __future__ import annotations

import os
import pwd
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from dagster_slurm.errors import SandboxError
from dagster_slurm_sandbox import Sandbox, SandboxConfig, daemons
from dagster_slurm_sandbox.config import BASE_DIR_VARIABLE, SandboxPaths, paths_of
from dagster_slurm_sandbox.network import NETNS_DIR
from dagster_slurm_sandbox.startup import mount_points, reserved_ports
from tests.support.waiting import eventually

pytestmark = pytest.mark.cluster

NAME = "selftest"
USER = "sandbox-selftest"


def traces(*names: str) -> set[str]:
    """Everything by which these sandboxes could be noticed on the machine; others come and go beside them."""
    paths = [paths_of(name) for name in names]
    marks = [f"{each.state_dir}/" for each in paths]
    netns = {f"netns {each.name}" for each in NETNS_DIR.glob("*")} if NETNS_DIR.exists() else set()
    links = {f"link {name}" for _, name in socket.if_nameindex()}
    groups = {f"cgroup {path}" for path in Path("/sys/fs/cgroup").glob("*/dagster-slurm-????????")}
    mounts = {f"mount {point}" for point in mount_points()}
    users = {f"user {entry.pw_name} {entry.pw_dir}/" for entry in pwd.getpwall()}
    tagged = {trace for trace in netns | links | groups | mounts if {each.tag for each in paths} & {*tags_in(trace)}}
    placed = {trace for trace in mounts | users if any(mark in trace for mark in marks)}
    return tagged | placed | {trace for mark in marks for trace in commands_of(mark)}


def tags_in(trace: str) -> list[str]:
    """The sandboxes whose interface, namespace or control group it is."""
    return re.findall(r"\b(?:dss-?|dagster-slurm-|v)([0-9a-f]{8})", trace)


def commands_of(mark: str) -> set[str]:
    """Processes that name the state directory in command or environment, or run as its user."""
    found = set()
    for directory in Path("/proc").glob("[0-9]*"):
        try:
            text = (directory / "cmdline").read_bytes() + (directory / "environ").read_bytes()
        except OSError:
            continue
        if mark.encode() in text or f"{mark[:-1]}\0".encode() in text:
            found.add(f"process {directory.name} {text[:60]!r}")
    return found


@pytest.fixture(scope="module")
def before() -> set[str]:
    Sandbox(SandboxConfig(name=NAME, user=USER)).down()
    return traces(NAME)


@pytest.fixture(scope="module")
def own_cluster(sandbox: Sandbox, before: set[str]) -> Iterator[Sandbox]:
    cluster = Sandbox(SandboxConfig(name=NAME, user=USER, slurmd_timeout_seconds=6, message_timeout_seconds=3))
    start = time.monotonic()
    cluster.up(quiet=True)
    print(f"up took {time.monotonic() - start:.1f} s")
    try:
        yield cluster
    finally:
        cluster.down()


@pytest.fixture
def own(own_cluster: Sandbox) -> Sandbox:
    """Up, whole and without a job, whatever the test before has done to it."""
    own_cluster.up(quiet=True)
    # slurmctld saves its state every five seconds: an `srun` that ended less than that before it was killed is on
    # record as running, and nobody is there to end it again.
    own_cluster.run(["scancel", "-u", USER])
    return own_cluster


def submit(cluster: Sandbox, *options: str, script: str) -> str:
    done = cluster.run(["sbatch", "--parsable", *options, "--wrap", script])
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def sacct_state(cluster: Sandbox, job: str) -> str:
    return cluster.run(["sacct", "-nXP", "-j", job, "-o", "state"]).stdout.strip()


def await_running(cluster: Sandbox, job: str) -> None:
    """Told by the controller: the accounting is seconds late."""
    eventually(lambda: cluster.run(["squeue", "-h", "-o", "%T", "-j", job]).stdout.strip() == "RUNNING")


def ssh(cluster: Sandbox, *command: str, strict: bool = False) -> subprocess.CompletedProcess[str]:
    env = cluster.env(strict=strict)
    options = [f"UserKnownHostsFile={env['SLURM_EDGE_NODE_KNOWN_HOSTS_FILE']}", "StrictHostKeyChecking=yes"]
    environment = dict(os.environ)
    if strict:
        askpass = cluster.paths.state_dir / "askpass-for-test"
        askpass.write_text(f"#!/bin/sh\ncat {cluster.paths.password_file}\n", encoding="ascii")
        askpass.chmod(0o700)
        environment |= {"SSH_ASKPASS": str(askpass), "SSH_ASKPASS_REQUIRE": "force"}
        options += ["PubkeyAuthentication=no"]
    else:
        options += [f"IdentityFile={env['SLURM_EDGE_NODE_KEY_PATH']}", "IdentitiesOnly=yes", "BatchMode=yes"]
    target = ["-p", env["SLURM_EDGE_NODE_PORT"], f"{env['SLURM_EDGE_NODE_USER']}@{env['SLURM_EDGE_NODE_HOST']}"]
    argv = ["ssh", "-F", "none", "-o", "ConnectTimeout=3", *(f"-o{option}" for option in options), *target, *command]
    return subprocess.run(argv, capture_output=True, text=True, env=environment, timeout=30, check=False)


def test_up_again_is_quick_and_changes_nothing(own: Sandbox) -> None:
    text = own.paths.state_file.read_text(encoding="utf-8")
    start = time.monotonic()
    own.up(quiet=True)
    print(f"up again took {time.monotonic() - start:.1f} s")
    assert own.paths.state_file.read_text(encoding="utf-8") == text
    assert own.status().ready


def test_three_idle_nodes_with_distinct_addresses(own: Sandbox) -> None:
    def rows() -> list[list[str]]:
        lines = own.run(["sinfo", "-hNp", "compute", "-o", "%N %T %c %m %o"]).stdout.splitlines()
        return [line.split() for line in lines]

    expected = [[name, "idle", "8", "16000"] for name in ("n1", "n2", "n3")]
    # The job of the test before may be ending: on a node that was away, as long as it would have run (`sleep 100`).
    eventually(
        lambda: [row[:4] for row in rows()] == expected, lambda: (rows(), own.run(["squeue"]).stdout), seconds=240.0
    )
    assert len({row[4] for row in rows()}) == 3


def test_every_node_has_its_name_and_address_and_knows_the_others(own: Sandbox) -> None:
    script = "echo $(hostname) $(hostname -i) $(getent hosts n3 | cut -d' ' -f1)"
    done = own.run(["srun", "-N3", "--ntasks-per-node=1", "sh", "-c", script])
    rows = sorted(line.split() for line in done.stdout.splitlines())
    assert [row[0] for row in rows] == ["n1", "n2", "n3"], done.stderr
    assert len({row[1] for row in rows}) == 3
    assert {row[2] for row in rows} == {rows[2][1]}


def test_a_node_has_no_network_devices_but_its_own(own: Sandbox) -> None:
    script = "echo $(ls /sys/class/net) $(cat /sys/class/net/eth0/carrier)"
    done = own.run(["srun", "-N3", "--ntasks-per-node=1", "sh", "-c", script])
    assert done.stdout.splitlines() == ["eth0 lo 1"] * 3, done.stderr


def test_a_node_has_its_own_processes_and_no_others(own: Sandbox) -> None:
    """As `ray stop`, `pkill` and a look for what is left mean it."""
    met = own.home / "met"
    assert own.run(["mkdir", str(met)]).returncode == 0
    # All three are there before one looks.
    wait = f"touch {met}/$SLURM_PROCID; until [ $(ls {met} | wc -l) = 3 ]; do sleep 0.1; done"
    look = "pgrep -fxc 'sleep 61'; tr '\\0' ' ' </proc/1/cmdline; pkill -u $(id -u) -x sleep; wait; echo"
    done = own.run(["srun", "-N3", "--ntasks-per-node=1", "sh", "-c", f"sleep 61 & {wait}; {look}"])
    said = done.stdout.splitlines()
    assert (said.count("1"), len(said)) == (3, 6), done.stdout + done.stderr
    assert len([line for line in said if "enter.sh inside" in line]) == 3


def test_slurm_is_found_on_nodes_also_without_its_variable(own: Sandbox) -> None:
    output = own.home / "export-none.out"
    job = submit(own, "--export=NONE", "-o", str(output), script="env -u SLURM_CONF srun /bin/true")
    eventually(lambda: sacct_state(own, job) == "COMPLETED")


def test_too_much_memory_ends_the_job(own: Sandbox) -> None:
    if not own.status().memory_enforced:
        pytest.skip(own.status().memory_reason)
    job = submit(own, "--mem=50M", "-o", "/dev/null", script="/usr/bin/python3 -c 'x = bytearray(300 << 20)'")
    eventually(lambda: sacct_state(own, job) == "OUT_OF_MEMORY")


def test_a_wrong_account_is_refused(own: Sandbox) -> None:
    done = own.run(["sbatch", "--account=nobody", "--wrap", "true"])
    assert done.returncode != 0
    assert "Invalid account" in done.stderr


def test_debug_has_a_short_limit(own: Sandbox) -> None:
    done = own.run(["sbatch", "--partition=debug", "--time=60", "--wrap", "true"])
    assert done.returncode != 0
    assert "time limit" in done.stderr


def test_root_may_submit_too(own: Sandbox) -> None:
    done = own.run(["sbatch", "--parsable", "-o", "/dev/null", "--wrap", "true"], user="root")
    assert done.returncode == 0, done.stderr


def test_login_by_key_and_its_counters(own: Sandbox) -> None:
    logins, sessions = own.logins(), own.sessions_opened()
    done = ssh(own, "id -un; sinfo -h -o %R -p compute; printenv SLURM_CONF")
    assert done.stdout.split() == [USER, "compute", str(own.paths.slurm_conf)], done.stderr
    assert (own.logins(), own.sessions_opened()) == (logins + 1, sessions + 1)


def test_strict_login_takes_the_password_and_no_key(own: Sandbox) -> None:
    logins = own.logins(strict=True)
    assert ssh(own, "id -un", strict=True).stdout == f"{USER}\n"
    assert own.logins(strict=True) == logins + 1
    assert "SLURM_EDGE_NODE_KEY_PATH" not in own.env(strict=True)


def test_secrets_are_for_their_owner_only(own: Sandbox) -> None:
    for path in (own.paths.client_key, own.paths.password_file, own.paths.etc / "slurmdbd.conf"):
        assert path.stat().st_mode & 0o077 == 0, path


def test_rpc_counts_go_up_with_the_users_questions(own: Sandbox) -> None:
    first = own.rpc_counts()
    own.run(["squeue", "--me"])
    second = own.rpc_counts()
    assert second["total"] > first["total"]
    assert any(name.startswith("REQUEST_JOB") for name in second)


def test_nothing_of_ours_listens_beyond_loopback(own: Sandbox) -> None:
    lines = subprocess.run(["ss", "-Hltnp"], capture_output=True, text=True, check=True).stdout.splitlines()
    ours = [line for line in lines if re.search(r'"(sshd|slurm\w*|munged|mariadbd)"', line)]
    assert len(ours) >= 2
    assert all(line.split()[3].startswith("127.0.0.1:") for line in ours), ours


def test_an_environment_is_the_users_and_made_once(own: Sandbox) -> None:
    path = own.create_environment("plain", [])
    done = own.run([f"{path}/bin/python", "-c", "import sys; print(sys.prefix)"])
    assert done.stdout == f"{path}\n", done.stderr
    made = Path(path, "pyvenv.cfg").stat().st_mtime_ns
    assert own.create_environment("plain", []) == path
    assert Path(path, "pyvenv.cfg").stat().st_mtime_ns == made


def test_a_small_filesystem_is_full_on_the_nodes_too(own: Sandbox) -> None:
    with own.small_filesystem(1) as path:
        done = own.run(["srun", "dd", "if=/dev/zero", f"of={path}/file", "bs=1M", "count=4"])
        assert "No space left on device" in done.stderr
        with own.unwritable_directory() as closed:
            assert own.run(["touch", f"{closed}/file"]).returncode != 0
    assert not path.exists()


PARTS = ["sshd", "strict-sshd", "slurmctld", "slurmdbd", "mariadb", "munged", "slurmd:n1", "node:n2"]


@pytest.mark.sampled("hang", share=2)
@pytest.mark.parametrize("hang", [False, True], ids=["end", "hang"])
@pytest.mark.parametrize("part", PARTS)
def test_a_broken_part_is_seen_and_comes_back(own: Sandbox, part: str, hang: bool) -> None:
    with own.broken(part, hang=hang):
        assert not own.status().ready
        start = time.monotonic()
    print(f"mending {part} took {time.monotonic() - start:.1f} s")
    assert own.status().ready
    assert ssh(own, "srun -N3 true").returncode == 0
    assert own.run(["sacct", "-nX"]).returncode == 0


def test_an_absent_sshd_ends_its_sessions(own: Sandbox) -> None:
    env = own.env()
    argv = ["ssh", "-F", "none", "-i", env["SLURM_EDGE_NODE_KEY_PATH"], "-p", env["SLURM_EDGE_NODE_PORT"]]
    argv += ["-o", f"UserKnownHostsFile={env['SLURM_EDGE_NODE_KNOWN_HOSTS_FILE']}", f"{USER}@127.0.0.1"]
    with subprocess.Popen([*argv, "echo here; sleep 60"], stdout=subprocess.PIPE, text=True) as session:
        assert session.stdout is not None
        assert session.stdout.readline() == "here\n"
        with own.broken("sshd"):
            assert session.wait(timeout=10) == 255
            assert "refused" in ssh(own, "true").stderr


def test_a_stopped_sshd_does_not_answer(own: Sandbox) -> None:
    with own.broken("sshd", hang=True):
        assert ssh(own, "true").returncode == 255
    assert ssh(own, "true").returncode == 0


def test_job_steps_outlive_slurmd_and_not_their_node(own: Sandbox) -> None:
    go = own.home / "go"
    first = submit(own, "-w", "n1", "-o", "/dev/null", script=f"while ! [ -e {go} ]; do sleep 0.1; done")
    second = submit(own, "--no-requeue", "-w", "n2", "-o", "/dev/null", script="sleep 60")
    for job in (first, second):
        await_running(own, job)
    with own.broken("slurmd:n1"):
        pass
    go.touch()
    eventually(lambda: sacct_state(own, first) == "COMPLETED")
    # A node that comes back at once is believed to run its jobs still, for longer than it takes to be missed.
    with own.broken("node:n2"):
        eventually(lambda: sacct_state(own, second) == "NODE_FAIL", pause_seconds=0.5)


def test_a_pulled_cable_takes_the_node_down_and_back(own: Sandbox) -> None:
    job = submit(own, "--no-requeue", "-w", "n3", "-o", "/dev/null", script="sleep 100")
    await_running(own, job)
    with own.broken("network:n3"):
        eventually(lambda: own.status().nodes["n3"] == "down*", pause_seconds=0.5)
        eventually(lambda: sacct_state(own, job) == "NODE_FAIL")
    assert own.status().nodes["n3"] in {"idle", "completing"}


def test_unknown_parts_are_refused(own: Sandbox) -> None:
    with pytest.raises(SandboxError, match="no part 'n1'"):
        own.break_("n1")
    with pytest.raises(SandboxError, match="cannot hang"):
        own.break_("network:n1", hang=True)


@pytest.fixture
def short_path() -> Iterator[Path]:
    """A directory whose name leaves room for those of sockets."""
    with tempfile.TemporaryDirectory(dir="/tmp") as directory:
        yield Path(directory)


def up_beside(tmp_path: Path, daemon: str) -> str:
    """What `up` says where such a daemon runs, in a network of its own: sandboxes of other tests come up meanwhile."""
    fake = tmp_path / daemon
    shutil.copy(shutil.which("sleep") or "/bin/sleep", fake)
    script = 'trap "kill 0" EXIT; "$1" 60 & until [ "$(cat /proc/$!/comm)" = "${1##*/}" ]; do :; done; "$2" -c "$3"'
    argv = ["unshare", "--net", "setsid", "sh", "-c", script, "sh", str(fake), sys.executable, BESIDE]
    environment = {**os.environ, BASE_DIR_VARIABLE: str(tmp_path / "base")}
    return subprocess.run(argv, capture_output=True, text=True, env=environment, check=False).stdout.strip()


BESIDE = """
from dagster_slurm.errors import SandboxError
from dagster_slurm.sandbox import Sandbox
try:
    Sandbox().up(quiet=True)
except SandboxError as error:
    print(error.message)
"""


def test_a_slurm_that_is_in_use_is_refused(short_path: Path) -> None:
    said = up_beside(short_path, "slurmctld")
    assert re.fullmatch(r"A Slurm installation is in use on this machine: slurmctld \(process \d+\)", said)
    assert not (short_path / "base").exists()


def test_an_idle_munged_is_no_slurm(short_path: Path) -> None:
    """It comes as far as the place, which sshd would not take here; what it made is nothing."""
    said = up_beside(short_path, "munged")
    assert said.startswith(f"A sandbox cannot lie in {short_path / 'base'}: others than root may write /tmp, and sshd ")
    assert not (short_path / "base").exists()


def test_its_ports_are_known_in_every_base_directory(own: Sandbox, short_path: Path) -> None:
    ports = {int(own.env(strict=strict)["SLURM_EDGE_NODE_PORT"]) for strict in (False, True)}
    assert ports <= reserved_ports(SandboxPaths(short_path / "base" / "other"))


def test_two_at_the_same_moment_are_two_clusters() -> None:
    names = [f"{NAME}-a", f"{NAME}-b"]
    there = traces(*names)
    pair = [Sandbox(SandboxConfig(name=name, user=f"sandbox-{name}", nodes=1)) for name in names]
    try:
        with ThreadPoolExecutor() as pool:
            list(pool.map(lambda cluster: cluster.up(quiet=True), pair))
        assert all(cluster.status().ready for cluster in pair)
        assert len({cluster.env()["SLURM_EDGE_NODE_PORT"] for cluster in pair}) == 2
        first, second = (cluster.run(["srun", "hostname", "-i"]).stdout.strip() for cluster in pair)
        assert first != second
    finally:
        for cluster in pair:
            cluster.down()
    assert traces(*names) - there == set()


LOGIN_NODE = f"""
import os, signal
from dagster_slurm.sandbox import Sandbox, SandboxConfig
with Sandbox(SandboxConfig(name="{NAME}")).login_node(otp=True, shell="/usr/bin/fish") as node:
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_login_node_goes_with_its_sessions_its_account_and_its_pam_service(own: Sandbox) -> None:
    there, machine = traces(NAME), Path("/etc/pam.d/sshd").read_bytes()
    with own.login_node(otp=True, shell="/usr/bin/fish", home_files={".config/fish/config.fish": "true"}) as node:
        assert pwd.getpwnam(node.user).pw_shell == "/usr/bin/fish"
        services = list(Path("/etc/pam.d").glob(f"*{node.directory.name}"))
        assert [service.name for service in services] == [f"dagster-slurm-{own.paths.tag}-{node.directory.name}"]
        left = subprocess.Popen(["setpriv", f"--reuid={node.user}", "--clear-groups", "sleep", "600"])
        with open_socket(node.port) as client:
            assert client.recv(4) == b"SSH-"
    left.wait(timeout=20)
    # What another test has left may have gone meanwhile.
    assert traces(NAME) - there == set()
    assert not node.directory.exists()
    assert not any(service.exists() for service in services)
    assert Path("/etc/pam.d/sshd").read_bytes() == machine


def test_the_options_of_a_login_node_are_in_force_and_wrong_ones_are_told(own: Sandbox) -> None:
    with own.login_node(options=["Banner /etc/debian_version", "SetEnv A=1", "maxsessions 1"]) as node:
        argv = [daemons.path_of("sshd"), "-T", "-f", str(node.directory / "sshd.conf")]
        # Since 10.1 it prints keywords as the manual writes them, before in small letters.
        said = subprocess.run(argv, capture_output=True, text=True, check=True).stdout
        words = [line.split(None, 1) for line in said.splitlines()]
        options = [(keyword.lower(), *rest) for keyword, *rest in words]
        assert {("banner", "/etc/debian_version"), ("maxsessions", "1")} <= set(options)
        assert {f"SLURM_CONF={own.paths.slurm_conf}", "A=1"} <= {rest[0] for name, *rest in options if name == "setenv"}
    with (
        pytest.raises(SandboxError, match="Bad configuration option: NoSuchOption"),
        own.login_node(options=["NoSuchOption yes"]),
    ):
        pass
    assert not list(own.paths.ssh.glob("login-*"))


def test_login_nodes_whose_process_was_killed_go_with_the_sandbox(own: Sandbox, before: set[str]) -> None:
    for _ in range(2):
        child = subprocess.run([sys.executable, "-c", LOGIN_NODE], capture_output=True, text=True, check=False)
        assert child.returncode == -9, child.stderr
    assert len(list(own.paths.ssh.glob("login-*"))) == 2
    own.down()
    assert traces(NAME) - before == set()
    assert not list(Path("/etc/pam.d").glob(f"dagster-slurm-{own.paths.tag}-*"))
    own.up(quiet=True)


def open_socket(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=10)


def test_down_leaves_nothing_and_up_works_again(own: Sandbox, before: set[str]) -> None:
    submit(own, "-N3", "-o", "/dev/null", script="setsid sleep 600 & srun sleep 600")
    own.run(["sh", "-c", "setsid sleep 600 >/dev/null 2>&1 &"])
    # By a process that was killed: /proc writes such a name in octal.
    left = own.home / "it's \\ left"
    left.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "none", str(left)], check=True)
    with own.broken("slurmctld"), own.broken("slurmd:n1", hang=True):
        assert traces(NAME) - before
        start = time.monotonic()
        own.down()
        print(f"down took {time.monotonic() - start:.1f} s")
        assert traces(NAME) - before == set()
        assert not own.paths.state_dir.exists()
        own.down()
        start = time.monotonic()
        own.up(quiet=True)
        print(f"up took {time.monotonic() - start:.1f} s")
    assert own.status().ready


def test_a_controller_that_is_killed_before_its_first_save_comes_back(own: Sandbox) -> None:
    # Without what it saves 26.05 does not start by itself.
    own.down()
    own.up(quiet=True)
    with own.broken("slurmctld"):
        pass
    assert own.status().ready


def test_a_killed_up_is_cleaned_and_survived(own: Sandbox, before: set[str]) -> None:
    program = [sys.executable, "-c", "from dagster_slurm.cli import main; main()"]
    command = [*program, "sandbox", "up", "--name", NAME, "--user", USER]
    for pause_seconds in (0.7, 1.2, 2.5):
        own.down()
        child = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        time.sleep(pause_seconds)
        child.kill()
        child.wait()
        own.down()
        eventually(lambda: traces(NAME) <= before, lambda: traces(NAME) - before)
    child = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    time.sleep(1.5)
    child.kill()
    child.wait()
    own.up(quiet=True)
    assert own.status().ready
