"""What holds for every kind of environment: packed once, sent once, installed once, whole or not at all."""

from __future__ import annotations

import random
import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from dagster_slurm.cluster import SlurmCluster
from dagster_slurm.environments import Activation
from dagster_slurm.environments.cache import EnvironmentCache
from dagster_slurm.errors import RemoteStorageError, TransferCorruptedError
from dagster_slurm.sandbox import Sandbox
from dagster_slurm.transport import Transport
from tests.support.pixi import Channel

from ..ssh import connection_of, opened
from .kinds import Builder, Kind, Packages, Pixi, Uv

pytestmark = [pytest.mark.process, pytest.mark.sampled("transport", share=2)]

RunIn = Callable[[Activation, str], str]


@pytest.fixture(params=["uv", "pixi"])
def kind(request: pytest.FixtureRequest, tmp_path: Path, channel: Channel, tools: None) -> Kind:
    directory = tmp_path / "project"
    return Uv(directory) if request.param == "uv" else Pixi(directory, channel)


def version_of(run_in: RunIn, activation: Activation, name: str) -> str:
    return run_in(activation, f"python -c 'import {name}; print({name}.__version__)'").strip()


def test_packages(kind: Kind, cache: EnvironmentCache, run_in: RunIn) -> None:
    kind.lock({"waves": ("1.0", 0), "moon": ("2.0", 0)})
    activation = cache.provide(kind.recipe())
    assert (version_of(run_in, activation, "waves"), version_of(run_in, activation, "moon")) == ("1.0", "2.0")
    assert run_in(activation, f"{activation.python} -c 'import moon; print(moon.__version__)'") == "2.0\n"


def test_the_second_time_nothing_is_done(kind: Kind, cache: EnvironmentCache, told: list[str]) -> None:
    kind.lock({"waves": ("1.0", 0)})
    first = cache.provide(kind.recipe())
    assert [line for line in told if line.startswith("Installed")]
    told.clear()
    assert cache.provide(kind.recipe()) == first
    assert told == []


def test_another_checkout_has_the_same_key(kind: Kind, cache: EnvironmentCache, told: list[str]) -> None:
    kind.lock({"waves": ("1.0", 0)})
    first = cache.provide(kind.recipe())
    told.clear()
    copy = kind.directory.with_name("another")
    shutil.copytree(kind.directory, copy)
    assert cache.provide(kind.recipe(copy)).path == first.path
    assert told == []


def test_a_small_change_sends_little(
    kind: Kind, cache: EnvironmentCache, run_in: RunIn, transport: Transport, base: str
) -> None:
    """A package that others come behind changes its version and its size."""
    packages = {"moon": ("1.0", 1000), "waves": ("1.0", 40 << 20), "zephyr": ("1.0", 20 << 20)}
    kind.lock(packages)
    before = cache.provide(kind.recipe())
    first = parts_bytes(transport, base)
    kind.lock({**packages, "moon": ("2.0", 1500)})
    after = cache.provide(kind.recipe())
    assert 0 < parts_bytes(transport, base) - first < 0.05 * first
    assert version_of(run_in, after, "moon") == "2.0"
    assert version_of(run_in, before, "moon") == "1.0"


def parts_bytes(transport: Transport, base: str) -> int:
    """What all parts on the cluster have: everything that was ever sent."""
    listed = transport.run('cd "$1/env-cache/parts" && cat -- * | wc -c', (base,))
    return int(listed.text)


def test_pushed_anew(kind: Kind, cache: EnvironmentCache, run_in: RunIn) -> None:
    kind.lock({"waves": ("1.0", 0)})
    first = cache.provide(kind.recipe())
    second = cache.provide(kind.recipe(), force=True)
    assert first.path != second.path
    assert cache.provide(kind.recipe()).path == second.path
    # A job may be running in it.
    assert version_of(run_in, first, "waves") == "1.0"


def test_ten_at_once(kind: Kind, base: str, transport: Transport) -> None:
    kind.lock({"waves": ("1.0", 1 << 20)})
    builders = [Builder(kind.recipe(), base, transport) for _ in range(10)]
    said = [builder.ended() for builder in builders]
    assert len({path for path, _ in said}) == 1
    assert sum(any(line.startswith("Installing") for line in lines) for _, lines in said) == 1


@pytest.mark.timeout(400)
@pytest.mark.parametrize("trials", [1, pytest.param(20, marks=pytest.mark.all_faults)])
def test_killed_at_random_moments(
    kind: Kind, base: str, transport: Transport, cache: EnvironmentCache, run_in: RunIn, trials: int
) -> None:
    """`kill -9` of the builder at moments from its start to after its end; what is there then is whole, and is used."""
    chance = random.Random(6)
    packages: Packages = {"waves": ("1.0", 24 << 20), **{f"part{n}": ("1.0", 0) for n in range(20)}}
    kind.lock(packages)
    began = time.monotonic()
    Builder(kind.recipe(), base, transport).ended()
    took = time.monotonic() - began
    for trial in range(trials):
        kind.lock({**packages, "waves": (f"1.{trial + 1}", 24 << 20)})
        builder = Builder(kind.recipe(), base, transport)
        # One in each part of the time, however many there are.
        time.sleep((trial + chance.random()) / trials * 1.1 * took)
        builder.kill()
        activation = cache.provide(kind.recipe())
        assert run_in(activation, "python -c 'import waves, part7; print(waves.__version__)'") == f"1.{trial + 1}\n"
        all_are_whole(transport, base)


def all_are_whole(transport: Transport, base: str) -> None:
    """What a key's link points to has every file of its listing."""
    script = r"""cd "$1/env-cache" || exit 1
    for key in *; do
        [ -L "$key" ] || continue
        cd "$key" || exit 2
        find . -type f -printf '%s %P\n' -o -type l -printf 'link %P\n' |
            grep -v -e __pycache__ -e '[.]listing$' -e '[.]complete$' | LC_ALL=C sort >"/tmp/now.$$"
        grep -v -e '[.]listing$' .listing | cmp - "/tmp/now.$$" || exit 3
        cd ..
    done
    rm -f "/tmp/now.$$" """
    answer = transport.run(script, (base,))
    assert answer.returncode == 0, answer


def test_a_part_that_was_damaged_on_the_cluster(
    kind: Kind, cache: EnvironmentCache, run_in: RunIn, transport: Transport, base: str
) -> None:
    """One clear error; the next try sends it again."""
    kind.lock({"waves": ("1.0", 3 << 20)})
    cache.provide(kind.recipe())
    script = (
        'cd "$1/env-cache/parts" && largest=$(ls -S | head -n 1) && chmod u+w -- "$largest" && '
        'printf x | dd of="$largest" conv=notrunc bs=1'
    )
    assert transport.run(script, (base,)).returncode == 0
    with pytest.raises(TransferCorruptedError, match="Damaged on the cluster"):
        cache.provide(kind.recipe(), force=True)
    assert version_of(run_in, cache.provide(kind.recipe(), force=True), "waves") == "1.0"


@pytest.mark.cluster
def test_no_space(kind: Kind, sandbox: Sandbox, told: list[str]) -> None:
    kind.lock({"waves": ("1.0", 8 << 20)})
    with sandbox.small_filesystem(4) as small, opened(connection_of(sandbox.env())) as transport:
        cache = EnvironmentCache(SlurmCluster(transport, remote_base=str(small)), told.append)
        with pytest.raises(RemoteStorageError, match=re.compile("no space", re.IGNORECASE)):
            cache.provide(kind.recipe())
