"""The cluster's network: a bridge, and for every host of the cluster a network namespace and a veth pair."""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from dagster_slurm.errors import SandboxError
from dagster_slurm_sandbox.programs import run

NETNS_DIR = Path("/run/netns")
_CANDIDATES = tuple(f"10.{second}.{third}.0/24" for second in (213, 214, 215) for third in range(17, 250, 29))


@dataclass(frozen=True)
class Plan:
    """Addresses and names of the cluster's hosts.

    Args:
        tag: Stands for the sandbox in the names of interfaces and namespaces.
        subnet: The subnet, such as `10.213.17.0/24`.
        names: The hosts; the first is the controller's.
    """

    tag: str
    subnet: str
    names: tuple[str, ...]

    @property
    def bridge(self) -> str:
        """The bridge's name (interface names have at most 15 characters)."""
        return f"dss{self.tag}"

    @property
    def gateway(self) -> str:
        """This machine's address on the bridge."""
        return str(ipaddress.ip_network(self.subnet)[1])

    def address(self, name: str) -> str:
        """The address of one host."""
        return str(ipaddress.ip_network(self.subnet)[10 + self.names.index(name)])

    def namespace(self, name: str) -> str:
        """The name of a host's network namespace."""
        return f"dss-{self.tag}-{name}"

    def netns_path(self, name: str) -> Path:
        """The file that stands for a host's network namespace."""
        return NETNS_DIR / self.namespace(name)

    def veth(self, name: str) -> str:
        """This machine's end of a host's cable."""
        return f"v{self.tag}{self.names.index(name)}"


def choose_subnet(taken: Iterable[str]) -> str:
    """The first of our candidate subnets that overlaps none of those.

    Args:
        taken: Destinations of the machine's routes and its addresses, as `ip` prints them.

    Raises:
        SandboxError: All of them overlap.
    """
    networks = [ipaddress.ip_network(each, strict=False) for each in taken if each and each != "default"]
    for candidate in _CANDIDATES:
        subnet = ipaddress.ip_network(candidate)
        if not any(subnet.overlaps(network) for network in networks if network.version == 4):
            return candidate
    raise SandboxError(
        "No subnet is free for the sandbox: routes cover 10.213.0.0 to 10.215.255.255",
        hint="Remove a route, or run the sandbox on another machine.",
    )


def taken_subnets() -> list[str]:
    """Destinations of all of this machine's IPv4 routes."""
    routes = json.loads(run(["ip", "-4", "-json", "route", "show", "table", "all"]) or "[]")
    return [str(route["dst"]) for route in routes if route.get("dst") not in {None, "default"}]


def _ip(*commands: str, namespace: str | None = None) -> None:
    inside = ["-n", namespace] if namespace else []
    if commands:
        run(["ip", *inside, "-batch", "-"], stdin="\n".join(commands) + "\n")


def _links() -> set[str]:
    return {str(link["ifname"]) for link in json.loads(run(["ip", "-json", "link", "show"]))}


def ensure(plan: Plan, state_dir: Path) -> None:
    """Make what is missing of the network; what is there stays as it is.

    Args:
        plan: Its addresses and names.
        state_dir: Where the sandbox's files lie; the bridge tells it to the machine's other sandboxes.
    """
    links = _links()
    if plan.bridge not in links:
        _ip(
            f"link add {plan.bridge} type bridge",
            f"link set {plan.bridge} alias {state_dir}",
            f"address add {plan.gateway}/24 dev {plan.bridge}",
            f"link set {plan.bridge} up",
        )
    for name in plan.names:
        if not plan.netns_path(name).exists() or plan.veth(name) not in links:
            _make_host(plan, name, cable_exists=plan.veth(name) in links)


def state_dirs() -> set[Path]:
    """Where the sandboxes of this machine lie, in whatever base directory."""
    links = json.loads(run(["ip", "-json", "link", "show", "type", "bridge"]) or "[]")
    return {Path(link["ifalias"]) for link in links if link["ifname"].startswith("dss") and "ifalias" in link}


def _make_host(plan: Plan, name: str, *, cable_exists: bool) -> None:
    namespace, veth = plan.namespace(name), plan.veth(name)
    if cable_exists:
        _ip(f"link delete {veth}")
    if not plan.netns_path(name).exists():
        _ip(f"netns add {namespace}")
    _ip(
        f"link add {veth} type veth peer name eth0 netns {namespace}",
        f"link set {veth} master {plan.bridge} up",
    )
    _ip(
        "link set lo up",
        f"address add {plan.address(name)}/24 dev eth0",
        "link set eth0 up",
        # Programs find their own address by asking for a route to some far address (Ray does); it leads nowhere.
        f"route add default via {plan.gateway}",
        namespace=namespace,
    )


def set_cable(plan: Plan, name: str, *, up: bool) -> None:
    """Plug a host's network cable in, or pull it."""
    _ip(f"link set {plan.veth(name)} {'up' if up else 'down'}")


def remove(plan: Plan) -> None:
    """Remove bridge, cables and namespaces, as far as they are there."""
    links = _links()
    cables = [link for link in links if link.startswith(f"v{plan.tag}")]
    _ip(*(f"link delete {link}" for link in [*cables, *({plan.bridge} & links)]))
    for namespace in sorted(NETNS_DIR.glob(f"dss-{plan.tag}-*")):
        _ip(f"netns delete {namespace.name}")


def namespace_inodes(tag: str) -> frozenset[int]:
    """The inode numbers by which /proc/PID/ns/net tells that a process is in one of the namespaces."""
    return frozenset(path.stat().st_ino for path in NETNS_DIR.glob(f"dss-{tag}-*"))


def cable_is_up(plan: Plan, name: str) -> bool:
    """Whether a host's network cable is there and plugged in."""
    for link in json.loads(run(["ip", "-json", "link", "show"])):
        if link["ifname"] == plan.veth(name):
            return "UP" in link["flags"]
    return False
