"""What a cluster says of its partitions and nodes, and the partition for a request that names `auto`. Pure.

What is not told keeps no partition from being chosen: sbatch has the last word.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import ceil

from dagster_slurm.errors import InvalidQuantityError, InvalidRequestError
from dagster_slurm.slurm.quantities import format_memory, format_time_limit, parse_time_limit_seconds
from dagster_slurm.slurm.request import AUTO, JobRequest
from dagster_slurm.text import counted

_FIELD = re.compile(r"\b(\w+)=(\S*)", re.ASCII)
_NO_LIMIT = ("", "UNLIMITED", "NONE", "(null)", "ALL")
_GPUS = re.compile(r"gpu(?::([A-Za-z_][\w.-]*))?(?:[:=](\d{1,4}))?", re.ASCII)
_WHOLE = re.compile(r"\d{1,12}", re.ASCII)
_PLAIN_FEATURE = re.compile(r"[\w.-]+", re.ASCII)
# What follows a state is a flag.
_SERVING = ("idle", "mixed", "allocated", "completing", "planned")
_SHOWN = 8


@dataclass(frozen=True)
class NodeKind:
    """Nodes of a partition that are alike.

    Args:
        count: How many there are.
        cpus: Of each.
        mem_mib: Of each.
        gpus: GPUs of each, by their type; "" for one that has none.
        features: Of each.
        state: The state of each, with its flags, as "down*" (sinfo(1), NODE STATE CODES).
    """

    count: int
    cpus: int
    mem_mib: int
    gpus: Mapping[str, int]
    features: frozenset[str]
    state: str

    @property
    def is_serving(self) -> bool:
        """Whether they take jobs now."""
        return self.state.startswith(_SERVING)


@dataclass(frozen=True)
class SitePartition:
    """A partition.

    Args:
        name: Its name.
        fields: What `scontrol show partition` tells of it (scontrol(1)), by name.
        nodes: Its nodes; empty if nothing is told of them.
    """

    name: str
    fields: Mapping[str, str]
    nodes: tuple[NodeKind, ...] = ()

    @property
    def state(self) -> str:
        """UP, DOWN, DRAIN or INACTIVE; empty if it is not told."""
        return self.fields.get("State", "")

    @property
    def is_default(self) -> bool:
        """Whether jobs go there that name none."""
        return self.fields.get("Default") == "YES"

    @property
    def max_seconds(self) -> int | None:
        """Its time limit; None for none."""
        text = self.fields.get("MaxTime", "")
        try:
            return None if text in _NO_LIMIT else parse_time_limit_seconds(text)
        except InvalidQuantityError:
            return None

    def limit(self, field: str) -> int | None:
        """A limit that is a whole number; None for none."""
        text = self.fields.get(field, "")
        return int(text) if _WHOLE.fullmatch(text) else None

    def names(self, field: str) -> frozenset[str]:
        """A list of names; empty for all, or none."""
        text = self.fields.get(field, "")
        return frozenset() if text in _NO_LIMIT else frozenset(text.split(","))


@dataclass(frozen=True)
class Charge:
    """What the user may charge: an association of the accounting (sacctmgr(1)).

    Args:
        default_account: That of the user.
        account: The account.
        partition: The only partition that it is for; empty for all.
        default_qos: The QOS of jobs that name none; empty if it is not told.
    """

    default_account: str
    account: str
    partition: str
    default_qos: str


@dataclass(frozen=True)
class Site:
    """What a cluster says of itself to a user.

    Args:
        partitions: Its partitions.
        groups: The user's groups.
        charges: What the user may charge; empty if it is not told.
    """

    partitions: tuple[SitePartition, ...]
    groups: frozenset[str] = frozenset()
    charges: tuple[Charge, ...] = ()


@dataclass(frozen=True)
class Choice:
    """A partition, and why it is that one.

    Args:
        partition: Its name.
        reason: In a few words.
    """

    partition: str
    reason: str


def parse_site(text: str) -> Site:
    """What `partitions` prints, or check_partitions of the doctor; lines of another form are passed over."""
    rows = [line.partition(" ") for line in text.splitlines()]
    nodes: dict[str, list[NodeKind]] = {}
    for word, _, rest in rows:
        found = _node_kind(rest) if word == "nodes" else None
        if found is not None:
            nodes.setdefault(found[0], []).append(found[1])
    described = [dict(_FIELD.findall(rest)) for word, _, rest in rows if word == "partition"]
    partitions = [
        SitePartition(name, fields, tuple(nodes.get(name, ())))
        for fields in described
        if (name := fields.get("PartitionName", ""))
    ]
    groups = frozenset(name for word, _, rest in rows if word == "groups" for name in rest.split())
    charges = [rest.split("|") for word, _, rest in rows if word == "charge"]
    return Site(tuple(partitions), groups, tuple(Charge(*row) for row in charges if len(row) == 4))


def _node_kind(text: str) -> tuple[str, NodeKind] | None:
    """Of "PARTITION|COUNT|CPUS|MIB|GRES|FEATURES|STATE"."""
    row = text.split("|")
    if len(row) != 7 or not all(_WHOLE.fullmatch(row[at].rstrip("+")) for at in (1, 2, 3)):
        return None
    count, cpus, mem_mib = (int(row[at].rstrip("+")) for at in (1, 2, 3))
    features = frozenset() if row[5] in _NO_LIMIT else frozenset(row[5].split(","))
    return row[0], NodeKind(count, cpus, mem_mib, _gpus_in(row[4]), features, row[6])


def _gpus_in(text: str) -> dict[str, int]:
    """GPUs by their type, of a list of generic resources such as "gpu:a100:4(S:0-1),nvme:1"."""
    found: dict[str, int] = {}
    for part in re.sub(r"\([^)]*\)", "", text).split(","):
        match = _GPUS.fullmatch(part.strip())
        if match:
            kind = match[1] or ""
            found[kind] = found.get(kind, 0) + int(match[2] or 1)
    return found


def choose(request: JobRequest, site: Site, host: str = "") -> Choice:
    """The partition for a request, the same for the same answers of the cluster.

    Of those that fit: first those that have nodes which serve now; then those without GPUs, for a request without any;
    then the cluster's default; then the highest priority; then the shortest time limit; then the first by name.

    Args:
        request: What is asked for.
        site: What the cluster says.
        host: The login node, for an error.

    Raises:
        InvalidRequestError: None fits; it has the reason of each.
    """
    if AUTO in {each.name for each in site.partitions}:
        return Choice(AUTO, "the cluster has a partition of this name")
    against = {each.name: reason_against(each, request, site) for each in site.partitions}
    fitting = sorted(
        (each for each in site.partitions if not against[each.name]), key=lambda each: _rank(each, request)
    )
    refused = [f"{name}: {why}" for name, why in sorted(against.items()) if why]
    if not fitting:
        raise InvalidRequestError(
            f"No partition takes the request: {'; '.join(_few(refused)) or 'none is shown to this user'}",
            hint='It was to be chosen (partition="auto"). Ask for less, or name one.',
            host=host or None,
        )
    first, *others = fitting
    words = [
        f"{'the default, and ' if first.is_default else ''}the first of {len(fitting)} that fit"
        if others
        else "the only one that fits"
    ]
    words += [f"others: {', '.join(_few([each.name for each in others]))}"] if others else []
    words += [f"not {'; '.join(_few(refused))}"] if refused else []
    return Choice(first.name, "; ".join(words))


def _few(words: Sequence[str]) -> list[str]:
    more = len(words) - _SHOWN
    return [*words[:_SHOWN], *([f"and {more} more"] if more > 0 else [])]


def _rank(partition: SitePartition, request: JobRequest) -> tuple[object, ...]:
    suitable = [each for each in partition.nodes if not partition.nodes or not _lacks(each, request)]
    serves = not partition.nodes or sum(each.count for each in suitable if each.is_serving) >= request.nodes
    keeps_gpus = not request.has_gpus and any(each.gpus for each in partition.nodes)
    seconds = partition.max_seconds
    return (
        not serves,
        keeps_gpus,
        not partition.is_default,
        -(partition.limit("PriorityTier") or 0),
        seconds is None,
        seconds or 0,
        partition.name,
    )


def reason_against(partition: SitePartition, request: JobRequest, site: Site) -> str:
    """Why a partition does not take a request; empty if nothing is known against it."""
    return next((why for why in _reasons(partition, request, site) if why), "")


def _reasons(partition: SitePartition, request: JobRequest, site: Site) -> Iterator[str]:
    yield _of_state(partition)
    yield _of_time(partition, request)
    yield from _of_names(partition, request, site)
    yield from _of_limits(partition, request)
    yield _of_nodes(partition, request)


def _of_state(partition: SitePartition) -> str:
    if partition.state not in ("", "UP"):
        return f"it is {partition.state}"
    return "it is for root alone" if partition.fields.get("RootOnly") == "YES" else ""


def _of_time(partition: SitePartition, request: JobRequest) -> str:
    most = partition.max_seconds
    if most is None:
        return ""
    if request.time_unlimited:
        return f"time limit {format_time_limit(most)}, none is asked for"
    if (request.time_limit_seconds or 0) > most:
        return f"time limit {format_time_limit(most)}, {format_time_limit(request.time_limit_seconds)} asked for"
    return ""


def _of_names(partition: SitePartition, request: JobRequest, site: Site) -> Iterator[str]:
    groups = partition.names("AllowGroups")
    if groups and site.groups and not groups & site.groups:
        yield f"it is for the groups {', '.join(sorted(groups))}"
    account = request.account or next((each.default_account for each in site.charges if each.default_account), "")
    yield _of_list(partition, "Accounts", "account", account)
    own = [each for each in site.charges if each.account == account]
    if own and all(each.partition and each.partition != partition.name for each in own):
        yield f"the account {account} is for {', '.join(sorted({each.partition for each in own}))}"
    qos = request.qos or next((each.default_qos for each in own if each.default_qos), "")
    yield _of_list(partition, "Qos", "QOS", qos)
    if partition.fields.get("ReqResv") == "YES" and not request.reservation:
        yield "it is for reservations alone"


def _of_list(partition: SitePartition, field: str, what: str, name: str) -> str:
    allowed, denied = partition.names(f"Allow{field}"), partition.names(f"Deny{field}")
    if name and allowed and name not in allowed:
        return f"it is for the {what} {', '.join(sorted(allowed))}, and {name} is charged"
    return f"it is not for the {what} {name}" if name and name in denied else ""


def _of_limits(partition: SitePartition, request: JobRequest) -> Iterator[str]:
    most, least = partition.limit("MaxNodes"), partition.limit("MinNodes") or 0
    if most is not None and request.nodes > most:
        yield f"at most {counted(most, 'node')}, {request.nodes} asked for"
    if request.nodes < least:
        yield f"at least {counted(least, 'node')}, {request.nodes} asked for"
    cpus, most = cpus_of_node(request), partition.limit("MaxCPUsPerNode")
    if most is not None and cpus > most:
        yield f"at most {counted(most, 'CPU')} of a node, {cpus} asked for"
    memory, most = mem_mib_of_node(request), partition.limit("MaxMemPerNode")
    if most is not None and memory > most:
        yield f"at most {format_memory(most)} of a node, {format_memory(memory)} asked for"


def _of_nodes(partition: SitePartition, request: JobRequest) -> str:
    if not partition.nodes:
        return ""
    lacks = [(each, _lacks(each, request)) for each in partition.nodes]
    enough = sum(each.count for each, what in lacks if not what)
    if enough >= request.nodes:
        return ""
    if enough:
        return f"such nodes it has {enough}, {request.nodes} asked for"
    # What the node says that is nearest to it.
    return min((what for _, what in lacks), key=len)[0]


def _lacks(node: NodeKind, request: JobRequest) -> list[str]:
    """What a node has too little of."""
    cpus, memory, wanted = cpus_of_node(request), mem_mib_of_node(request), gpus_of_node(request)
    lacks = []
    if cpus > node.cpus:
        lacks.append(f"nodes of {counted(node.cpus, 'CPU')}, {cpus} asked for")
    if memory > node.mem_mib:
        lacks.append(f"nodes of {format_memory(node.mem_mib)}, {format_memory(memory)} asked for")
    for kind, number in wanted.items():
        there = node.gpus.get(kind, 0) if kind else sum(node.gpus.values())
        if number > there:
            called = f"{kind} GPU".strip()
            lacks.append(
                f"nodes of {counted(there, called)}, {number} asked for" if there else f"nodes without {called}s"
            )
    feature = str(request.options.get("constraint", ""))
    if _PLAIN_FEATURE.fullmatch(feature) and feature not in node.features:
        lacks.append(f"nodes without the feature {feature}")
    return lacks


def cpus_of_node(request: JobRequest) -> int:
    """How many CPUs it asks for on a node, as far as its options tell."""
    per_node, tasks = (_number(request.options.get(name)) for name in ("ntasks-per-node", "ntasks"))
    return (request.cpus_per_task or 1) * (per_node or ceil((tasks or request.nodes) / request.nodes))


def mem_mib_of_node(request: JobRequest) -> int:
    """How much memory it asks for on a node; 0 for whatever there is."""
    if request.mem_per_cpu_mib:
        return request.mem_per_cpu_mib * cpus_of_node(request)
    return request.mem_mib or 0


def gpus_of_node(request: JobRequest) -> dict[str, int]:
    """How many GPUs it asks for on a node, by their type; "" for any."""
    by_kind = str(request.options.get("gpus-per-node", ""))
    if by_kind:
        return _gpus_in(",".join(f"gpu:{part}" for part in by_kind.split(",")))
    if request.gpus_per_node:
        return {"": request.gpus_per_node}
    found = _gpus_in(str(request.options.get("gres", "")).replace("gres/", ""))
    total = _number(request.options.get("gpus"))
    return found or ({"": ceil(total / request.nodes)} if total else {})


def _number(value: object) -> int | None:
    text = str(value)
    return int(text) if _WHOLE.fullmatch(text) else None
