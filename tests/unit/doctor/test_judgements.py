"""What the doctor makes of what it found, as tables."""

from __future__ import annotations

import socket
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dagster_slurm.doctor.clock import judge_clock, skew_seconds
from dagster_slurm.doctor.environment import judge_environment
from dagster_slurm.doctor.job import Probe, judge_job
from dagster_slurm.doctor.login import judge_connection, judge_host_key, login_remedy, method
from dagster_slurm.doctor.network import Way, judge_banner, parse_ssh_config, read_banner
from dagster_slurm.doctor.partition import (
    Partition,
    describe,
    judge_partition,
    judge_request,
    parse_partitions,
)
from dagster_slurm.doctor.shell import judge_shell
from dagster_slurm.doctor.slurm_commands import (
    Association,
    judge_associations,
    judge_commands,
    parse_associations,
)
from dagster_slurm.doctor.storage import judge_space, judge_writing, parse_quotas, parse_room, size
from dagster_slurm.doctor.world import read_facts
from dagster_slurm.environments import CLUSTER_PYTHON, activate_deployed
from dagster_slurm.errors import AuthenticationError, ConnectionFailedError
from dagster_slurm.job.status_file import EndMark, StartMark
from dagster_slurm.slurm.request import merge
from dagster_slurm.transport import CompletedCommand, SSHConnection

# scontrol --oneliner show partition, Slurm 22.05.8.
COMPUTE = (
    "PartitionName=compute AllowGroups=ALL AllowAccounts=ALL AllowQos=ALL AllocNodes=ALL Default=YES QoS=N/A "
    "DefaultTime=01:00:00 DisableRootJobs=NO ExclusiveUser=NO GraceTime=0 Hidden=NO MaxNodes=UNLIMITED "
    "MaxTime=1-00:00:00 MinNodes=0 LLN=NO MaxCPUsPerNode=UNLIMITED Nodes=n[1-3] PriorityJobFactor=1 PriorityTier=1 "
    "RootOnly=NO ReqResv=NO OverSubscribe=NO OverTimeLimit=NONE PreemptMode=OFF State=UP TotalCPUs=24 TotalNodes=3 "
    "SelectTypeParameters=NONE JobDefaults=(null) DefMemPerNode=UNLIMITED MaxMemPerNode=UNLIMITED"
)
DEBUG = "PartitionName=debug Default=NO DefaultTime=NONE MaxTime=00:05:00 State=UP TotalNodes=3 DefMemPerCPU=1000"
NODES = ["compute|2|idle", "compute|1|down*", "debug|3|mixed"]


class TestClock:
    @pytest.mark.parametrize(
        ("before", "there", "after", "skew"),
        [
            (100.0, 100.05, 100.1, 0.0),
            (100.0, 100.0, 100.0, 0.0),
            (100.0, 220.0, 101.0, 119.0),
            (100.0, 40.0, 101.0, -60.0),
            # A slow link is no skew: the clock was read somewhere in between.
            (100.0, 109.0, 110.0, 0.0),
        ],
    )
    def test_the_skew_is_what_the_round_trip_does_not_explain(
        self, before: float, there: float, after: float, skew: float
    ) -> None:
        assert skew_seconds(before, there, after) == skew

    @pytest.mark.parametrize(
        ("there", "status", "said"),
        [
            (104.9, "ok", "agree within 4.900 s"),
            (95.1, "ok", "agree within 4.900 s"),
            (105.0, "warning", "5 s behind the login node's"),
            (95.0, "warning", "5 s ahead of the login node's"),
            (159.9, "warning", "60 s behind"),
            (160.0, "wrong", "60 s behind"),
            (3700.0, "wrong", "3,600 s behind"),
            (40.0, "wrong", "60 s ahead of"),
        ],
    )
    def test_where_it_is_noticed_and_where_it_is_wrong(self, there: float, status: str, said: str) -> None:
        finding = judge_clock(100.0, there, 100.0)
        assert finding.status == status
        assert said in f"{finding.found}{finding.problem}"

    @given(st.floats(0, 1e9), st.floats(0, 100), st.floats(-1e6, 1e6))
    def test_the_sign_is_that_of_the_clock_there(self, before: float, rtt: float, off: float) -> None:
        skew = skew_seconds(before, before + rtt / 2 + off, before + rtt)
        assert skew == 0 or (skew > 0) == (off > 0)
        assert abs(skew) <= abs(off) + 1e-3


class TestStorage:
    @pytest.mark.parametrize(
        ("blocks", "inodes", "expected"),
        [
            (
                "/dev/vda ext4 264212084 28067004 78323908 27% /home",
                "/dev/vda 16777216 100 16777116 1% /home",
                ("ext4", "/home", 264212084 * 1024, 78323908 * 1024, 16777216, 16777116),
            ),
            (
                "nas:/export/a b nfs4 1000 0 1000 0% /mnt/with space",
                "nas:/export/a b 0 0 0 - /mnt/with space",
                ("nfs4", "/mnt/with space", 1024000, 1024000, None, None),
            ),
            # A file system overdrawn by root.
            ("/dev/sda1 ext4 1000 1010 -10 101% /", "", ("ext4", "/", 1024000, 0, None, None)),
        ],
    )
    def test_df(self, blocks: str, inodes: str, expected: tuple[object, ...]) -> None:
        room = parse_room(blocks, inodes)
        assert room is not None
        assert tuple(vars(room).values()) == expected

    def test_what_is_no_line_of_df(self) -> None:
        assert parse_room("Filesystem Type 1024-blocks Used Available Capacity Mounted on", "") is None
        assert judge_space("/base", {}).status == "warning"

    @pytest.mark.parametrize(
        ("free_kib", "free_inodes", "quota", "status", "said"),
        [
            (2 << 20, 500, [], "ok", "2 GiB of 4 GiB free"),
            ((1 << 20) - 1, 500, [], "warning", "Only 1024 MiB are left for /base"),
            (1023, 500, [], "wrong", "No space is left for /base"),
            (0, 0, [], "wrong", "No space is left for /base"),
            (2 << 20, 9, [], "warning", "Only 9 files can be made"),
            (2 << 20, 10, [], "ok", "10 files"),
            (2 << 20, 500, ["/home 50 100 200 7 0 0"], "ok", "50 of 200 KiB on /home"),
            (2 << 20, 500, ["/home 150* 100 200 6days 7 0 0"], "warning", "grace period runs: 150 of 200 KiB"),
            (2 << 20, 500, ["/home 200* 100 200 none 7 0 0"], "wrong", "The quota is used up: 200 of 200 KiB"),
            (2 << 20, 500, ["/home 2 100 200 10 10 10"], "wrong", "10 of 10 files on /home"),
        ],
    )
    def test_room(self, free_kib: int, free_inodes: int, quota: list[str], status: str, said: str) -> None:
        facts = {
            "blocks": [f"/dev/sda nfs4 {4 << 20} 1 {free_kib} 1% /base"],
            "inodes": [f"/dev/sda 1000 1 {free_inodes} 1% /base"],
            "quota": quota,
        }
        finding = judge_space("/base", facts)
        assert finding.status == status
        assert said in f"{finding.found} {finding.problem}"

    def test_tables_of_quotas(self) -> None:
        # The examples of quota(1) and of Lustre's manual; neither program is on the sandbox.
        table = [
            "Disk quotas for user me (uid 1000):",
            "     Filesystem  blocks   quota   limit   grace   files   quota   limit   grace",
            "/dev/sda1     105*     100     200   6days      12       0       0",
            "nas.example.org:/a/very/long/name",
            "                 5       0       0              7     500    1000",
        ]
        found = {(quota.file_system, quota.what): (quota.used, quota.soft, quota.hard) for quota in parse_quotas(table)}
        assert found == {
            ("/dev/sda1", "KiB"): (105, 100, 200),
            ("nas.example.org:/a/very/long/name", "files"): (7, 500, 1000),
        }

    @pytest.mark.parametrize(
        ("number", "text"),
        [
            (0, "0 B"),
            (1023, "1023 B"),
            (1536, "1.5 KiB"),
            (5 << 30, "5 GiB"),
            (252 << 30, "252 GiB"),
            (3 << 50, "3 PiB"),
        ],
    )
    def test_sizes(self, number: int, text: str) -> None:
        assert size(number) == text

    @pytest.mark.parametrize(
        ("mode", "file", "base", "status"),
        [
            ("700", "600", "755 me", "ok"),
            ("700", "600", "1777 root", "ok"),
            ("700", "600", "777 me", "warning"),
            ("777", "777", "777 me", "warning"),
            ("700", "644", "755 me", "warning"),
        ],
    )
    def test_modes(self, mode: str, file: str, base: str, status: str) -> None:
        assert judge_writing("/base", {"mode": [mode], "file": [file], "base": [base]}).status == status


class TestPartition:
    known = parse_partitions([COMPUTE, DEBUG], NODES)

    def test_what_is_told_of_one(self) -> None:
        assert describe(self.known["compute"]) == (
            "compute (the default) UP, nodes: 2 idle, 1 down*, time limit 1-00:00:00, default 01:00:00"
        )
        assert describe(self.known["debug"]) == (
            "debug UP, nodes: 3 mixed, time limit 00:05:00, memory for each CPU by default 1000"
        )

    @pytest.mark.parametrize(
        ("partition", "status", "said"),
        [
            ("compute", "ok", "compute (the default) UP"),
            ("", "ok", "compute (the default) UP"),
            ("debug,compute", "ok", "debug UP"),
            ("nope", "wrong", "no partition 'nope'"),
            ("compute,nope", "wrong", "no partition 'nope'"),
        ],
    )
    def test_its_name(self, partition: str, status: str, said: str) -> None:
        finding = judge_partition(merge({"partition": partition}), self.known)
        assert finding.status == status
        assert said in f"{finding.found}{finding.problem}"

    def test_no_default(self) -> None:
        finding = judge_partition(merge({}), {"debug": self.known["debug"]})
        assert (finding.status, "one of: debug" in finding.remedy) == ("wrong", True)

    @pytest.mark.parametrize(
        ("state", "nodes", "status"),
        [
            ("UP", {"idle": 1, "down*": 2}, "ok"),
            ("UP", {"mixed-": 1}, "ok"),
            ("UP", {"idle~": 4}, "ok"),
            ("UP", {"down*": 2, "drained": 1}, "warning"),
            ("UP", {}, "ok"),
            ("DOWN", {"idle": 1}, "warning"),
            ("DRAIN", {"idle": 1}, "wrong"),
            ("INACTIVE", {"idle": 1}, "wrong"),
        ],
    )
    def test_its_state(self, state: str, nodes: dict[str, int], status: str) -> None:
        one = Partition("p", is_default=True, state=state, fields={}, nodes=nodes)
        assert judge_partition(merge({}), {"p": one}).status == status

    @pytest.mark.parametrize(
        ("options", "status"),
        [
            ({"partition": "compute", "time": "1-00:00:00"}, "ok"),
            ({"partition": "compute", "time": "1-00:00:01"}, "wrong"),
            ({"partition": "compute", "account": "research"}, "ok"),
            ({"partition": "compute", "account": "theirs"}, "warning"),
        ],
    )
    def test_what_slurm_takes_and_yet_does_not_start(self, options: dict[str, object], status: str) -> None:
        charged = [Association("c", "research", "", ("normal",))]
        assert judge_request(merge(options), self.known["compute"], charged).status == status

    def test_without_anything_to_compare_with(self) -> None:
        assert judge_request(merge({"account": "a", "time": "9-0"}), None, []).status == "ok"


class TestSlurm:
    @pytest.mark.parametrize(
        ("version", "status"),
        [
            (None, "warning"),
            ((19, 5), "warning"),
            ((20, 11), "ok"),
            ((22, 5), "ok"),
            ((25, 11), "ok"),
            ((26, 5), "warning"),
        ],
    )
    def test_versions(self, version: tuple[int, int] | None, status: str) -> None:
        finding = judge_commands({"version": ["slurm x"], "sbatch": ["/usr/bin/sbatch"]}, version)
        assert finding.status == status
        assert finding.found == "slurm x, /usr/bin/sbatch; without sacct, scontrol, sinfo, sacctmgr"

    def test_associations(self) -> None:
        found = parse_associations(["c|research||normal,high", "c|teaching|debug|", "", "broken"])
        assert found == [
            Association("c", "research", "", ("normal", "high")),
            Association("c", "teaching", "debug", ()),
        ]
        assert judge_associations(found).found == "accounts: research, teaching; QOS: normal, high"
        assert judge_associations([]).status == "warning"


class TestNetwork:
    @pytest.mark.parametrize(
        ("text", "way"),
        [
            ("host login\nhostname login.example\nport 2222\n", Way("login", "login.example", 2222)),
            ("hostname h\nport 22\nproxyjump gate\n", Way("login", "h", 22, "ProxyJump gate")),
            (
                "hostname h\nport 22\nproxycommand sshpass -p secret ssh -W %h:%p gate\nproxyjump none\n",
                Way("login", "h", 22, "ProxyCommand sshpass ..."),
            ),
            ("hostname h\nport 22\nproxycommand none\n", Way("login", "h", 22)),
            (
                "hostname h\nport 22\nhostkeyalias a\nuserknownhostsfile /x /y\n",
                Way("login", "h", 22, "", "a", ("/x", "/y")),
            ),
        ],
    )
    def test_where_ssh_would_connect_to(self, text: str, way: Way) -> None:
        assert parse_ssh_config("login", text) == way

    def test_names_of_host_keys(self) -> None:
        ways = [Way("a", "h", 22), Way("a", "h", 2222), Way("a", "h", 2222, key_alias="k")]
        assert [way.key_name for way in ways] == ["h", "[h]:2222", "k"]

    @pytest.mark.parametrize(
        ("banner", "status", "said"),
        [
            ("SSH-2.0-OpenSSH_9.2\r\n", "ok", "answers as SSH-2.0-OpenSSH_9.2"),
            ("Be careful\r\nSSH-2.0-x\r\n", "ok", "answers as SSH-2.0-x"),
            ("220 mail ESMTP\r\n", "wrong", "it says '220 mail ESMTP'"),
            ("HTTP/1.1 400 SSH-2.0\r\n", "wrong", "is no SSH server"),
            ("", "wrong", "says nothing within 10 s"),
        ],
    )
    def test_greetings(self, banner: str, status: str, said: str) -> None:
        finding = judge_banner(Way("h", "h", 22), banner)
        assert finding.status == status
        assert said in f"{finding.found}{finding.problem}"

    @pytest.mark.parametrize("greeting", [b"", b"hello\r\n", b"one\r\nSSH-2.0-x\r\nrest"])
    def test_reading_a_greeting_of_a_server_that_then_hangs(self, greeting: bytes) -> None:
        with socket.create_server(("127.0.0.1", 0)) as server:
            accepted: list[socket.socket] = []

            def greet() -> None:
                connection, _ = server.accept()
                accepted.append(connection)
                connection.sendall(greeting)

            threading.Thread(target=greet, daemon=True).start()
            read = read_banner("127.0.0.1", server.getsockname()[1], timeout_seconds=0.3)
        for each in accepted:
            each.close()
        assert read.encode() == greeting.removesuffix(b"rest")


class TestLogin:
    @pytest.mark.parametrize(
        ("fields", "how"),
        [
            ({"key_path": "/k"}, "with the key /k"),
            ({"password": "secret"}, "with the password"),
            ({"askpass_command": "code"}, "with the answers of the askpass_command"),
            ({}, "with what ~/.ssh/config and the agent offer"),
        ],
    )
    def test_methods(self, fields: dict[str, str], how: str) -> None:
        assert method(SSHConnection("h", **fields)) == how  # type: ignore[arg-type]

    def test_remedies(self) -> None:
        refused = AuthenticationError("The login was refused", hint="as ever")
        assert "authorized_keys" in login_remedy(SSHConnection("h", key_path="/k"), refused)
        assert "once only" in login_remedy(SSHConnection("h", password="secret"), refused)
        assert login_remedy(SSHConnection("h"), refused) == "as ever"
        assert "ssh -v" in login_remedy(SSHConnection("h"), ConnectionFailedError("gone"))

    @pytest.mark.parametrize(
        ("checking", "was_known", "was_open", "status"),
        [
            ("strict", True, False, "ok"),
            ("strict", False, False, "ok"),
            ("accept-new", False, False, "ok"),
            ("off", True, False, "warning"),
            ("off", True, True, "ok"),
        ],
    )
    def test_host_keys(self, checking: str, was_known: bool, was_open: bool, status: str) -> None:
        connection = SSHConnection("h", host_key_checking=checking)  # type: ignore[arg-type]
        assert judge_host_key(connection, "h", was_known=was_known, was_open=was_open).status == status

    @pytest.mark.parametrize(
        ("fields", "is_shared", "status", "said"),
        [
            ({}, True, "ok", "shared by all processes, is open now and stays 10m after its last use; 1 login"),
            ({"password": "secret"}, False, "ok", "one of its own for each process"),
            ({}, False, "warning", "each process logs in for itself (1 login)"),
        ],
    )
    def test_connections(self, fields: dict[str, str], is_shared: bool, status: str, said: str) -> None:
        connection = SSHConnection("h", **fields)  # type: ignore[arg-type]
        finding = judge_connection(connection, is_shared=is_shared, was_open=False, logins=1)
        assert finding.status == status
        assert said in f"{finding.found}{finding.problem}"


class TestShellAndPython:
    @pytest.mark.parametrize(
        ("text", "tty", "status", "said"),
        [
            ("shell /bin/bash\nnoise 0\nbash 5.2.15(1)\n", False, "ok", "/bin/bash, without a TTY, quiet; bash 5.2"),
            ("shell /bin/tcsh\nnoise 12\nbash 4.2\n", True, "ok", "with a TTY, prints 12 bytes by itself"),
            ("shell /bin/sh\nnoise 0\nbash \nmissing bash\nmissing tar\n", False, "wrong", "node: bash, tar"),
            ("shell /bin/sh\nnoise 0\nbash 3.2.57(1)-release\n", False, "wrong", "bash is 3.2.57"),
        ],
    )
    def test_shells(self, text: str, tty: bool, status: str, said: str) -> None:
        finding = judge_shell(read_facts(text), tty=tty)
        assert finding.status == status
        assert said in f"{finding.found}{finding.problem}"

    @pytest.mark.parametrize(
        ("stdout", "stderr", "named", "status", "said"),
        [
            (
                b"noise\ndagster-slurm python 3.11.2 pipes 1.13.0\n",
                b"",
                True,
                "ok",
                "Python 3.11.2, dagster_pipes 1.13.0",
            ),
            (b"dagster-slurm python 3.6.8 pipes none\n", b"", True, "wrong", "has no dagster_pipes"),
            (b"dagster-slurm python 3.6.8 pipes none\n", b"", False, "warning", "has no dagster_pipes"),
            (b"", b"bash: python3: command not found", False, "warning", "command not found"),
            (b"", b"", True, "wrong", "ended with status 1"),
        ],
    )
    def test_python(self, stdout: bytes, stderr: bytes, named: bool, status: str, said: str) -> None:
        activation = activate_deployed("/env", "prefix") if named else CLUSTER_PYTHON
        finding = judge_environment(activation, CompletedCommand(stdout, stderr, 1), named=named)
        assert finding.status == status
        assert said in f"{finding.found}{finding.problem}"


class TestJob:
    @staticmethod
    def probe(*, start: float | None = 101.0, code: int = 0, output: str = "nonce\n", is_alive: bool = False) -> Probe:
        mark = None if start is None else StartMark("7", 0, start, "n1")
        end = None if start is None else EndMark("7", 0, code, start + 1, {})
        return Probe("7", 100.0, 104.0, mark, end, None, None, output, is_alive)

    @pytest.mark.parametrize(
        ("changes", "status", "said"),
        [
            ({}, "ok", "job 7 on n1, 1.0 s in the queue"),
            ({"start": 108.9}, "ok", "its clock agrees"),
            ({"start": 109.0}, "warning", "The clock of n1 is 5 s ahead of"),
            ({"start": 40.0}, "warning", "The clock of n1 is 60 s behind"),
            ({"code": 127}, "wrong", "ended with status 127"),
            ({"output": ""}, "wrong", "its output does not appear"),
            ({"start": None}, "wrong", "nothing that it writes appears"),
            ({"start": None, "is_alive": True}, "warning", "did not end within 4 s"),
        ],
    )
    def test_what_became_of_it(self, changes: dict[str, object], status: str, said: str) -> None:
        finding = judge_job(self.probe(**changes), "nonce")  # type: ignore[arg-type]
        assert finding.status == status
        assert said in f"{finding.found}{finding.problem}"
