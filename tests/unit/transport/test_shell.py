"""Quoting: any argument arrives unchanged in a real shell."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dagster_slurm.errors import InvalidRequestError
from dagster_slurm.transport.shell import quote, shell_file, with_arguments

SHELLS = [name for name in ("sh", "bash") if shutil.which(name)]
PRINT = """printf '%s\\0' "$#" "$@" """
words = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"))
shell_like = st.text(st.sampled_from("'\"\\$`(){}[]*?!~#;&|<>\n\r\t -=%é\u0141\U0001f600a"))


def arguments_seen(shell: str, args: Sequence[str]) -> list[str]:
    script = with_arguments(PRINT, args)
    done = subprocess.run([shell], input=script.encode(), capture_output=True, check=True)
    assert done.stderr == b""
    count, *seen = done.stdout.decode().split("\0")[:-1]
    assert int(count) == len(args)
    return seen if args else []


@pytest.mark.parametrize("shell", SHELLS)
@given(args=st.lists(words | shell_like, max_size=4))
@settings(max_examples=150, deadline=None)
def test_arguments_arrive_unchanged(shell: str, args: list[str]) -> None:
    assert arguments_seen(shell, args) == args


@given(args=st.lists(shell_like, min_size=1, max_size=30))
@settings(max_examples=50, deadline=None)
def test_they_arrive_through_eval_as_the_channel_does_it(args: list[str]) -> None:
    script = 'script=$(cat); (eval "$script")'
    done = subprocess.run(
        ["sh", "-c", script], input=with_arguments(PRINT, args).encode(), capture_output=True, check=True
    )
    assert done.stdout.decode().split("\0")[1:-1] == args


@given(words, words)
def test_nul_is_refused(before: str, after: str) -> None:
    with pytest.raises(InvalidRequestError, match="NUL"):
        quote(f"{before}\0{after}")


def test_golden() -> None:
    assert with_arguments("echo", ["a", "b c", "", "it's"]) == "set -- a 'b c' '' 'it'\"'\"'s'\necho"
    assert with_arguments('echo "$#"', []) == 'set --\necho "$#"'


def test_the_files_of_the_package_are_read() -> None:
    assert "dagster_slurm_serve()" in shell_file("dagster_slurm.transport.scripts", "channel.sh")
