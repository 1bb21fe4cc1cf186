"""What the payloads share; it travels with them as an extra file."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

# The Earth's radius, made larger by 1 / (1 - 0.13): light bends along its surface (standard refraction).
OPTICAL_RADIUS_M = 6_371_000 / (1 - 0.13)


def files() -> Path:
    """Where the assets leave their files: a directory that every step of one place can see."""
    directory = Path(os.environ.get("LOOKOUTS_FILES", "~/lookouts")).expanduser()
    directory.mkdir(parents=True, exist_ok=True)
    return directory


def load(name: str) -> dict[str, Array]:
    """The arrays an earlier asset saved."""
    with np.load(files() / f"{name}.npz") as saved:
        return dict(saved)


def save(name: str, **arrays: Any) -> str:
    """Save arrays for later assets, whole or not at all; the path."""
    path = files() / f"{name}.npz"
    part = path.with_name(f"{name}.part.npz")
    np.savez_compressed(part, **arrays)
    part.replace(path)
    return str(path)


@cache
def rays(shape: tuple[int, int], cell_m: tuple[float, float]) -> tuple[Array, Array]:
    """Rays that go out every quarter of a degree in steps of one cell, farther than the terrain is wide.

    Returns:
        The distance of each step in metres, and for each ray how many rows and columns it is away by then, as the
        difference of indices into the terrain with a frame as wide as itself.
    """
    step_m = min(cell_m)
    distance = np.arange(1, int(np.hypot(*shape) * max(cell_m) / step_m)) * step_m
    bearing = np.radians(np.arange(0, 360, 0.25))[:, None]
    rows = np.rint(-np.cos(bearing) * distance / cell_m[0]).clip(-shape[0], shape[0])
    columns = np.rint(np.sin(bearing) * distance / cell_m[1]).clip(-shape[1], shape[1])
    return distance, (rows * 3 * shape[1] + columns).astype(int)


def visible_from(elevation: Array, cell_m: tuple[float, float], row: int, column: int, tower_m: float) -> Array:
    """Which cells are seen from a tower: those that no nearer cell on the line of sight hides.

    Along a ray, a cell is seen if it stands at least as steeply above the eye as everything before it.

    Args:
        elevation: Metres above sea level.
        cell_m: Height and width of a cell, in metres.
        row: Where the tower stands.
        column: Where the tower stands.
        tower_m: Its height above ground, in metres.
    """
    height, width = elevation.shape
    distance, away = rays((height, width), cell_m)
    # Beyond the terrain nothing hides anything, and what is seen there is left out at the end.
    framed = np.pad(elevation, ((height, height), (width, width)), constant_values=-np.inf).ravel()
    eye = (height + row) * 3 * width + width + column
    cells = eye + away
    slope = (framed[cells] - distance**2 / (2 * OPTICAL_RADIUS_M) - framed[eye] - tower_m) / distance
    seen = slope >= np.maximum.accumulate(slope, axis=1)
    visible = np.zeros(framed.shape, dtype=bool)
    visible[cells[seen]] = True
    visible[eye] = True
    return visible.reshape(3 * height, 3 * width)[height : 2 * height, width : 2 * width]
