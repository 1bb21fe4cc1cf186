"""How far the wind sets up the water at the end of a long lake; the wind comes from the other component."""

from __future__ import annotations

import os
import socket
import time

HOURS = 48
LENGTH_M = 388_000.0
DEPTH_M = 19.0
DRAG = 2.0e-6  # Of the air on the water, by their densities.
GRAVITY_M_PER_S2 = 9.81
RESPONSE_HOURS = 4.0
PATIENCE_SECONDS = 60.0


def connected(host: str, port: int) -> socket.socket:
    """A connection to the wind, which may not serve yet: they begin together."""
    until = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            return socket.create_connection((host, port), timeout=PATIENCE_SECONDS)
        except OSError:
            if time.monotonic() > until:
                raise
            time.sleep(0.2)


def main() -> None:
    """Follow the storm, hour by hour."""
    host = os.environ["DAGSTER_SLURM_HET_NODELIST_0"].partition(",")[0]
    level, highest, at = 0.0, 0.0, 0
    with connected(host, int(os.environ["WIND_PORT"])) as wind, wind.makefile("rw") as lines:
        for hour in range(HOURS):
            lines.write(f"{hour}\n")
            lines.flush()
            speed = float(lines.readline())
            target = DRAG * speed**2 * LENGTH_M / (2 * GRAVITY_M_PER_S2 * DEPTH_M)
            level += (target - level) / RESPONSE_HOURS
            if level > highest:
                highest, at = level, hour
    print(f"the water at Buffalo stands {highest:.2f} m higher after {at} hours; the wind came from {host}")


main()
