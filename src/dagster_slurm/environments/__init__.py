"""What a payload runs in: its kinds, how each is packed, gets to the cluster, and is entered there."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, Protocol

from dagster_slurm.cluster import SlurmCluster
from dagster_slurm.cluster.content_store import Part
from dagster_slurm.environments.cache import EnvironmentCache, Preview
from dagster_slurm.environments.recipe import (
    CLUSTER_PYTHON,
    Activation,
    Listed,
    Locked,
    Needs,
    Pack,
    Recipe,
    Tell,
    activate_deployed,
)
from dagster_slurm.environments.target import Python, Target
from dagster_slurm.errors import EnvironmentNotFoundError, InvalidRequestError

__all__ = [
    "CLUSTER_PYTHON",
    "Activation",
    "ClusterPython",
    "Container",
    "Deployed",
    "Installed",
    "Listed",
    "Locked",
    "Modules",
    "Needs",
    "Pack",
    "Part",
    "Preview",
    "Provider",
    "Python",
    "Recipe",
    "Site",
    "Target",
    "Tell",
    "activate_deployed",
    "preview",
    "refuse_without",
    "with_modules",
]


Runtime = Literal["apptainer", "singularity", "pyxis", "slurm"]

# Shells that are not login shells may lack the function (Lmod and Environment Modules define it in /etc/profile.d).
_MODULES = "command -v module >/dev/null 2>&1 || . /etc/profile >/dev/null 2>&1 || :"


@dataclass(frozen=True)
class Site:
    """Where an environment is wanted.

    Args:
        cluster: The cluster.
        tell: Gets what is done, for the run's log.
        force: Install anew what would be found.
    """

    cluster: SlurmCluster
    tell: Tell
    force: bool = False


class Provider(Protocol):
    """An environment, as those see it who start a payload in it."""

    @property
    def title(self) -> str:
        """What it is, in a few words."""

    def provide(self, site: Site) -> Activation:
        """See that it is there, and say how it is entered.

        Raises:
            DagsterSlurmError: It is not, and cannot be brought there; nothing was submitted.
        """


@dataclass(frozen=True)
class ClusterPython:
    """The cluster's own `python3`, as it is."""

    title: str = ""

    def provide(self, site: Site) -> Activation:
        """Nothing has to be done."""
        del site
        return CLUSTER_PYTHON


@dataclass(frozen=True)
class Deployed:
    """An environment that somebody has put on the cluster.

    Args:
        path: Where, as `SlurmCluster.absolute` takes it.
    """

    path: str

    @property
    def title(self) -> str:
        """Its path."""
        return self.path

    def provide(self, site: Site) -> Activation:
        """Look where it is, and which layout it has."""
        path = site.cluster.absolute(self.path, "pre_deployed_env_path")
        return activate_deployed(path, site.cluster.environment_layout(path))


@dataclass(frozen=True)
class Installed:
    """An environment that is packed here and installed there, once."""

    recipe: Recipe

    @property
    def title(self) -> str:
        """The recipe's."""
        return self.recipe.title

    def provide(self, site: Site) -> Activation:
        """Install it if it is not there."""
        return EnvironmentCache(site.cluster, site.tell).provide(self.recipe, force=site.force)


# What conda calls it, where that is another name than pip's; the first is the one to add.
_CONDA_NAMES = {"torch": ("pytorch", "pytorch-cpu", "pytorch-gpu"), "ray": ("ray-default", "ray-core")}


def refuse_without(provider: Provider, packages: Sequence[str], who: str) -> None:
    """Refuse an environment whose lock lacks a package. Nothing is asked of the cluster.

    Args:
        provider: The environment; one without a lock is not refused.
        packages: What it has to have, as pip calls it.
        who: What needs them.

    Raises:
        InvalidRequestError: It lacks one.
    """
    if not packages or not isinstance(provider, Installed):
        return
    locked = provider.recipe.locked()
    for package in packages if locked else ():
        of_conda = _CONDA_NAMES.get(package, (package,))
        if locked and locked.names.isdisjoint((package, *of_conda)):
            raise InvalidRequestError(
                f"{who} needs {package}, and the lock of {provider.title} does not have it",
                hint=f"`{locked.adding} {of_conda[0] if locked.is_conda else package}` adds it.",
            )


# Of modules that are often missing, the package where its name is another.
_PACKAGES = {
    "bs4": "beautifulsoup4",
    "cv2": "opencv-python",
    "dateutil": "python-dateutil",
    "dotenv": "python-dotenv",
    "PIL": "pillow",
    "sklearn": "scikit-learn",
    "yaml": "pyyaml",
}


def package_of(module: str) -> str:
    """The package that has a module, as far as its name tells."""
    top = module.partition(".")[0]
    return _PACKAGES.get(top, top.replace("_", "-"))


def add_to(provider: Provider, module: str, activation: Activation | None = None) -> str:
    """What to do about a module that an environment does not have.

    Args:
        provider: The environment.
        module: The module.
        activation: How it was entered, if that is known.
    """
    package = package_of(module)
    if isinstance(provider, ClusterPython):
        return (
            "It ran in the cluster's own python3, which does not have it: lock it in the project (`uv add "
            f"{package}`, `pixi add {package}`), name an `environment`, or set `pre_deployed_env_path`."
        )
    lacks = f"It ran in {activation.description if activation else provider.title}, which does not have it"
    if isinstance(provider, Installed):
        locked = provider.recipe.locked()
        conda = _CONDA_NAMES.get(package, (package,))[0]
        return f"{lacks}: `{locked.adding} {conda if locked.is_conda else package}` adds it." if locked else f"{lacks}."
    if isinstance(provider, Deployed):
        python = activation.python if activation else f"{provider.path}/bin/python"
        return f"{lacks}: `{python} -m pip install {package}` on the cluster adds it."
    if isinstance(provider, Modules):
        return f"{lacks}: load a module that has {package}, or name another `environment`."
    return f"{lacks}: add {package} to it."


def preview(provider: Provider, site: Site) -> Preview:
    """What `provide` would come to. Nothing is packed, sent or installed.

    Raises:
        DagsterSlurmError: As `provide`, as far as it can be told.
    """
    if isinstance(provider, Installed):
        return EnvironmentCache(site.cluster, site.tell).preview(provider.recipe, force=site.force)
    if hasattr(provider, "preview"):
        return provider.preview(site)  # type: ignore[no-any-return]
    # The others bring nothing there: they only look.
    return Preview(provider.provide(site))


@dataclass(frozen=True)
class Modules:
    """What the site provides, after some lines of shell.

    Args:
        setup: Lines of bash, such as `module load python/3.11`.
        python: The interpreter, as a shell finds it after them.
        check_on_login: Whether to try them on the login node before anything is submitted.
    """

    setup: tuple[str, ...]
    python: str = "python3"
    check_on_login: bool = True

    @property
    def title(self) -> str:
        """The lines."""
        return "; ".join(self.setup) or self.python

    def provide(self, site: Site) -> Activation:
        """Try the lines on the login node."""
        setup = with_modules(self.setup)
        if self.check_on_login:
            EnvironmentCache(site.cluster, site.tell).target(Needs(self.python, setup))
        return Activation(setup, self.python, f"{self.python} after `{self.title}`")


@dataclass(frozen=True)
class Container:
    """A container's image on the cluster.

    Args:
        image: A path on the cluster (an image file, or an OCI bundle for `slurm`), or an address such as `docker://...`.
        binds: Directories of the cluster that are seen in it, and where.
        gpus: Whether the host's NVIDIA driver is seen in it.
        runtime: What runs it: Apptainer, Singularity, pyxis (a plug-in of srun), or Slurm's own `--container`.
        python: The interpreter in it.
    """

    image: str
    binds: Mapping[str, str] = field(default_factory=dict)
    gpus: bool = False
    runtime: Runtime = "apptainer"
    python: str = "python3"

    @property
    def title(self) -> str:
        """The image."""
        return f"the container {self.image}"

    def provide(self, site: Site) -> Activation:
        """See whether the image is there, if it is a file."""
        # Anything else may be an address: `ubuntu:22.04`, `docker://...`.
        is_file = self.image.startswith(("/", "~", "$"))
        image = site.cluster.absolute(self.image, "image") if is_file else self.image
        if is_file and site.cluster.transport.command(("test", "-e", image)).returncode:
            raise EnvironmentNotFoundError(
                f"There is no image {image}", hint="`image` is a path on the cluster.", host=site.cluster.host
            )
        found = replace(self, image=image)
        return Activation((), self.python, found.title, wrapper=found.command(site.cluster.base()))

    def command(self, base: str) -> tuple[str, ...]:
        """What stands before the payload's own command. Pure.

        Args:
            base: The directory of the runs, which is seen in the container under the same path.

        Raises:
            InvalidRequestError: The runtime cannot do what is asked for.
        """
        binds = [f"{source}:{target}" for source, target in {base: base, **self.binds}.items()]
        if self.runtime == "slurm":
            if self.binds or self.gpus:
                raise InvalidRequestError(
                    "Slurm's --container takes neither binds nor gpus",
                    hint="Write them into the bundle's config.json, or choose another runtime.",
                )
            return ("srun", "--ntasks=1", "--nodes=1", f"--container={self.image}")
        if self.runtime == "pyxis":
            mounts = f"--container-mounts={','.join(binds)}"
            return ("srun", "--ntasks=1", "--nodes=1", f"--container-image={self.image}", mounts)
        options = [option for bind in binds for option in ("--bind", bind)]
        return (self.runtime, "exec", *options, *(("--nv",) if self.gpus else ()), self.image)


def with_modules(setup: tuple[str, ...]) -> tuple[str, ...]:
    """Lines of bash, with the function `module` defined before them if they call it."""
    calls = any(word in ("module", "ml") for line in setup for word in _first_words(line))
    return (_MODULES, *setup) if calls else setup


def _first_words(line: str) -> list[str]:
    try:
        return shlex.split(line)[:1]
    except ValueError:
        # Bash says what is wrong with it.
        return line.split()[:1]
