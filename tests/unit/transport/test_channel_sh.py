"""A script of which a part is missing is not run, whatever has become of the rest."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from dagster_slurm.transport.shell import shell_file

SERVE = f"{shell_file('dagster_slurm.transport.scripts', 'channel.sh')}\ndagster_slurm_serve first 2\n"
NONCE = "0123456789abcdef"


def answer(stdin: str, path: str = os.defpath) -> str:
    """What the far end says to a greeting and to what follows it."""
    argv = ["sh", "-c", 'eval "$1"', "sh", SERVE]
    done = subprocess.run(argv, input=stdin.encode(), capture_output=True, env={"PATH": path}, check=False, timeout=20)
    return done.stdout.decode().removeprefix("\nfirst ready\n")


def request(script: str, *, length: int | None = None) -> str:
    text = f"{script}\n#{NONCE}"
    return f"{NONCE} {len(text) if length is None else length} 0\n{text}"


def test_a_whole_script_is_run() -> None:
    assert answer(request("echo ran")) == f"ran\n\n{NONCE} 0\n"
    assert answer(request("echo a; exit 3") + request("echo b")) == f"a\n\n{NONCE} 3\nb\n\n{NONCE} 0\n"


@pytest.mark.parametrize("missing", [1, len(NONCE), len(NONCE) + 2, len(NONCE) + 10])
def test_one_whose_connection_ends_is_not(tmp_path: Path, missing: int) -> None:
    whole = request(f"touch {tmp_path}/ran; rm -rf {tmp_path}/ran.not")
    assert answer(whole[:-missing]) == ""
    assert not (tmp_path / "ran").exists()


def test_one_whose_reader_is_killed_is_not(tmp_path: Path) -> None:
    """And what follows it is not read as requests: their answers would be taken for those of others."""
    head = tmp_path / "bin" / "head"
    head.parent.mkdir()
    head.write_text("#!/bin/sh\n/usr/bin/head -c 20\nkill -9 $$\n")
    head.chmod(0o755)
    asked = request(f"touch {tmp_path}/ran\n# a comment of many words\necho and more")
    assert answer(asked + request("echo after"), f"{head.parent}:{os.defpath}") == ""
    assert not (tmp_path / "ran").exists()


def verb(name: str, body: str) -> str:
    text = f"{name}() {{\n{body}\n}}\n#{NONCE}"
    return f"{NONCE} {len(text)} verb\n{text}"


def test_a_verb_is_there_for_what_comes_after_it_and_has_no_answer() -> None:
    """What one call of it makes, the next does not see."""
    said = verb("dagster_slurm_look", 'echo "$seen$1"; seen=before; inner() { :; }; exit "$2"')
    calls = request("dagster_slurm_look 'a b' 3") + request("dagster_slurm_look c 4; echo no") + request("inner")
    assert answer(said + calls).replace(NONCE, "N").splitlines()[:6] == ["a b", "", "N 3", "c", "", "N 4"]
    assert answer(said + calls).endswith(f"\n{NONCE} 127\n")


@pytest.mark.parametrize("missing", [1, len(NONCE) + 2, len(NONCE) + 6])
def test_a_verb_of_which_a_part_is_missing_is_none(missing: int) -> None:
    assert answer(verb("dagster_slurm_look", "echo half")[:-missing] + request("dagster_slurm_look")) == ""
