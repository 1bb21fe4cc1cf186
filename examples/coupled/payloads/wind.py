"""Serves the wind of a storm, m/s for each hour that is asked for, until the other side has had enough."""

from __future__ import annotations

import math
import os
import socketserver


def wind_m_per_s(hour: int) -> float:
    """A storm that takes half a day to rise, and as long to go."""
    return 4.0 + 21.0 * math.exp(-(((hour - 18) / 7.0) ** 2))


class Hours(socketserver.StreamRequestHandler):
    """Answers each line, an hour, with the wind."""

    def handle(self) -> None:
        """Until the line ends."""
        for line in self.rfile:
            self.wfile.write(f"{wind_m_per_s(int(line)):.3f}\n".encode())


class Server(socketserver.TCPServer):
    """For one who asks."""

    allow_reuse_address = True


def main() -> None:
    """Serve once."""
    with Server(("", int(os.environ["WIND_PORT"])), Hours) as server:
        print("serving the wind", flush=True)
        server.handle_request()
    print("the storm is over")


main()
