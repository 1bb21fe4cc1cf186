"""Environments on the cluster: found by their key, or packed, sent and installed there, once.

ADR 8 says why it is done so. Whatever dies, what the link of a key points to is whole.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from uuid import uuid4

from dagster_slurm.cluster import SlurmCluster
from dagster_slurm.cluster.content_store import ChangedError, ContentStore, Part
from dagster_slurm.environments import local_store
from dagster_slurm.environments.recipe import (
    ISOLATED,
    Activation,
    Listed,
    Needs,
    Pack,
    Recipe,
    Tell,
    activate_deployed,
    cache_key,
    last_lines,
)
from dagster_slurm.environments.target import Target, target_of
from dagster_slurm.errors import (
    DagsterSlurmError,
    EnvironmentBuildError,
    InterpreterNotFoundError,
    RemoteStorageError,
    TransferCorruptedError,
)
from dagster_slurm.process_identity import Life, ProcessIdentity
from dagster_slurm.text import counted
from dagster_slurm.transport import CompletedCommand, storage_fault
from dagster_slurm.transport.base import reading

DIRECTORY = "env-cache"
_STALE_SECONDS = 60
_BEAT_SECONDS = 15.0
_LOOK_SECONDS = 1.0
_INSTALL_SECONDS = 3600.0
_PACKS = 2
_DAMAGED, _NO_WAY_THERE = 65, 70
_shared: set[tuple[str, str]] = set()
_SETUP_FAILED, _NO_PYTHON, _PYTHON_BROKEN, _INSTALL_FAILED, _DOES_NOT_WORK = 71, 72, 73, 75, 76


@dataclass(frozen=True)
class Preview:
    """What an environment would come to, before anything is done about it.

    Args:
        activation: How it is, or would be, entered.
        is_there: Whether nothing has to be installed.
        parts: What would be sent, as far as the cluster lacks it; None if that is known only when it is packed.
        there: Digests of the parts that the cluster has.
    """

    activation: Activation
    is_there: bool = True
    parts: tuple[Listed, ...] | None = ()
    there: frozenset[str] = frozenset()


@dataclass(frozen=True)
class _Place:
    """What is being installed."""

    recipe: Recipe
    target: Target
    key: str


class _NoWayThereError(Exception):
    """The installing lines say that the login node lacks what they need."""


class EnvironmentCache:
    """The environments below `remote_base` of one cluster.

    Args:
        cluster: The cluster.
        tell: Gets what is done, and how far it is, for the run's log.
    """

    def __init__(self, cluster: SlurmCluster, tell: Tell) -> None:
        self._cluster = cluster
        self._tell = tell

    @property
    def directory(self) -> str:
        """Where they lie."""
        return f"{self._cluster.base()}/{DIRECTORY}"

    def provide(self, recipe: Recipe, *, force: bool = False) -> Activation:
        """How the environment of a recipe is entered; installed if it is not there.

        Args:
            recipe: How it is made.
            force: Install it anew, whatever is there; running jobs keep the one they have.

        Raises:
            EnvironmentBuildError: It cannot be packed or installed.
            InvalidRequestError: Something about the recipe is wrong.
            TransportError: The cluster cannot be reached, or has no space.
        """
        target = self.target(recipe.needs())
        place = _Place(recipe, target, cache_key(recipe, target))
        entry = None if force else self.look(place.key)
        if entry is None:
            name = f"{self._cluster.host} {self.directory} {place.key}"
            with local_store.one_at_a_time(
                name, lambda: self._tell(f"Another process installs {recipe.title}; waiting")
            ):
                entry = self._install_once(place, force=force)
        if self._cluster.shares_environments:
            self._share(entry)
        return self._activation(recipe, entry)

    def _share(self, entry: str) -> None:
        """Let the group read it; of each, a process says so once."""
        if (self.directory, entry) not in _shared:
            self._asked("environment_share", (self.directory, entry))
            _shared.add((self.directory, entry))
            self._tell(f"The group may read the environment {self.directory}/{entry}")

    def preview(self, recipe: Recipe, *, force: bool = False) -> Preview:
        """What `provide` would come to. Nothing is packed, sent, installed or touched.

        Raises:
            DagsterSlurmError: As `provide`, as far as it can be told.
        """
        target = self.target(recipe.needs())
        key = cache_key(recipe, target)
        entry = None if force else self._begin(key, "", how="peek")
        if entry is not None:
            return Preview(self._activation(recipe, entry))
        parts = recipe.listed(target)
        names = [part.sha256 for part in parts or () if part.sha256]
        there = self._cluster.present(f"{self.directory}/parts", names).sizes_bytes
        return Preview(self._activation(recipe, key), is_there=False, parts=parts, there=frozenset(there))

    def _activation(self, recipe: Recipe, entry: str) -> Activation:
        path = f"{self.directory}/{entry}"
        activation = activate_deployed(path, "packed", setup=recipe.needs().setup)
        return replace(activation, description=f"{recipe.title}, {path}")

    def target(self, needs: Needs) -> Target:
        """What is found on the cluster.

        Raises:
            InterpreterNotFoundError: Not the interpreter that is needed.
            EnvironmentBuildError: The lines before it failed.
        """
        answer = self._cluster.interpreter(needs.python or "", "\n".join(needs.setup), needs.program or "")
        said, host = last_lines(answer.reason), self._cluster.host
        if answer.returncode == _SETUP_FAILED:
            raise EnvironmentBuildError(
                f"The set-up of the environment failed on the login node:\n{said}",
                hint="Try them by hand on the login node: the `setup_commands`, in a shell that is not a login shell.",
                host=host,
            )
        if answer.returncode == _NO_PYTHON:
            there = ", ".join(dict.fromkeys(answer.text.split()[1:])) or "none on the PATH"
            raise InterpreterNotFoundError(
                f"There is no {needs.python} on the cluster",
                hint=f"There are: {there}. Name one with `python`, or load its module with `setup_commands`.",
                host=host,
            )
        if answer.returncode:
            raise InterpreterNotFoundError(
                f"{needs.python} on the cluster does not work:\n{said}", hint="Name another with `python`.", host=host
            )
        with reading("What the login node says of its machine", host=host):
            return target_of(answer.text, platform=needs.platform)

    def _install_once(self, place: _Place, *, force: bool) -> str:
        """The entry's name, once this process or another has installed it."""
        owner = f"{uuid4().hex[:8]} {ProcessIdentity.of_this_process().to_json()}"
        how, dead, told = ("build" if force else "reuse"), "", False
        while True:
            entry = self._begin(place.key, owner, how=how, dead=dead)
            if entry is None:
                with self._lease(place.key, owner):
                    if force:
                        place.recipe.discard(place.target)
                    return self._install(place, owner)
            if not entry.startswith("busy "):
                return entry
            holder = entry.removeprefix("busy ")
            dead = holder if _is_gone(holder) else ""
            if not told and not dead:
                told = True
                self._tell(f"Another machine installs {place.recipe.title}; waiting")
            time.sleep(_LOOK_SECONDS)

    def _begin(self, key: str, owner: str, *, how: str, dead: str = "") -> str | None:
        """The name of the entry there is; `busy` and who builds it; None if there is none, and OWNER may build it."""
        args = (self.directory, key, owner, str(_STALE_SECONDS), how, dead)
        word, _, rest = self._asked("environment_begin", args).text.strip().partition(" ")
        if word == "busy":
            return f"busy {rest}"
        return rest if word == "ready" else None

    def look(self, key: str) -> str | None:
        """The name of the entry there is for a key; None if there is none."""
        return self._begin(key, "", how="find")

    @contextmanager
    def _lease(self, key: str, owner: str) -> Iterator[None]:
        over = threading.Event()

        def keep() -> None:
            while not over.wait(_BEAT_SECONDS):
                # Without it another machine builds the same once more, which does no harm.
                with suppress(DagsterSlurmError):
                    self._cluster.script("environment_lease", (self.directory, key, owner, "touch"))

        thread = threading.Thread(target=keep, name="dagster-slurm-environment", daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            with suppress(DagsterSlurmError):
                self._cluster.script("environment_lease", (self.directory, key, owner, "leave"))

    def _install(self, place: _Place, owner: str) -> str:
        recipe, began = place.recipe, time.monotonic()
        self._tell(f"Packing {recipe.title} for {place.target.platform}")
        token = owner.split(" ", 1)[0]
        try:
            entry = self._pack_and_install(place, recipe, token)
        except _NoWayThereError as error:
            other = recipe.fallback()
            if other is None:
                raise EnvironmentBuildError(
                    f"The environment cannot be installed on the cluster:\n{error}", host=self._cluster.host
                ) from None
            self._tell(f"It cannot be packed on the login node ({error}); packing it here")
            entry = self._pack_and_install(place, other, token)
        self._tell(f"Installed {recipe.title} in {time.monotonic() - began:.1f} s")
        local_store.sweep()
        return entry

    def _pack_and_install(self, place: _Place, recipe: Recipe, token: str) -> str:
        """The entry's name."""
        place, pack = self._packed(place, recipe)
        try:
            sent = self._send(pack.parts)
            self._tell(f"Installing {recipe.title}: {counted(len(pack.parts), 'part')}, {sent} of them new")
            self._run_install(place, pack, token)
        except ChangedError as error:
            # What was kept of it on this machine is something else by now.
            recipe.discard(place.target)
            raise TransferCorruptedError(f"{error.message}; it is packed again", host=self._cluster.host) from error
        except (EnvironmentBuildError, TransferCorruptedError):
            # Tried again with the same files it would fail again.
            recipe.discard(place.target)
            raise
        return f"{place.key}.{token}"

    def _packed(self, place: _Place, recipe: Recipe) -> tuple[_Place, Pack]:
        """What is sent, and what it is: a file that is saved meanwhile makes it another environment, or a mixture.

        So it is packed again. A command that builds what it packs may build something else each time: then the second
        pack is what there is.
        """
        for _ in range(_PACKS):
            pack = recipe.pack(place.target, self._tell)
            key = cache_key(place.recipe, place.target)
            if key == place.key:
                break
            self._tell(f"Something that {recipe.title} is made of has changed while it was packed")
            place = replace(place, key=key)
        return place, pack

    def _send(self, parts: Sequence[Part]) -> int:
        """Send what the cluster lacks, and say how many parts that were."""
        # Whether a lock has the sizes right nobody has looked at; all parts are summed before they are installed.
        store = ContentStore(self._cluster, f"{self.directory}/parts", self._tell, sizes_are_known=False)
        return len(store.provide(parts))

    def _run_install(self, place: _Place, pack: Pack, token: str) -> None:
        needs = place.recipe.needs()
        python = place.target.python.path if place.target.python else ""
        check = "yes" if place.target.login_platform in (None, place.target.platform) else "no"
        description = json.dumps({"title": place.recipe.title, "platform": place.target.platform})
        self._asked(
            "environment_install",
            (
                self.directory,
                place.key,
                token,
                python,
                "\n".join((ISOLATED, *needs.setup)),
                pack.install,
                check,
                description,
            ),
            stdin="".join(f"{part.sha256} {part.name}\n" for part in pack.parts).encode(),
            timeout_seconds=_INSTALL_SECONDS,
        )

    def _asked(
        self, name: str, args: Sequence[str], *, stdin: bytes = b"", timeout_seconds: float = 120.0
    ) -> CompletedCommand:
        """An answer of one of the cluster's scripts.

        Raises:
            RemoteStorageError: No space, or no permission.
            EnvironmentBuildError: It failed otherwise.
        """
        answer = self._cluster.script(name, args, stdin=stdin, timeout_seconds=timeout_seconds)
        if not answer.returncode:
            return answer
        said, host = last_lines(answer.reason), self._cluster.host
        fault = storage_fault(said, what=self.directory, host=host)
        if fault is not None:
            raise fault
        if answer.returncode == _DAMAGED:
            raise TransferCorruptedError(f"{said}; it is sent again", host=host)
        if answer.returncode == _NO_WAY_THERE:
            raise _NoWayThereError(said)
        if answer.returncode == _INSTALL_FAILED:
            raise EnvironmentBuildError(f"The environment cannot be installed on the cluster:\n{said}", host=host)
        if answer.returncode == _DOES_NOT_WORK:
            raise EnvironmentBuildError(f"The environment was installed, and does not work:\n{said}", host=host)
        raise RemoteStorageError(f"Cannot use {self.directory}: {said}", host=host)


def _is_gone(holder: str) -> bool:
    """Whether a builder is known to have ended: this machine's, and this process's own of before a lost connection."""
    try:
        builder = ProcessIdentity.from_json(holder.partition(" ")[2])
    except ValueError:
        return False
    return builder.life() is Life.GONE or builder == ProcessIdentity.of_this_process()
