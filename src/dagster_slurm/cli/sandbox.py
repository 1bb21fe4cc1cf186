"""`dagster-slurm sandbox`: a Slurm cluster on this machine, for trying and testing; not for production."""

from __future__ import annotations

import json
import shlex
from dataclasses import asdict
from typing import Any

import click

from dagster_slurm.cli import examples, say, width
from dagster_slurm.errors import SandboxError
from dagster_slurm.housekeeping.tables import Column, table
from dagster_slurm_sandbox import Sandbox, SandboxConfig, install_packages
from dagster_slurm_sandbox.config import DEFAULT_NAME, base_dir
from dagster_slurm_sandbox.sandbox import names

_DEFAULTS = SandboxConfig()
# Its name, and what is in it.
_ENVIRONMENT = ("analysis", ("dagster-pipes",))
_LISTED = (Column("NAME"), Column("READY"), Column("USER"), Column("NODES"), Column("FILES", least=20))
_name = click.option("--name", default=DEFAULT_NAME, show_default=True, help="Which sandbox, if there are several.")


@click.group(epilog=examples("dagster-slurm sandbox up", 'eval "$(dagster-slurm sandbox env)"'))
def sandbox() -> None:
    """A real Slurm cluster on this machine, for trying and testing; not for production."""


def _slurm_options(pairs: tuple[str, ...]) -> dict[str, str]:
    options = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals:
            raise SandboxError(f"{pair!r} is not of the form KEY=VALUE", hint="Give a line of slurm.conf.")
        options[key] = value
    return options


@sandbox.command(
    epilog=examples(
        "dagster-slurm sandbox up --install", "dagster-slurm sandbox up --name second --user second-user --nodes 2"
    )
)
@_name
@click.option("--install", is_flag=True, help="Install missing Debian packages with apt-get first.")
@click.option("--nodes", default=_DEFAULTS.nodes, show_default=True, help="Number of compute nodes.")
@click.option(
    "--cpus", "cpus_per_node", default=_DEFAULTS.cpus_per_node, show_default=True, help="CPUs each node declares."
)
@click.option(
    "--mem",
    "memory_mib_per_node",
    default=_DEFAULTS.memory_mib_per_node,
    show_default=True,
    help="MiB each node declares.",
)
@click.option("--user", default=_DEFAULTS.user, show_default=True, help="User to log in as; made if missing.")
@click.option("--users", default="", metavar="NAME,...", help="Further users, with the same key and account.")
@click.option("--slurm-conf", multiple=True, metavar="KEY=VALUE", help="A further line of slurm.conf.")
@click.option("--memory-limits/--no-memory-limits", "enforce_memory", default=True, help="Hold jobs to their memory.")
def up(*, install: bool, users: str, slurm_conf: tuple[str, ...], **settings: Any) -> None:
    """Bring the cluster up, or bring back what died of it.

    For trying and testing; not for production. Options count for a new cluster only.
    """
    further = tuple(filter(None, users.split(",")))
    config = SandboxConfig(users=further, slurm_options=_slurm_options(slurm_conf), **settings)
    if install:
        install_packages()
    cluster = Sandbox(config)
    cluster.up()
    _make_environment(cluster)


def _make_environment(cluster: Sandbox) -> None:
    """What a first payload needs; without a package index the cluster serves all the same."""
    named = "" if cluster.config.name == DEFAULT_NAME else f" --name {cluster.config.name}"
    try:
        path = cluster.create_environment(*_ENVIRONMENT)
    except SandboxError as error:
        say(f"sandbox: no environment with dagster-pipes was made: {error}", err=True)
    else:
        say(f"sandbox: an environment with dagster-pipes: {path}")
    say(f'Next: eval "$(dagster-slurm sandbox env{named})"')


@sandbox.command(epilog=examples("dagster-slurm sandbox down", "dagster-slurm sandbox down --name second"))
@_name
def down(name: str) -> None:
    """Take the cluster down and leave nothing behind."""
    Sandbox(SandboxConfig(name=name)).down()


@sandbox.command("list", epilog=examples("dagster-slurm sandbox list", "dagster-slurm sandbox list --json"))
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def list_(*, as_json: bool) -> None:
    """List the sandboxes of this machine, or below $DAGSTER_SLURM_SANDBOX_DIR, and how each is."""
    found = [Sandbox(SandboxConfig(name=name)) for name in names()]
    rows = [(each.config.name, each.user, each.status()) for each in found]
    if as_json:
        told = [{"name": name, "user": user, **asdict(status)} for name, user, status in rows]
        say(json.dumps({"sandboxes": told}, default=str, indent=2))
    elif rows:
        cells = [
            (name, "yes" if status.ready else "no", user, str(len(status.nodes)), str(status.state_dir))
            for name, user, status in rows
        ]
        say("\n".join(table(_LISTED, cells, width())))
    else:
        say(f"There is no sandbox in {base_dir()}.")


@sandbox.command(epilog=examples("dagster-slurm sandbox status", "dagster-slurm sandbox status --json"))
@_name
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def status(context: click.Context, name: str, as_json: bool) -> None:
    """Say how the cluster is. Exit status: 0 ready, 3 not up, 4 up and not ready."""
    found = Sandbox(SandboxConfig(name=name)).status()
    if as_json:
        say(json.dumps(asdict(found), default=str, indent=2))
    else:
        say(f"up:      {'yes' if found.up else 'no'}\nready:   {'yes' if found.ready else 'no'}")
        for title, conditions in (("daemon", found.daemons), ("node", found.nodes)):
            for each, condition in conditions.items():
                say(f"{title + ':':8} {each:12} {condition}")
        if found.up:
            enforced = "enforced" if found.memory_enforced else f"not enforced: {found.memory_reason}"
            say(f"memory:  {enforced}\nfiles:   {found.state_dir}")
    context.exit(0 if found.ready else 4 if found.up else 3)


@sandbox.command(epilog=examples('eval "$(dagster-slurm sandbox env)"', "dagster-slurm sandbox env --strict --json"))
@_name
@click.option("--strict", is_flag=True, help="The strict login node: password only, one channel a connection.")
@click.option("--user", default=None, help="One of the further users.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def env(name: str, strict: bool, user: str | None, as_json: bool) -> None:
    """Print how dagster-slurm reaches the cluster, as shell text: `eval "$(dagster-slurm sandbox env)"`."""
    cluster = Sandbox(SandboxConfig(name=name))
    variables = cluster.env(strict=strict, user=user)
    environment = cluster.environment(_ENVIRONMENT[0])
    if environment:
        variables["CLUSTER_ENVIRONMENT"] = environment
    if as_json:
        say(json.dumps(variables, indent=2))
        return
    for variable, value in variables.items():
        say(f"export {variable}={shlex.quote(value)}")


@sandbox.command("break", epilog=examples("dagster-slurm sandbox break", "dagster-slurm sandbox break slurmctld"))
@_name
@click.option("--hang", is_flag=True, help="Stop its processes (SIGSTOP): they exist and do not answer.")
@click.argument("part", required=False)
def break_(name: str, hang: bool, part: str | None) -> None:
    """Break PART of the cluster on purpose; without PART, list the parts.

    slurmd:NODE ends the daemon and lets job steps live on; node:NODE ends everything on the node, as a loss of
    power does; network:NODE pulls its cable; sshd ends the sessions it serves, too.
    """
    cluster = Sandbox(SandboxConfig(name=name))
    if part is None:
        say("\n".join(cluster.parts()))
    else:
        cluster.break_(part, hang=hang)


@sandbox.command(epilog=examples("dagster-slurm sandbox mend", "dagster-slurm sandbox mend slurmctld"))
@_name
@click.argument("part", default="all")
def mend(name: str, part: str) -> None:
    """Mend PART (default: everything); return when it serves again."""
    Sandbox(SandboxConfig(name=name)).mend(part)
