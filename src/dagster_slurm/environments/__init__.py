"""What a payload runs in: how it is packed, how it gets to the cluster, and how it is entered there."""

from dagster_slurm.cluster.content_store import Part
from dagster_slurm.environments.cache import Preview
from dagster_slurm.environments.providers import (
    ClusterPython,
    Container,
    Deployed,
    Installed,
    Modules,
    Provider,
    Site,
    preview,
    refuse_without,
    with_modules,
)
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
