"""A mock of what a Mac has: no Mac can be had here. Its `cp` and its bash 3.2, as far as they differ from Debian's."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

# As macOS has it: no long options, none of GNU's own letters.
BSD_CP = """#!/bin/sh
for word; do
    case $word in
    --) break ;;
    --* | -*[!acfHiLnPpRrvXx-]*) echo "cp: illegal option -- $word" >&2; exit 64 ;;
    esac
done
exec /bin/cp "$@"
"""
# As bash 3.2 has it.
NO_GLOBSTAR = """shopt() {
    case " $* " in *" globstar "*) echo 'shopt: globstar: invalid shell option name' >&2; return 1 ;; esac
    builtin shopt "$@"
}
"""


def with_bsd_cp(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have programs find that `cp` first."""
    directory.mkdir()
    (directory / "cp").write_text(BSD_CP)
    (directory / "cp").chmod(0o755)
    monkeypatch.setenv("PATH", f"{directory}:{os.environ['PATH']}")
