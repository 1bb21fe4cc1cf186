"""Packs of pixi-pack taken apart: the three forms, whole or refused."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
import struct
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.support.conda_fills import printing

from dagster_slurm.environments.pixi_pack import Contents, Expected, check, looks_like_pack, take_apart
from dagster_slurm.errors import EnvironmentBuildError

HEADER = b"#!/usr/bin/env bash\nset -eu\nexit 0\n@@END_HEADER@@\n\n"
TIDES, HARBOUR = b"tides" * 40_000, b"harbour" * 3
WHEEL = b"PK\3\4 a wheel"
PROGRAM = b"#!/usr/bin/python3\nprint('unpacking')\n"


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def files(**other: bytes | None) -> dict[str, bytes]:
    index = {"packages": {}, "packages.conda": {"tides-1.0-0.conda": {"sha256": sha256(TIDES)}}}
    noarch = {"packages": {"harbour-0.1-0.tar.bz2": {"sha256": sha256(HARBOUR)}}, "packages.conda": {}}
    made = {
        "channel/linux-64/repodata.json": json.dumps(index).encode(),
        "channel/linux-64/tides-1.0-0.conda": TIDES,
        "channel/noarch/harbour-0.1-0.tar.bz2": HARBOUR,
        "channel/noarch/repodata.json": json.dumps(noarch).encode(),
        "environment.yml": b"channels:\n- ./channel\n",
        "pixi-pack.json": b'{"version": "1", "pixi-pack-version": "0.7.10", "platform": "linux-64"}',
        "pypi/waves-1.0-py3-none-any.whl": WHEEL,
    }
    changed = {name.replace("__", "/"): content for name, content in other.items()}
    return {name: content for name, content in {**made, **changed}.items() if content is not None}


def tar_of(named: Mapping[str, bytes]) -> bytes:
    written = io.BytesIO()
    with tarfile.open(fileobj=written, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for name in sorted({str(parent) for each in named for parent in Path(each).parents} - {"."}):
            info = tarfile.TarInfo(name)
            info.type = tarfile.DIRTYPE
            tar.addfile(info)
        for name, content in sorted(named.items()):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return written.getvalue()


def script_of(named: Mapping[str, bytes], program: bytes = PROGRAM) -> bytes:
    archive, unpacker = base64.b64encode(tar_of(named)), base64.b64encode(program)
    return HEADER + archive + b"\n@@END_ARCHIVE@@\n" + unpacker


def apart(path: Path) -> Contents:
    into = path.with_name(f"{path.name}.apart")
    into.mkdir()
    contents = take_apart(path, into)
    for member in (*contents.members, *((contents.unpacker,) if contents.unpacker else ())):
        assert sha256((into / member.sha256).read_bytes()) == member.sha256
        assert (into / member.sha256).stat().st_size == member.size_bytes
    return contents


def write_directory(path: Path, named: Mapping[str, bytes]) -> None:
    for name, content in named.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(content)


def write_tar(path: Path, named: Mapping[str, bytes]) -> None:
    path.write_bytes(tar_of(named))


def write_script(path: Path, named: Mapping[str, bytes]) -> None:
    path.write_bytes(script_of(named))


Form = Callable[[Path, Mapping[str, bytes]], None]
FORMS = pytest.mark.parametrize("write", [write_directory, write_tar, write_script], ids=["directory", "tar", "script"])


@FORMS
def test_the_files_of_each_form(write: Form, tmp_path: Path) -> None:
    write(tmp_path / "pack", files())
    contents = apart(tmp_path / "pack")
    assert {each.name: each.sha256 for each in contents.members} == {
        name: sha256(each) for name, each in files().items()
    }
    assert (contents.platform, contents.version) == ("linux-64", "0.7.10")
    assert (contents.unpacker.sha256 if contents.unpacker else None) == (
        sha256(PROGRAM) if write is write_script else None
    )
    assert looks_like_pack(tmp_path / "pack")
    assert [each.name for each in contents.members if each.is_package] == [
        "channel/linux-64/tides-1.0-0.conda",
        "channel/noarch/harbour-0.1-0.tar.bz2",
        "pypi/waves-1.0-py3-none-any.whl",
    ]


@FORMS
@pytest.mark.parametrize(
    ("changed", "problem"),
    [
        ({"pixi-pack.json": None}, "it has no pixi-pack.json"),
        ({"pixi-pack.json": b"{"}, "pixi-pack.json is damaged"),
        ({"pixi-pack.json": b"[]"}, "pixi-pack.json is damaged"),
        ({"pixi-pack.json": b'{"version": "2"}'}, "it is of format '2', and '1' is known here"),
        ({"channel__linux-64__repodata.json": None}, "it has no channel/linux-64/repodata.json"),
        ({"channel__linux-64__repodata.json": b"{} "}, "channel/linux-64/tides-1.0-0.conda is not in its index"),
        ({"channel__linux-64__repodata.json": b'{"packages": []}'}, "channel/linux-64/repodata.json is damaged"),
        ({"channel__noarch__harbour-0.1-0.tar.bz2": None}, "channel/noarch/harbour-0.1-0.tar.bz2 is missing"),
        ({"channel__linux-64__tides-1.0-0.conda": b"other"}, "has not the SHA-256 that its index has"),
        ({"channel__linux-64__it's.conda": b""}, "is not a name that a file of a pack has"),
    ],
)
def test_not_a_whole_pack(write: Form, changed: dict[str, bytes | None], problem: str, tmp_path: Path) -> None:
    write(tmp_path / "pack", files(**changed))
    with pytest.raises(EnvironmentBuildError, match=re.escape(problem)) as caught:
        apart(tmp_path / "pack")
    assert str(tmp_path / "pack") in caught.value.message


@pytest.mark.parametrize(
    "name", ["../outside", "/etc/passwd", "channel/../../outside", "-o", "channel//x", "a\nb", "channel/.hidden"]
)
def test_no_name_leads_out(name: str, tmp_path: Path) -> None:
    write_tar(tmp_path / "pack", {**files(), name: b"x"})
    with pytest.raises(EnvironmentBuildError, match="is not a name that a file of a pack has"):
        apart(tmp_path / "pack")


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])
def test_nothing_but_files(kind: bytes, tmp_path: Path) -> None:
    written = io.BytesIO()
    with tarfile.open(fileobj=written, mode="w") as tar:
        info = tarfile.TarInfo("channel")
        info.type, info.linkname = kind, "/etc"
        tar.addfile(info)
    (tmp_path / "pack").write_bytes(written.getvalue())
    with pytest.raises(EnvironmentBuildError, match="neither a file nor a directory"):
        apart(tmp_path / "pack")


def test_a_link_in_a_directory(tmp_path: Path) -> None:
    write_directory(tmp_path / "pack", files())
    (tmp_path / "pack" / "channel" / "link").symlink_to("/etc")
    with pytest.raises(EnvironmentBuildError, match="channel/link is neither a file nor a directory"):
        apart(tmp_path / "pack")


def test_a_file_that_stands_in_it_twice(tmp_path: Path) -> None:
    whole = tar_of(files())
    end = len(whole) - len(whole.rstrip(b"\0"))
    body = whole[: (len(whole) - end + 511) // 512 * 512]
    (tmp_path / "pack").write_bytes(body + tar_of({"environment.yml": b"other"}))
    with pytest.raises(EnvironmentBuildError, match="stands in it twice"):
        apart(tmp_path / "pack")


@pytest.mark.parametrize("make", [tar_of, script_of], ids=["tar", "script"])
@given(data=st.data())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_cut_off_anywhere(
    make: Callable[[Mapping[str, bytes]], bytes], tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    whole = make(files())
    # tarfile pads more than the format asks for: the end of a tar is two blocks of zeros.
    last = len(whole.rstrip(b"\0")) if make is tar_of else len(whole)
    size = data.draw(st.one_of(st.integers(0, last - 1), st.integers(max(0, last - 60), last - 1)))
    path = tmp_path_factory.mktemp("cut") / "pack"
    path.write_bytes(whole[:size])
    with pytest.raises(EnvironmentBuildError, match=r"is not a whole pack of pixi-pack: .+"):
        apart(path)


@pytest.mark.parametrize("make", [tar_of, script_of], ids=["tar", "script"])
@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_one_byte_is_another(
    make: Callable[[Mapping[str, bytes]], bytes], tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """In a package. Of what is about packages, and of the program, the lock knows nothing."""
    whole = bytearray(make(files()))
    body = TIDES if make is tar_of else base64.b64encode(TIDES)[200:-200]
    begin = bytes(whole).find(body[:3000])
    assert begin > 0
    at = begin + data.draw(st.integers(0, len(body) - 1))
    whole[at] = data.draw(st.sampled_from([byte for byte in b"ABab01+/ \n\0\xff" if byte != whole[at]]))
    path = tmp_path_factory.mktemp("changed") / "pack"
    path.write_bytes(whole)
    with pytest.raises(EnvironmentBuildError):
        apart(path)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "empty"),
        (b"#!/bin/sh\necho a script\n", "it is a script without the line @@END_HEADER@@"),
        (b"not a tar archive at all" * 100, "the archive is cut off or damaged"),
        (bytes(10240), "it is empty"),
    ],
)
def test_something_else(content: bytes, problem: str, tmp_path: Path) -> None:
    (tmp_path / "pack").write_bytes(content)
    with pytest.raises(EnvironmentBuildError, match=re.escape(problem)):
        apart(tmp_path / "pack")
    assert not looks_like_pack(tmp_path / "pack")


class TestPrograms:
    """The program that unpacks has no checksum; that it is cut off shows."""

    def refuse(self, program: bytes, tmp_path: Path) -> None:
        path = tmp_path / f"pack-{len(program)}"
        path.write_bytes(script_of(files(), program))
        with pytest.raises(EnvironmentBuildError, match=r"the program that unpacks it is (cut off|missing)"):
            apart(path)

    def test_an_executable(self, tmp_path: Path) -> None:
        whole = printing(b"a text of some length" * 20)
        (tmp_path / "pack").write_bytes(script_of(files(), whole))
        assert apart(tmp_path / "pack").unpacker
        for size in (0, 1, 5, 63, 64, 100, len(whole) // 2, len(whole) - 1):
            self.refuse(whole[:size], tmp_path)

    def test_one_with_section_headers_at_its_end(self, tmp_path: Path) -> None:
        whole = bytearray(printing(b"text"))
        sections = len(whole)
        struct.pack_into("<Q", whole, 40, sections)
        struct.pack_into("<HH", whole, 58, 64, 2)
        whole += bytes(128)
        (tmp_path / "pack").write_bytes(script_of(files(), bytes(whole)))
        assert apart(tmp_path / "pack").unpacker
        self.refuse(bytes(whole[:-1]), tmp_path)
        self.refuse(bytes(whole[:sections]), tmp_path)

    def test_a_script(self, tmp_path: Path) -> None:
        self.refuse(PROGRAM[:-1], tmp_path)
        self.refuse(b"neither", tmp_path)


class TestExpected:
    """What the lock names, and what is injected, is there."""

    path = Path("pack")

    @pytest.fixture
    def contents(self, tmp_path: Path) -> Contents:
        write_tar(tmp_path / "pack", files())
        return apart(tmp_path / "pack")

    def test_as_it_should_be(self, contents: Contents) -> None:
        expected = [
            Expected("channel/linux-64/tides-1.0-0.conda", sha256(TIDES), "pixi.lock names"),
            Expected("pypi/waves-1.0-py3-none-any.whl", "", "pixi.lock names"),
            Expected("harbour-0.1-0.tar.bz2", sha256(HARBOUR), "is injected", anywhere=True),
        ]
        check(contents, expected, platform="linux-64", path=self.path)

    @pytest.mark.parametrize(
        ("expected", "platform", "problem"),
        [
            ([], "linux-aarch64", "pack was packed for linux-64, and linux-aarch64 is needed"),
            (
                [Expected("pypi/moon-1.whl", "", "pixi.lock names")],
                "linux-64",
                "lacks pypi/moon-1.whl, which pixi.lock",
            ),
            (
                [Expected("pypi/waves-1.0-py3-none-any.whl", "0" * 64, "pixi.lock names")],
                "linux-64",
                "pypi/waves-1.0-py3-none-any.whl of pack is not the one that pixi.lock names: its SHA-256 is ",
            ),
        ],
    )
    def test_refused(self, contents: Contents, expected: list[Expected], platform: str, problem: str) -> None:
        with pytest.raises(EnvironmentBuildError, match=re.escape(problem)):
            check(contents, expected, platform=platform, path=self.path)
