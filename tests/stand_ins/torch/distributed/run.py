"""STAND-IN: torchrun's agent on one node.

The agent that has the endpoint's address tells all of them, line by line, what to do: `go NODE PORT` (start the ranks,
of which the first listens at that port), `again PORT`, `end`, `fail`. They tell it `done` or `failed`.
"""

from __future__ import annotations

import argparse
import os
import queue
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress
from typing import IO

from . import connected

_TERM_SECONDS = 10.0


def main() -> int:
    options = _options()
    host, _, port = options.rdzv_endpoint.rpartition(":")
    seconds = float(dict(pair.split("=") for pair in options.rdzv_conf.split(",")).get("join_timeout", 600))
    leading = _lead(host, int(port), options, seconds)
    with connected((host, int(port)), seconds) as connection:
        connection.settimeout(seconds)
        told = connection.makefile("rw", encoding="utf-8")
        print(options.rdzv_id, file=told, flush=True)
        try:
            order = told.readline().split()
        except TimeoutError:
            order = []
        if order[:1] != ["go"]:
            print(
                f"torchrun (stand-in): not all of {options.nnodes} agents have met in {seconds:.0f} s", file=sys.stderr
            )
            return 1
        connection.settimeout(None)
        end = _Agent(options, host, int(order[1]), told).work(order[2])
        if leading:
            # The others are told as well.
            leading.join(_TERM_SECONDS)
        return end


def _lead(host: str, port: int, options: argparse.Namespace, seconds: float) -> threading.Thread | None:
    """Be the one where all meet; None where the address is another node's, or taken by another agent."""
    try:
        server = socket.create_server((host, port))
    except OSError:
        return None
    leader = _Leader(server, options.nnodes, options.rdzv_id, options.max_restarts, seconds)
    leading = threading.Thread(target=leader.lead, daemon=True)
    leading.start()
    return leading


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="torchrun (stand-in)")
    parser.add_argument("--nnodes", type=int, default=1)
    parser.add_argument("--nproc-per-node", type=int, default=1)
    parser.add_argument("--max-restarts", type=int, default=0)
    parser.add_argument("--rdzv-backend", choices=["c10d"], default="c10d")
    parser.add_argument("--rdzv-endpoint", required=True)
    parser.add_argument("--rdzv-id", required=True)
    parser.add_argument("--rdzv-conf", default="join_timeout=600")
    parser.add_argument("--monitor-interval", type=float, default=0.1)
    parser.add_argument("--no-python", action="store_true", required=True)
    parser.add_argument("command", nargs=argparse.REMAINDER)
    return parser.parse_args()


class _Leader:
    """Where all agents meet."""

    def __init__(self, server: socket.socket, nodes: int, run_id: str, restarts: int, seconds: float) -> None:
        self._server, self._nodes, self._run_id, self._restarts = server, nodes, run_id, restarts
        self._until = time.monotonic() + seconds
        self._agents: list[IO[str]] = []
        self._heard: queue.Queue[str] = queue.Queue()

    def lead(self) -> None:
        while len(self._agents) < self._nodes and time.monotonic() < self._until:
            self._server.settimeout(max(0.1, self._until - time.monotonic()))
            try:
                connection, (address, *_) = self._server.accept()
            except TimeoutError:
                break
            connection.settimeout(None)
            agent = connection.makefile("rw", encoding="utf-8")
            if agent.readline().strip() == self._run_id:
                # The first rank is to be here.
                is_here = address == self._server.getsockname()[0]
                self._agents.insert(0 if is_here else len(self._agents), agent)
        if len(self._agents) < self._nodes:
            self._tell("fail")
            return
        port = free_port()
        for number, agent in enumerate(self._agents):
            print(f"go {number} {port}", file=agent, flush=True)
            threading.Thread(target=self._hear, args=[agent], daemon=True).start()
        self._until_all_are_done()

    def _hear(self, agent: IO[str]) -> None:
        for line in agent:
            self._heard.put(line.strip())
        self._heard.put("lost")

    def _until_all_are_done(self) -> None:
        """What agents say ends with how many restarts they have left: what they have said of a former start is past."""
        done = 0
        while done < self._nodes:
            said = self._heard.get()
            if said == f"done {self._restarts}":
                done += 1
            elif said == f"failed {self._restarts}" and self._restarts:
                self._restarts, done = self._restarts - 1, 0
                self._tell(f"again {free_port()}")
            elif said in ("lost", f"failed {self._restarts}"):
                self._tell("fail")
                return
        self._tell("end")

    def _tell(self, order: str) -> None:
        for agent in self._agents:
            with suppress(OSError):
                print(order, file=agent, flush=True)


class _Agent:
    """The ranks of one node."""

    def __init__(self, options: argparse.Namespace, host: str, node: int, told: IO[str]) -> None:
        self._options, self._host, self._node, self._told = options, host, node, told
        self._orders: queue.Queue[list[str]] = queue.Queue()
        self._left = options.max_restarts
        self._ranks: list[subprocess.Popen[bytes]] = []
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: sys.exit(1))

    def work(self, port: str) -> int:
        threading.Thread(target=self._listen, daemon=True).start()
        try:
            self._start(port)
            said = False
            while True:
                try:
                    order = self._orders.get(timeout=self._options.monitor_interval)
                except queue.Empty:
                    said = said or self._say_how_it_is()
                    continue
                if order[0] != "again":
                    return int(order[0] != "end")
                self._end()
                self._left -= 1
                self._start(order[1])
                said = False
        finally:
            self._end()

    def _listen(self) -> None:
        for line in self._told:
            self._orders.put(line.split())
        self._orders.put(["fail"])

    def _start(self, port: str) -> None:
        count = self._options.nproc_per_node
        for local in range(count):
            variables = {
                "RANK": self._node * count + local,
                "LOCAL_RANK": local,
                "WORLD_SIZE": self._options.nnodes * count,
                "LOCAL_WORLD_SIZE": count,
                "GROUP_RANK": self._node,
                "MASTER_ADDR": self._host,
                "MASTER_PORT": port,
                "TORCHELASTIC_RESTART_COUNT": self._options.max_restarts - self._left,
                "TORCHELASTIC_MAX_RESTARTS": self._options.max_restarts,
                "TORCHELASTIC_RUN_ID": self._options.rdzv_id,
            }
            environment = {**os.environ, **{name: str(value) for name, value in variables.items()}}
            started = subprocess.Popen(self._options.command, env=environment, start_new_session=True)
            self._ranks.append(started)

    def _say_how_it_is(self) -> bool:
        codes = [rank.poll() for rank in self._ranks]
        if not any(codes) and None in codes:
            return False
        with suppress(OSError):
            print("failed" if any(codes) else "done", self._left, file=self._told, flush=True)
        return True

    def _end(self) -> None:
        for number in (signal.SIGTERM, signal.SIGKILL):
            for rank in self._ranks:
                if rank.poll() is None:
                    os.killpg(rank.pid, number)
            until = time.monotonic() + _TERM_SECONDS
            while time.monotonic() < until and None in [rank.poll() for rank in self._ranks]:
                time.sleep(0.02)
        self._ranks.clear()


def free_port() -> int:
    """A port that nobody has, below those that Linux gives to outgoing connections."""
    while True:
        port = random.randrange(20000, 32000)
        with suppress(OSError), socket.create_server(("", port)):
            return port


if __name__ == "__main__":
    sys.exit(main())
