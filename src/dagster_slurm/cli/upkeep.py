"""`dagster-slurm env` and `clean`: what lies on the cluster, and what of it nobody needs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from dagster_slurm.cli import cluster_of, examples, say, seconds, size_bytes, width, with_cluster_options
from dagster_slurm.housekeeping.tables import aligned, fitted, wrapped
from dagster_slurm.text import counted, duration_words, size_words

if TYPE_CHECKING:
    from dagster_slurm.cluster import SlurmCluster
    from dagster_slurm.environments.inventory import Entry, Inventory
    from dagster_slurm.housekeeping.environments import Verdict
    from dagster_slurm.housekeeping.leftovers import Leftover, Terms

_DAY_SECONDS = 86400


@click.group(epilog=examples("dagster-slurm env list", "dagster-slurm env deploy --project ."))
def env() -> None:
    """Deploy, list, verify and prune the environments on the cluster."""


@env.command("list", epilog=examples("dagster-slurm env list", "dagster-slurm env list --json"))
@with_cluster_options
@click.option("--json", "in_json", is_flag=True, help="Print JSON.")
def list_(*, prefix: str, local: bool, remote_base: str | None, in_json: bool) -> None:
    """List the environments on the cluster: size, when each was used last, what it is."""
    from dagster_slurm.environments.inventory import Shelf  # noqa: PLC0415 - `--help` needs none of it

    with cluster_of(prefix, local=local, remote_base=remote_base) as cluster:
        shelf = Shelf(cluster)
        found = shelf.inventory()
    if in_json:
        say(json.dumps(_as_json(found), indent=2))
    elif found.entries:
        rows = [
            (size_words(each.size_bytes), _age(found, each), each.standing.value, each.name, each.title)
            for each in found.entries
        ]
        lines = [fitted(line, width()) for line in aligned(rows)]
        say("\n".join([*lines, "", f"{counted(found.parts, 'part')}, {size_words(found.parts_bytes)}"]))
    else:
        say(f"There are no environments in {shelf.directory}.")


@env.command(
    epilog=examples("dagster-slurm env prune", "dagster-slurm env prune --older-than 60d --max-size 50G --yes")
)
@with_cluster_options
@click.option(
    "--older-than",
    "older_than_seconds",
    callback=seconds,
    default="30d",
    show_default=True,
    metavar="DURATION",
    help="Prune what was not used for so long.",
)
@click.option(
    "--max-size",
    "max_bytes",
    callback=size_bytes,
    metavar="SIZE",
    help="Prune until no more than this is left, as in 50G; the longest unused goes first.",
)
@click.option("--deployed", is_flag=True, help="Prune those as well that `env deploy` has installed.")
@click.option("--yes", is_flag=True, help="Remove it; without, it is only listed.")
@click.option("--json", "in_json", is_flag=True, help="Print JSON.")
@click.pass_context
def prune(
    context: click.Context,
    *,
    prefix: str,
    local: bool,
    remote_base: str | None,
    older_than_seconds: float,
    max_bytes: int | None,
    deployed: bool,
    yes: bool,
    in_json: bool,
) -> None:
    """List the environments that nobody needs and, with --yes, remove them.

    Never removed is one of a job that has not ended, or may not have, and one that was used within the hour. If Slurm
    does not answer, nothing is removed.

    Exit status: 0 done, 1 something could not be removed or looked at, 2 wrong usage.
    """
    from dagster_slurm.environments.inventory import Shelf  # noqa: PLC0415 - `--help` needs none of it
    from dagster_slurm.housekeeping.environments import PruneTerms, judge, paths_in_use  # noqa: PLC0415

    terms = PruneTerms(older_than_seconds, max_bytes, deployed)
    with cluster_of(prefix, local=local, remote_base=remote_base) as cluster:
        shelf = Shelf(cluster)
        # First the listing: what is used in between is not removed.
        inventory = shelf.inventory()
        verdicts = judge(inventory, paths_in_use(cluster), terms)
        going = [each.entry for each in verdicts if each.removed]
        days = max(1, int(older_than_seconds // _DAY_SECONDS))
        gone = shelf.remove(going, part_days=days) if yes else None
    say(_pruned_json(verdicts, gone) if in_json else _pruned_lines(verdicts, gone))
    context.exit(0 if gone is None or len(gone) == len(going) else 1)


def _pruned_lines(verdicts: Sequence[Verdict], gone: set[str] | None) -> str:
    if not verdicts:
        return "There are no environments."
    rows = [(_verb(each, gone), size_words(each.entry.size_bytes), each.entry.name, each.reason) for each in verdicts]
    going = [each for each in verdicts if each.removed]
    total = size_words(sum(each.entry.size_bytes for each in going))
    told = f"{len(going)} of {len(verdicts)}, {total}."
    last = (
        f"To remove: {told} Nothing was removed; --yes does it." if gone is None else f"Removed: {len(gone)} of {told}"
    )
    lines = [part for line in aligned(rows) for part in wrapped(line, width(), hanging=4)]
    return "\n".join([*lines, "", *wrapped(last, width())])


def _pruned_json(verdicts: Sequence[Verdict], gone: set[str] | None) -> str:
    rows = [{**_entry_json(each.entry), "action": _verb(each, gone), "reason": each.reason} for each in verdicts]
    return json.dumps({"environments": rows}, indent=2)


def _verb(verdict: Verdict, gone: set[str] | None) -> str:
    if not verdict.removed:
        return "keep"
    if gone is None:
        return "remove"
    return "removed" if verdict.entry.name in gone else "kept"


@env.command(epilog=examples("dagster-slurm env verify"))
@with_cluster_options
@click.argument("names", nargs=-1)
@click.pass_context
def verify(
    context: click.Context, *, prefix: str, local: bool, remote_base: str | None, names: tuple[str, ...]
) -> None:
    """Check that environments have every file that they were installed with, and that their interpreters start.

    Without NAMES all of them.

    Exit status: 0 all are whole, 1 one is not.
    """
    from dagster_slurm.environments.inventory import Shelf  # noqa: PLC0415 - `--help` needs none of it

    with cluster_of(prefix, local=local, remote_base=remote_base) as cluster:
        shelf = Shelf(cluster)
        wanted = names or tuple(each.name for each in shelf.inventory().entries)
        problems = {name: shelf.problem(name) for name in wanted}
    for name, problem in problems.items():
        say(f"{name}: {problem or 'whole'}")
    context.exit(1 if any(problems.values()) else 0)


@env.command(
    epilog=examples(
        "dagster-slurm env deploy --project .",
        "dagster-slurm env deploy --project . --name gpu --platform linux-aarch64",
    )
)
@with_cluster_options
@click.option("--project", default=".", show_default=True, metavar="DIRECTORY", help="The project with the lock file.")
@click.option("--name", "environment_name", help="Which of its environments: pixi's, or a group or extra of uv's.")
@click.option("--python", help="The interpreter on the cluster, for a uv project.")
@click.option("--platform", help="Its platform (linux-64, linux-aarch64); the login node's by default.")
@click.option("--force", is_flag=True, help="Install it anew, even if it is installed.")
@click.option("--json", "in_json", is_flag=True, help="Print JSON.")
def deploy(
    *,
    prefix: str,
    local: bool,
    remote_base: str | None,
    project: str,
    environment_name: str | None,
    python: str | None,
    platform: str | None,
    force: bool,
    in_json: bool,
) -> None:
    """Install a project's environment on the cluster, verify it, and print its path, for `pre_deployed_env_path`."""
    from dagster_slurm.environments import Site  # noqa: PLC0415
    from dagster_slurm.environments.inventory import Shelf  # noqa: PLC0415
    from dagster_slurm.errors import InvalidRequestError  # noqa: PLC0415
    from dagster_slurm.resources.environments import UvEnvironment, found_environment  # noqa: PLC0415 - dagster is slow

    environment = found_environment(Path(project).absolute())
    if environment is None:
        raise InvalidRequestError(
            f"There is neither a uv.lock nor a pixi.lock in {project} or above",
            hint="`uv lock` or `pixi lock` makes it.",
        )
    update = {"platform": platform} if platform else {}
    if python and isinstance(environment, UvEnvironment):
        update["python"] = python
    environment = environment.model_copy(update=update)
    environment = environment.named(environment_name) if environment_name else environment
    provider = environment.provider()
    with cluster_of(prefix, local=local, remote_base=remote_base) as cluster:
        shelf = Shelf(cluster)
        site = Site(cluster, lambda text: say(text, err=True), force=force)
        path = str(provider.provide(site).path)
        shelf.mark_deployed(path)
        problem = shelf.problem(path.rpartition("/")[2])
    if problem:
        raise InvalidRequestError(f"The environment {path} is not whole: {problem}", hint="--force installs it anew.")
    say(json.dumps({"path": path, "title": provider.title}, indent=2) if in_json else path)


def _as_json(found: Inventory) -> dict[str, object]:
    return {
        "environments": [
            {**_entry_json(each), "idle_seconds": found.now_epoch - each.used_epoch} for each in found.entries
        ],
        "parts": found.parts,
        "parts_bytes": found.parts_bytes,
    }


def _entry_json(entry: Entry) -> dict[str, object]:
    return {**asdict(entry), "standing": entry.standing.value}


def _age(found: Inventory, entry: Entry) -> str:
    idle = max(0, found.now_epoch - entry.used_epoch)
    return "used just now" if idle < 60 else f"used {duration_words(idle)} ago"


@click.command(
    epilog=examples(
        "dagster-slurm clean",
        "dagster-slurm clean --yes --older-than 2w",
        "dagster-slurm clean --all --json",
    )
)
@with_cluster_options
@click.option(
    "--older-than",
    "older_than_seconds",
    callback=seconds,
    default="3d",
    show_default=True,
    metavar="DURATION",
    help="Keep what failed runs have left for so long.",
)
@click.option(
    "--all",
    "everything",
    is_flag=True,
    help="Of what is older, remove also results that were never collected, checkpoints, and the "
    "directories of runs that Dagster does not know.",
)
@click.option("--yes", is_flag=True, help="Remove it; without, it is only listed.")
@click.option("--json", "in_json", is_flag=True, help="Print JSON.")
@click.pass_context
def clean(
    context: click.Context,
    *,
    prefix: str,
    local: bool,
    remote_base: str | None,
    older_than_seconds: float,
    everything: bool,
    yes: bool,
    in_json: bool,
) -> None:
    """List what runs have left over on the cluster and, with --yes, remove what nobody needs any more.

    Never removed is what belongs to a job that has not ended. Dagster's records, in DAGSTER_HOME, decide on the rest:
    what belongs to a step that has succeeded is removed, to a run in progress is kept, to a run that has failed or was
    canceled is removed when it is old enough. If Slurm does not answer, nothing is removed.

    Exit status: 0 done, 1 something could not be removed or looked at, 2 wrong usage.
    """
    from dagster_slurm.housekeeping.leftovers import Terms, as_json, lines_of, summary  # noqa: PLC0415 - `--help` needs none of it

    terms = Terms(older_than_seconds=older_than_seconds, everything=everything)
    with cluster_of(prefix, local=local, remote_base=remote_base) as cluster:
        found = _found(cluster, terms)
        done = _removed(cluster, found) if yes else None
        base = cluster.base()
    if in_json:
        say(json.dumps(as_json(found, done, base=base), indent=2))
    elif found:
        lines = wrapped(summary(found, done), width())
        say("\n".join([*lines_of(found, done, width()), "", *lines]))
    else:
        say(f"Nothing is left over in {base} on {cluster.host}.")
    context.exit(0 if all((done or {}).values()) else 1)


def _found(cluster: SlurmCluster, terms: Terms) -> list[Leftover]:
    from dagster_slurm.housekeeping.dagster_records import records_of_environment  # noqa: PLC0415 - dagster is slow
    from dagster_slurm.housekeeping.leftovers import is_open, leftovers, measured, sizes_kib  # noqa: PLC0415
    from dagster_slurm.housekeeping.listed_jobs import snapshot  # noqa: PLC0415

    with records_of_environment() as records:
        seen = snapshot(cluster, is_open=is_open)
        found = leftovers(seen, records.word, replace(terms, has_records=records.are_there))
    if seen.notice:
        say(f"Jobs without a witness of their end are kept: {seen.notice}", err=True)
    return measured(found, partial(sizes_kib, cluster))


def _removed(cluster: SlurmCluster, found: list[Leftover]) -> dict[Leftover, bool]:
    """Remove what is to be removed, in one step, and tell of each whether it is gone."""
    from dagster_slurm.housekeeping.leftovers import remove  # noqa: PLC0415

    removable = [each for each in found if each.decision.removed]
    left = remove(cluster, [order for each in removable for order in each.orders])
    return {each: not any(" ".join(order.split(" ")[:2]) in left for order in each.orders) for each in removable}
