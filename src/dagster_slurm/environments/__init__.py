"""What a payload runs in. Pure: what has to be done to activate an environment that is on the cluster."""

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
    """

    setup: tuple[str, ...]
    python: str
    description: str


CLUSTER_PYTHON = Activation((), "python3", "the cluster's own python3")


def activate_deployed(path: str, layout: str) -> Activation:
    """Enter an environment that lies at `path`, in one of the two layouts `SlurmCluster.environment_layout` knows."""
    if layout == "packed":
        return Activation((f". {quote(f'{path}/activate.sh')}",), f"{path}/env/bin/python", f"the environment {path}")
    setup = (f"export VIRTUAL_ENV={quote(path)}", f'export PATH={quote(f"{path}/bin")}:"$PATH"')
    return Activation(setup, f"{path}/bin/python", f"the environment {path}")
