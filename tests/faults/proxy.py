"""A TCP proxy before slurmctld that can hold a submission back: the request is in flight, and its sender may die."""

from __future__ import annotations

import re
import socket
import threading
from contextlib import suppress
from pathlib import Path

from dagster_slurm.sandbox import Sandbox
from dagster_slurm_sandbox.files import SLURMCTLD_PORT

# slurm_protocol_defs.h, REQUEST_SUBMIT_BATCH_JOB.
_SUBMISSION = 4003
# A message is its length in four bytes, then a header: version, flags and type, two bytes each (22.05).
_TYPE = slice(8, 10)


class SlowController:
    """Passes everything on at once, but for the first submission, which waits until `release`.

    Args:
        sandbox: The cluster.
        directory: Where the slurm.conf is put that leads to the proxy.
    """

    def __init__(self, sandbox: Sandbox, directory: Path) -> None:
        text = sandbox.paths.slurm_conf.read_text()
        found = re.search(r"^SlurmctldHost=(\w+)\((.*)\)$", text, re.MULTILINE)
        assert found
        self._controller = found[2]
        self._listener = socket.create_server(("127.0.0.1", 0))
        port = self._listener.getsockname()[1]
        text = text.replace(found[0], f"SlurmctldHost={found[1]}(127.0.0.1)")
        text = re.sub(r"^SlurmctldPort=.*$", f"SlurmctldPort={port}", text, flags=re.MULTILINE)
        self.slurm_conf = directory / "slurm.conf"
        self.slurm_conf.write_text(text)
        self.held = threading.Event()
        self._released = threading.Event()
        threading.Thread(target=self._accept, daemon=True).start()

    def release(self) -> None:
        """Let the held submission arrive."""
        self._released.set()

    def close(self) -> None:
        """Take no more connections."""
        self.release()
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, suppress(OSError):
            request = _message(client)
            if int.from_bytes(request[_TYPE], "big") == _SUBMISSION and not self.held.is_set():
                self.held.set()
                self._released.wait()
            with socket.create_connection((self._controller, SLURMCTLD_PORT)) as controller:
                controller.sendall(request)
                while block := controller.recv(65536):
                    client.sendall(block)


def _message(client: socket.socket) -> bytes:
    """One whole message; the sender waits for its answer before it sends anything else."""
    data = b""
    while len(data) < 4 or len(data) < 4 + int.from_bytes(data[:4], "big"):
        block = client.recv(65536)
        if not block:
            raise ConnectionError("The request was not sent to its end")
        data += block
    return data
