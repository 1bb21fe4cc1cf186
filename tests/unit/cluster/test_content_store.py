"""The one store of content: what is there is not sent, what is something else never gets a name."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from dagster_slurm.cluster import SlurmCluster
from dagster_slurm.cluster.content_store import ChangedError, ContentStore, Part
from dagster_slurm.transport import LocalTransport

SMALL, LARGE = os.urandom(5000), os.urandom(5 << 20)


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[SlurmCluster]:
    transport = LocalTransport()
    yield SlurmCluster(transport, remote_base=str(tmp_path))
    transport.close()


def store_on(cluster: SlurmCluster, directory: Path, **options: bool) -> ContentStore:
    return ContentStore(cluster, str(directory), lambda text: None, **options)


def left(directory: Path) -> dict[str, int]:
    """The files, and their modes."""
    assert list((directory / ".incoming").iterdir()) == []
    return {path.name: path.stat().st_mode & 0o777 for path in directory.iterdir() if path.is_file()}


def test_what_is_there_is_not_sent_again(cluster: SlurmCluster, tmp_path: Path) -> None:
    store, parts = store_on(cluster, tmp_path / "it"), [Part.of("small", SMALL), Part.of("large", LARGE)]
    assert store.provide([*parts, parts[0]]) == parts
    assert left(tmp_path / "it") == {part.sha256: 0o400 for part in parts}
    assert store.provide([*parts, other := Part.of("other", b"")]) == [other]


@pytest.mark.parametrize("sizes_are_known", [True, False])
def test_whose_size_is_not_known_is_there_by_its_name(
    cluster: SlurmCluster, tmp_path: Path, sizes_are_known: bool
) -> None:
    part = Part.of("small", SMALL)
    store_on(cluster, tmp_path).provide([part])
    cut_off = tmp_path / part.sha256
    cut_off.chmod(0o600)
    cut_off.write_bytes(SMALL[:10])
    sent = store_on(cluster, tmp_path, sizes_are_known=sizes_are_known).provide([part])
    assert sent == ([part] if sizes_are_known else [])
    assert cut_off.read_bytes() == (SMALL if sizes_are_known else SMALL[:10])


@pytest.mark.parametrize("content", [SMALL, LARGE], ids=["small", "large"])
def test_a_file_that_is_not_what_it_was_never_gets_the_name(
    cluster: SlurmCluster, tmp_path: Path, content: bytes
) -> None:
    source = tmp_path / "source"
    source.write_bytes(content[::-1])
    part = Part("the source", Part.of("", content).sha256, len(content), lambda: source)
    with pytest.raises(ChangedError, match="the source changed while it was sent"):
        store_on(cluster, tmp_path / "it").provide([part])
    assert left(tmp_path / "it") == {}


def test_what_another_process_sends_meanwhile_is_left_to_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the last file's move and the removal of the directory."""
    part, arrived = Part.of("small", SMALL), tmp_path / "it" / ".incoming" / "batch"
    for directory in (arrived, tmp_path / "programs", tmp_path / "others"):
        directory.mkdir(parents=True)
        (directory / part.sha256).write_bytes(SMALL)
    for name in ("rm", "rmdir"):
        program = tmp_path / "programs" / name
        program.write_text(
            f'#!/bin/sh\ncase $* in *batch*) mv -T {tmp_path}/others {arrived} ;; esac\nexec /bin/{name} "$@"\n'
        )
        program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}/programs:{os.environ['PATH']}")
    # Its shell has that PATH from its beginning.
    transport = LocalTransport()
    store_on(SlurmCluster(transport, remote_base=str(tmp_path)), tmp_path / "it").store("batch", [part])
    transport.close()
    assert (arrived / part.sha256).read_bytes() == SMALL
    assert (tmp_path / "it" / part.sha256).read_bytes() == SMALL


@pytest.mark.parametrize("content", [SMALL, LARGE], ids=["small", "large"])
def test_all_that_store_the_same_at_once_succeed(cluster: SlurmCluster, tmp_path: Path, content: bytes) -> None:
    parts = [Part.of("it", content), Part.of("another", b"1")]

    def provide(_: int) -> None:
        transport = LocalTransport()
        store_on(SlurmCluster(transport, remote_base=str(tmp_path)), tmp_path / "it").provide(parts)
        transport.close()

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(provide, range(8)))
    assert left(tmp_path / "it") == {part.sha256: 0o400 for part in parts}
