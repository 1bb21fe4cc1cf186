"""A self-extracting file is taken apart and made again, to the byte."""

from __future__ import annotations

import base64
import json
import os
import random
import subprocess
from pathlib import Path

import pytest

from dagster_slurm.environments.self_extracting import parts, take_apart

HEAD = b"#!/bin/sh\nexit 0\n@@END_HEADER@@\n\n"
TAIL = b"\n@@END_ARCHIVE@@\nf0VMRg=="
LARGE = random.Random(3).randbytes((9 << 20) + 1)


def again(source: Path) -> tuple[bytes, list[list[object]]]:
    """What bash prints of it, and which stretches it was taken apart into."""
    apart = source.with_name("apart")
    take_apart(source, apart)
    found, command = parts(apart)
    directory = source.with_name("parts")
    directory.mkdir()
    for part in found:
        content = part.fetch()
        assert isinstance(content, bytes)
        (directory / part.name).write_bytes(content)
    environment = {**os.environ, "parts": str(directory)}
    done = subprocess.run(["bash", "-c", command], env=environment, stdout=subprocess.PIPE, check=True)
    with apart.open("rb") as file:
        return done.stdout, json.loads(file.readline())


@pytest.mark.parametrize("archive", [b"a", b"ab", b"abc", b"abcd", LARGE, LARGE[:-1], LARGE[:-2]], ids=len)
def test_the_archive_is_sent_decoded(archive: bytes, tmp_path: Path) -> None:
    whole = HEAD + base64.b64encode(archive) + TAIL
    (tmp_path / "file").write_bytes(whole)
    made, stretches = again(tmp_path / "file")
    assert made == whole
    assert stretches == [["as it is", len(HEAD)], ["base64", len(archive)], ["as it is", len(TAIL)]]


@pytest.mark.parametrize(
    "whole",
    [
        b"exit 0\n",
        HEAD,
        HEAD + b"QUJD",
        HEAD + TAIL,
        HEAD + b"QUJDQ" + TAIL,
        HEAD + b"QUI=QUI=" + TAIL,
        # Bits that count for nothing: encoded again it reads otherwise.
        HEAD + b"QUK=" + TAIL,
        HEAD + b"QU D" + TAIL,
        HEAD + b"QUJD\nQUJD" + TAIL,
        HEAD + b"QUJD" * (1 << 20) + b"\0\xff\r\0" + TAIL,
        HEAD + b"QUJD" * ((1 << 20) - 1) + b"QUI=" + b"QUJD" + TAIL,
    ],
    # A test's name stands in the environment of what it starts, where megabytes have no place.
    ids=lambda whole: f"{len(whole)} bytes",
)
def test_what_is_not_known_is_sent_as_it_is(whole: bytes, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(whole)
    made, stretches = again(tmp_path / "file")
    assert made == whole
    assert stretches == [["as it is", len(whole)]]
