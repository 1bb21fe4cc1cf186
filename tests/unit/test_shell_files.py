"""Every shell file of this project passes shellcheck and parses in its shell."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILES = sorted(file for folder in ("src", "scripts") for file in (ROOT / folder).rglob("*.sh"))
NAMES = [str(file.relative_to(ROOT)) for file in FILES]


def test_there_are_shell_files() -> None:
    assert any(name.endswith("job/batch.sh") for name in NAMES)


@pytest.mark.parametrize("file", FILES, ids=NAMES)
def test_shellcheck(file: Path) -> None:
    if shutil.which("shellcheck") is None:
        assert not os.environ.get("CI"), "shellcheck is missing"
        pytest.skip("shellcheck is not installed")
    done = subprocess.run(["shellcheck", "--color=never", str(file)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("file", FILES, ids=NAMES)
def test_it_parses_in_the_shell_it_names(file: Path) -> None:
    head = file.read_text(encoding="utf-8")
    declared = re.match(r"# shellcheck shell=(\w+)|#!(?:/bin/|/usr/bin/env )(\w+)", head)
    assert declared, f"{file}: name the shell in the first line"
    shell = declared.group(1) or declared.group(2)
    done = subprocess.run([shell, "-n", str(file)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("file", FILES, ids=NAMES)
def test_what_proc_says_of_another_process_is_read_to_its_end(file: Path) -> None:
    """The rest was given to the next `read`: the end of a node had the words of /proc/PID/io."""
    found = re.findall(r'read (?!-rd \'\').*</?"?/proc/\$(?!\$).*', file.read_text(encoding="utf-8"))
    assert not found


TRAP = re.compile(r"""trap ["']?([a-z_]+)[^\n]* "?(?:TERM|\$signal)\b""")


@pytest.mark.parametrize("file", FILES, ids=NAMES)
def test_no_trap_of_a_signal_substitutes_a_command(file: Path) -> None:
    """It may have come into a `read -t`, whose time then ends in there: bash 5.2 goes back to that, or aborts."""
    text = file.read_text(encoding="utf-8")
    for name in TRAP.findall(text):
        (body,) = re.findall(rf"^{name}\(\) {{\n(.*?)^}}", text, re.MULTILINE | re.DOTALL)
        assert not re.search(r"\$\((?!\()|`", re.sub("#.*", "", body)), name


def test_traps_of_signals_are_found() -> None:
    trapping = {file.name for file in FILES if TRAP.search(file.read_text(encoding="utf-8"))}
    assert trapping == {"dispatch.sh", "nodes.sh", "payload.sh", "rank.sh", "ranks.sh"}


# Of one machine, or compared with nothing that lies in a file system.
CLOCKS = {"batch.sh", "nodes.sh", "rank.sh", "checks.sh"}


@pytest.mark.parametrize("file", FILES, ids=NAMES)
def test_no_age_of_a_file_is_told_by_the_clock_of_a_login_node(file: Path) -> None:
    """File servers have clocks of their own, and `find -mtime` compares with that of the machine."""
    text = file.read_text(encoding="utf-8")
    code = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))
    # Where nothing can be written, there is no other one.
    code = code.replace("|| now=$(date +%s) || exit 74", "").replace('date -d "$now" +%s', "")
    code = code.replace('made %s\\nfiles %s\\n\' "$name" "$(date +%s)"', "")
    found = re.findall(r"-[amc](?:min|time)\b|date (?:-d \S+ )?\+%s", code.replace('date -d "$booted" +%s', ""))
    assert not found or file.name in CLOCKS or "sandbox" in file.parts
