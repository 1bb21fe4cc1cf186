"""How an environment that is on the cluster is entered. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from dagster_slurm.transport.shell import quote

# What a login sets for its own Python shadows or breaks that of an environment: `PYTHONPATH` of a profile, a conda
# that is active, modules in ~/.local. What comes after this line does count: modules, the activation, `extra_env`.
ISOLATED = 'unset -v PYTHONPATH PYTHONHOME "${!CONDA_@}"; export PYTHONNOUSERSITE=1'


@dataclass(frozen=True)
class Activation:
    """How an environment is entered.

    Args:
        setup: Lines of bash to run before the payload, already quoted.
        python: The interpreter, as the payload's shell finds it.
        description: For the log.
        wrapper: A program and its arguments in front of the payload's, such as a container's runtime.
        path: Its directory on the cluster, if it has one of its own.
    """

    setup: tuple[str, ...]
    python: str
    description: str
    wrapper: tuple[str, ...] = ()
    path: str | None = None


CLUSTER_PYTHON = Activation((), "python3", "the cluster's own python3")


def activate_deployed(path: str, layout: str, *, setup: tuple[str, ...] = ()) -> Activation:
    """Enter an environment on the cluster.

    Args:
        path: Where it lies.
        layout: One of the two that `SlurmCluster.environment_layout` knows.
        setup: Lines of bash to run before.
    """
    description = f"the environment {path}"
    if layout == "packed":
        entered: tuple[str, ...] = (f". {quote(f'{path}/activate.sh')}",)
        python = f"{path}/env/bin/python"
    else:
        entered = (f"export VIRTUAL_ENV={quote(path)}", f'export PATH={quote(f"{path}/bin")}:"$PATH"')
        python = f"{path}/bin/python"
    return Activation((ISOLATED, *setup, *entered), python, description, path=path)
