"""Counting logins, channels and remote procedure calls."""

from __future__ import annotations

from pathlib import Path

from dagster_slurm_sandbox import login_node

# OpenSSH_9.2p1 Debian, LogLevel VERBOSE.
LOG = """\
Server listening on 127.0.0.1 port 22022.
Connection from 127.0.0.1 port 53024 on 127.0.0.1 port 22022 rdomain ""
Accepted key ED25519 SHA256:abc found at /x/ssh/authorized_keys:1
Accepted publickey for researcher from 127.0.0.1 port 53024 ssh2: ED25519 SHA256:abc
Starting session: command for researcher from 127.0.0.1 port 53024 id 0
Starting session: subsystem 'sftp' for researcher from 127.0.0.1 port 53024 id 1
Failed password for researcher from 127.0.0.1 port 53030 ssh2
Accepted password for researcher from 127.0.0.1 port 53030 ssh2
"""
# Slurm 22.05.8.
SDIAG = """\
Remote Procedure Call statistics by message type
\tREQUEST_PARTITION_INFO                  ( 2009) count:32     ave_time:230    total_time:7360
\tMESSAGE_NODE_REGISTRATION_STATUS        ( 1002) count:9      ave_time:527    total_time:4743

Remote Procedure Call statistics by user
\troot            (       0) count:43     ave_time:963    total_time:41429
\tresearcher      (    1002) count:116    ave_time:404    total_time:46921

Pending RPC statistics
\tNo pending RPCs
"""


def test_logins_and_sessions_are_counted(tmp_path: Path) -> None:
    log = tmp_path / "sshd.log"
    assert login_node.count_in_log(log, login_node.LOGIN) == 0
    log.write_text(LOG, encoding="utf-8")
    assert login_node.count_in_log(log, login_node.LOGIN) == 2
    assert login_node.count_in_log(log, login_node.SESSION) == 2


def test_rpc_counts_are_read() -> None:
    assert login_node.rpc_counts(SDIAG, "researcher") == {
        "REQUEST_PARTITION_INFO": 32,
        "MESSAGE_NODE_REGISTRATION_STATUS": 9,
        "total": 116,
    }
    assert login_node.rpc_counts(SDIAG, "nobody")["total"] == 0
