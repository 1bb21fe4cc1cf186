"""The payload: a search for the parameters of a regression, each trial a task of Ray, on whichever node is free."""

import os
import time

import numpy as np
import ray
from dagster_pipes import open_dagster_pipes


def tide(hours: np.ndarray) -> np.ndarray:
    """Two days of a tide in metres, with the waves on it."""
    noise = np.random.default_rng(7).normal(0, 0.15, len(hours))
    return 1.42 * np.cos(2 * np.pi * hours / 12.42) + 0.44 * np.cos(2 * np.pi * hours / 12.0) + noise


@ray.remote(num_cpus=1, scheduling_strategy="SPREAD")
def trial(length: float, ridge: float) -> tuple[float, float, float, str]:
    """The error of a kernel regression on every fifth value, which it has not seen, and the node that has found it."""
    hours = np.arange(0, 48, 0.05)
    heights, held_back = tide(hours), np.arange(len(hours)) % 5 == 0
    x, y = hours[~held_back, None], heights[~held_back]

    def kernel(left: np.ndarray, right: np.ndarray) -> np.ndarray:
        squares: np.ndarray = ((left - right.T) / length) ** 2
        return np.exp(-squares / 2)

    weights = np.linalg.solve(kernel(x, x) + ridge * np.eye(len(x)), y)
    error = kernel(hours[held_back, None], x) @ weights - heights[held_back]
    return float(np.sqrt((error**2).mean())), length, ridge, os.environ.get("SLURMD_NODENAME", "this machine")


with open_dagster_pipes() as pipes:
    # RAY_ADDRESS says where the cluster is.
    ray.init(log_to_driver=False)
    began, trials = time.monotonic(), pipes.get_extra("trials")
    chosen = np.random.default_rng(1)
    found = ray.get([trial.remote(10 ** chosen.uniform(-1.5, 1.5), 10 ** chosen.uniform(-4, 1)) for _ in range(trials)])
    error, length, ridge, _ = min(found)
    nodes = sorted({node for *_, node in found})
    print(f"{trials} trials in {time.monotonic() - began:.1f} s on {', '.join(nodes)}: {error:.3f} m")
    metadata = {
        "error_m": round(error, 3),
        "length_hours": round(length, 2),
        "ridge": round(ridge, 5),
        "nodes": len(nodes),
    }
    pipes.report_asset_materialization(metadata=metadata)
