"""How an environment that is on the cluster is entered. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from dagster_slurm.transport.shell import quote


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


def activate_deployed(path: str, layout: str) -> Activation:
    """Enter an environment that lies at `path`, in one of the two layouts `SlurmCluster.environment_layout` knows."""
    description = f"the environment {path}"
    if layout == "packed":
        return Activation((f". {quote(f'{path}/activate.sh')}",), f"{path}/env/bin/python", description, path=path)
    setup = (f"export VIRTUAL_ENV={quote(path)}", f'export PATH={quote(f"{path}/bin")}:"$PATH"')
    return Activation(setup, f"{path}/bin/python", description, path=path)
