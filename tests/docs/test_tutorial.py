"""The tutorial, from an empty directory on, in one shell and to the letter, on the suite's own sandbox."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from dagster_slurm.sandbox import Sandbox
from tests.docs.markdown import ROOT, blocks_of
from tests.docs.transcript import Transcript, shows_what_was_printed
from tests.support import forked

pytestmark = [pytest.mark.process, pytest.mark.cluster]


def test_the_tutorial(sandbox: Sandbox, tmp_path: Path) -> None:
    variables = {**sandbox.env(), "PATH": f"{forked.programs()}:{os.environ['PATH']}"}
    # The wheels of other tests are used again.
    cache = os.environ.get("DAGSTER_SLURM_CACHE_DIR", str(Path("~/.cache/dagster-slurm").expanduser()))
    reader = Transcript(tmp_path, {**variables, "DAGSTER_SLURM_CACHE_DIR": cache}, directory="rain")
    blocks = blocks_of(ROOT / "docs" / "tutorial.md")
    shows_what_was_printed(blocks, reader.follow(blocks, of=tmp_path))
