"""What a `pixi.lock` names, in the versions that pixi has written."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dagster_slurm.environments.pixi_lock import Kind, LockedPackage, lock_version, locked_packages
from dagster_slurm.errors import InvalidRequestError

V4 = """\
version: 4
environments:
  default:
    channels:
    - url: https://conda.example/forge/
    packages:
      linux-64:
      - conda: https://conda.example/forge/linux-64/zlib-1.3.1-h4ab18f5_1.conda
      - pypi: https://files.example/numpy-2.1.0-cp311-cp311-manylinux_2_17_x86_64.manylinux2014_x86_64.whl
      - pypi: .
packages:
- kind: conda
  name: zlib
  version: 1.3.1
  build: h4ab18f5_1
  subdir: linux-64
  url: https://conda.example/forge/linux-64/zlib-1.3.1-h4ab18f5_1.conda
  sha256: cee16ab07a11303de721915f0a269e8c7a54a5c834aa52f74b1cc3a59000ade8
  depends:
  - __glibc >=2.17,<3.0.a0
  - libzlib 1.3.1 h4ab18f5_1
  size: 93004
- kind: pypi
  name: numpy
  version: 2.1.0
  url: https://files.example/numpy-2.1.0-cp311-cp311-manylinux_2_17_x86_64.manylinux2014_x86_64.whl
  sha256: 15ef8b2177eeb7e37dd5ef4016f30b7659c57c2c0b57a779f1d537ff33a72c7b
- kind: pypi
  name: coast
  version: 0.1.0
  path: .
  sha256: 6a7b1b7b5cd7a7d7b7b5cd7a7d7b7b5cd7a7d7b7b5cd7a7d7b7b5cd7a7d7b7b5
  editable: true
"""

V6 = """\
version: 6
environments:
  default:
    channels:
    - url: https://conda.example/forge/
    indexes:
    - https://pypi.org/simple
    packages:
      linux-64:
      - conda: https://conda.example/forge/linux-64/zlib-1.3.1-hb9d3cd8_2.conda
      - conda: https://conda.example/forge/noarch/tzdata-2025a-h78e105d_0.tar.bz2
      - conda: recipes/tides
      - pypi: https://files.example/torch-2.6.0%2Bcpu-cp311-cp311-manylinux_2_28_x86_64.whl
      - pypi: wheels/waves-1.0-py3-none-any.whl
      - pypi: ./
      - pypi: https://files.example/slow-0.1.tar.gz
      - pypi: git+https://git.example/moon.git?rev=main#0123456789012345678901234567890123456789
  gpu:
    channels: []
    packages:
      linux-aarch64: []
packages:
- conda: https://conda.example/forge/linux-64/zlib-1.3.1-hb9d3cd8_2.conda
  sha256: 5d7c0e5f0005f74112a34a7425179f4eb6e73c92f5d109e6af4ddeca407c92ab
  md5: c9f075ab2f33b3bbee9e62d4ad0a6cd8
  depends:
  - __glibc >=2.28,<3.0.a0
  - libgcc >=13
  size: 92286
- conda: https://conda.example/forge/noarch/tzdata-2025a-h78e105d_0.tar.bz2
  sha256: c4b1ae8a2931fe9b274c44af29c5475a85b37693999f8c792dad0f8c6734b1de
- conda: recipes/tides
  name: tides
  version: 0.2.0
  build: hbf21a9e_0
  input:
    hash: 0123456789012345678901234567890123456789012345678901234567890123
    globs:
    - recipe.yaml
- pypi: https://files.example/torch-2.6.0%2Bcpu-cp311-cp311-manylinux_2_28_x86_64.whl
  name: torch
  version: 2.6.0+cpu
  sha256: 59e78aa0c690f70734e42670036d6b541930b8eabbaa18d94e090abf14cc4d91
- pypi: wheels/waves-1.0-py3-none-any.whl
  name: waves
  version: '1.0'
- pypi: ./
  name: coast
  version: 0.1.0
  sha256: 8d3fa6bc4dd6ed3ee5a9e4c3e4e4d9a3fdbb43b9fdbb43b9fdbb43b9fdbb43b9
  editable: true
- pypi: https://files.example/slow-0.1.tar.gz
  name: slow
  version: '0.1'
  sha256: 2db6bf0e51dc9e1c9b9f9e12cb71ea3c94db44ac81eb1bd36fb3dd7a1a40fb19
- pypi: git+https://git.example/moon.git?rev=main#0123456789012345678901234567890123456789
  name: moon
  version: '3'
"""

V7 = """\
version: 7
platforms:
- name: old-cluster
  subdir: linux-64
  virtual-packages:
  - __glibc=2.17
- name: linux-aarch64
environments:
  default:
    channels:
    - url: https://conda.example/forge/
    packages:
      old-cluster:
      - conda: https://conda.example/forge/noarch/tides-1.0-pyh0_0.conda
      - conda_source: harbour[abc12345] @ ./recipes/harbour
      - pypi: ./wheels/dagster_pipes-1.13-py3-none-any.whl
      linux-aarch64:
      - conda: https://conda.example/forge/noarch/tides-1.0-pyh0_0.conda
packages:
- conda: https://conda.example/forge/noarch/tides-1.0-pyh0_0.conda
  sha256: dbacdc9efc1aa7d15595cbaba4826dfc83d7a9050fac3d6d7703d019f99e5f4b
  size: 3003954
- conda_source: harbour[abc12345] @ ./recipes/harbour
  version: 0.2
- pypi: ./wheels/dagster_pipes-1.13-py3-none-any.whl
  name: dagster-pipes
  version: '1.13'
"""


def by_name(text: str, environment: str = "default", platform: str = "linux-64") -> dict[str, LockedPackage]:
    return {each.name: each for each in locked_packages(text, environment, platform)}


def test_version_4() -> None:
    found = by_name(V4)
    assert list(found) == ["zlib", "numpy", "coast"]
    zlib = found["zlib"]
    assert (zlib.kind, zlib.version, zlib.size_bytes, zlib.glibc) == (Kind.CONDA, "1.3.1", 93004, (2, 17))
    assert zlib.member == "channel/linux-64/zlib-1.3.1-h4ab18f5_1.conda"
    assert found["numpy"].member.startswith("pypi/numpy-2.1.0-cp311-")
    assert (found["coast"].kind, found["coast"].local_path) == (Kind.PROJECT, ".")


def test_version_5_is_read_as_version_4() -> None:
    assert by_name(V4.replace("version: 4", "version: 5", 1)) == by_name(V4)


def test_version_6() -> None:
    found = by_name(V6)
    assert {name: each.kind for name, each in found.items()} == {
        "zlib": Kind.CONDA,
        "tzdata": Kind.CONDA,
        "tides": Kind.CONDA_SOURCE,
        "torch": Kind.WHEEL,
        "waves": Kind.WHEEL,
        "coast": Kind.PROJECT,
        "slow": Kind.SDIST,
        "moon": Kind.SDIST,
    }
    assert found["zlib"].glibc == (2, 28)
    assert (found["tzdata"].version, found["tzdata"].glibc) == ("2025a", None)
    assert found["torch"].filename == "torch-2.6.0+cpu-cp311-cp311-manylinux_2_28_x86_64.whl"
    assert found["torch"].glibc == (2, 28)
    assert (found["torch"].local_path, found["waves"].local_path) == (None, "wheels/waves-1.0-py3-none-any.whl")
    assert (found["tides"].local_path, found["tides"].what) == ("recipes/tides", "tides 0.2.0")


def test_version_7_has_names_for_platforms() -> None:
    found = by_name(V7)
    assert list(found) == ["tides", "harbour", "dagster-pipes"]
    assert (found["harbour"].kind, found["harbour"].local_path) == (Kind.CONDA_SOURCE, "./recipes/harbour")
    assert found["tides"].size_bytes == 3003954
    assert list(by_name(V7, platform="linux-aarch64")) == ["tides"]


def test_two_platforms_of_one_kind_are_told_apart() -> None:
    text = V7.replace("- name: linux-aarch64", "- name: new-cluster\n  subdir: linux-64").replace(
        "      linux-aarch64:", "      new-cluster:"
    )
    with pytest.raises(
        InvalidRequestError, match="several platforms for linux-64 in 'default': old-cluster, new-cluster"
    ):
        by_name(text)


@pytest.mark.parametrize(
    ("text", "environment", "platform", "match"),
    [
        (V6, "gpus", "linux-64", r"no environment 'gpus'"),
        (V6, "gpu", "linux-64", r"no packages of 'gpu' for linux-64"),
        (V6.replace("version: 6", "version: 8", 1), "default", "linux-64", r"of version 8, and 4 to 7 are known"),
        (V6.replace("version: 6", "version: 1", 1), "default", "linux-64", r"of version 1, and 4 to 7 are known"),
        ("", "default", "linux-64", r"has no version"),
        ("a: [", "default", "linux-64", r"pixi.lock cannot be read: "),
        (
            V7.replace("conda_source: harbour", "docker: harbour"),
            "default",
            "linux-64",
            r"a kind that is not known here",
        ),
    ],
)
def test_refused(text: str, environment: str, platform: str, match: str) -> None:
    with pytest.raises(InvalidRequestError, match=match) as caught:
        locked_packages(text, environment, platform)
    assert caught.value.hint


def test_hints_name_what_there_is() -> None:
    with pytest.raises(InvalidRequestError) as caught:
        by_name(V6, environment="gpus")
    assert "It has: default, gpu." in str(caught.value.hint)
    with pytest.raises(InvalidRequestError) as caught:
        by_name(V6, environment="gpu")
    assert "It has them for: linux-aarch64." in str(caught.value.hint)


@pytest.mark.parametrize(
    "location",
    [
        "https://h/..%2F..%2Fvictim.whl",
        "https://h/x/%2E%2E/",
        "https://h/../a-1-0.conda",
        "https://h/a%2Fb/c-1-0.conda",
        "..%2fvictim.whl",
    ],
)
def test_no_location_becomes_another_path(location: str) -> None:
    kind = "conda" if location.endswith(".conda") else "pypi"
    text = V7.replace("conda: https://conda.example/forge/noarch/tides-1.0-pyh0_0.conda", f"{kind}: {location}")
    try:
        found = locked_packages(text, "default", "linux-64")
    except InvalidRequestError as error:
        assert "no file can have" in error.message
    else:
        assert all({"..", ""}.isdisjoint(each.member.split("/")) for each in found if each.is_file)


@pytest.mark.parametrize("kind", ["conda", "pypi"])
def test_a_location_that_is_no_address(kind: str) -> None:
    """What stands in brackets is an address of IPv6, to Python."""
    location = "https://[0-9999999999]/x/linux-64/a-1-0.conda"
    text = V7.replace("conda: https://conda.example/forge/noarch/tides-1.0-pyh0_0.conda", f"{kind}: {location}")
    with pytest.raises(InvalidRequestError, match="names an address that cannot be read"):
        locked_packages(text, "default", "linux-64")


def test_what_the_location_does_not_tell() -> None:
    """The lock says the channel's directory and the file where an address or a path has neither."""
    location = "https://github.example/releases/download/v1/tides"
    text = V7.replace("https://conda.example/forge/noarch/tides-1.0-pyh0_0.conda", f"{location}.conda").replace(
        "  size: 3003954\n", "  size: 3003954\n  subdir: linux-64\n  file_name: tides-1.0-h0_0.conda\n"
    )
    found = locked_packages(text, "default", "linux-64")[0]
    assert found.member == "channel/linux-64/tides-1.0-h0_0.conda"


def test_a_lock_without_sha256() -> None:
    text = V6.replace("  sha256: 5d7c0e5f0005f74112a34a7425179f4eb6e73c92f5d109e6af4ddeca407c92ab\n", "")
    assert by_name(text)["zlib"].checksum == "md5:c9f075ab2f33b3bbee9e62d4ad0a6cd8"


def test_errors_name_the_lock_and_the_line() -> None:
    text = V6.replace("version: 6\n", "version: 6\n<<<<<<< HEAD\n")
    with pytest.raises(InvalidRequestError, match=r"coast/pixi.lock cannot be read: .* in line \d+"):
        locked_packages(text, "default", "linux-64", name="coast/pixi.lock")


def test_the_version_alone() -> None:
    assert [lock_version(text) for text in (V4, V6, V7, "")] == [4, 6, 7, 0]


@given(st.data())
def test_a_damaged_lock_is_read_or_refused(data: st.DataObject) -> None:
    lines = data.draw(st.sampled_from([V4, V6, V7])).splitlines(keepends=True)
    number = data.draw(st.integers(0, len(lines) - 1))
    lines[number] = data.draw(st.sampled_from(["", lines[number][:-4], lines[number] * 2, "- x\n", "  y: [\n"]))
    try:
        found = locked_packages("".join(lines), "default", "linux-64")
    except InvalidRequestError as error:
        assert error.message and error.hint
    else:
        assert all(isinstance(each.location, str) and each.what is not None for each in found)
