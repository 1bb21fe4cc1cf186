"""What the payloads share; it travels with them as an extra file."""

from __future__ import annotations

import os
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


def visible_from(elevation: Array, cell_m: tuple[float, float], row: int, column: int, tower_m: float) -> Array:
    """Which cells are seen from a tower: those that no nearer cell on the line of sight hides.

    Rays go out every quarter of a degree in steps of one cell; along a ray, a cell is seen if it stands at least
    as steeply above the eye as everything before it.

    Args:
        elevation: Metres above sea level.
        cell_m: Height and width of a cell, in metres.
        row: Where the tower stands.
        column: Where the tower stands.
        tower_m: Its height above ground, in metres.
    """
    step_m = min(cell_m)
    distance = np.arange(1, int(np.hypot(*elevation.shape) * max(cell_m) / step_m)) * step_m
    bearing = np.radians(np.arange(0, 360, 0.25))[:, None]
    rows = np.rint(row - np.cos(bearing) * distance / cell_m[0]).astype(int)
    columns = np.rint(column + np.sin(bearing) * distance / cell_m[1]).astype(int)
    inside = (rows >= 0) & (rows < elevation.shape[0]) & (columns >= 0) & (columns < elevation.shape[1])
    rows, columns = np.where(inside, rows, row), np.where(inside, columns, column)
    height = elevation[rows, columns] - distance**2 / (2 * OPTICAL_RADIUS_M)
    slope = np.where(inside, (height - elevation[row, column] - tower_m) / distance, -np.inf)
    seen = inside & (slope >= np.maximum.accumulate(slope, axis=1))
    visible = np.zeros(elevation.shape, dtype=bool)
    visible[rows[seen], columns[seen]] = True
    visible[row, column] = True
    return visible
