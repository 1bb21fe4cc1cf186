"""The few hill tops that together see most of the terrain, and a map of them."""

from __future__ import annotations

import base64
import io

import matplotlib.pyplot as plt
import numpy as np
from dagster_pipes import open_dagster_pipes
from matplotlib.colors import LightSource
from terrain import Array, load, save


def choose(seen: Array, count: int) -> tuple[list[int], Array]:
    """Take the site that adds most to what is seen, again and again; the sites, and the cells they see together."""
    chosen: list[int] = []
    covered = np.zeros(seen.shape[1], dtype=bool)
    for _ in range(count):
        chosen.append(int((seen & ~covered).sum(axis=1).argmax()))
        covered |= seen[chosen[-1]]
    return chosen, covered


def map_png(elevation: Array, cell_m: Array, sites: Array, covered: Array) -> bytes:
    """A shaded relief; what no lookout sees is dark."""
    low, high = elevation.min(), elevation.max()
    # Below the lowest place the colour map has its blues, and there is no sea in Tennessee.
    relief = LightSource(azdeg=315, altdeg=45).shade(
        elevation, plt.get_cmap("gist_earth"), vmin=low - (high - low) / 2, vert_exag=2, dy=cell_m[0], dx=cell_m[1]
    )
    relief[~covered, :3] *= 0.4
    height_m, width_m = np.multiply(elevation.shape, cell_m)
    figure = plt.figure(figsize=(5, 5 * height_m / width_m), dpi=72)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.imshow(relief, aspect="auto")
    axes.scatter(sites[:, 1], sites[:, 0], marker="^", s=90, color="red", edgecolor="white")
    axes.set_axis_off()
    image = io.BytesIO()
    figure.savefig(image, format="png")
    return image.getvalue()


def main() -> None:
    with open_dagster_pipes() as pipes:
        terrain, viewsheds = load("elevations"), load("viewsheds")
        elevation, cell_m = terrain["elevation"], terrain["cell_m"]
        seen = np.unpackbits(viewsheds["seen"], axis=1, count=elevation.size).astype(bool)
        chosen, covered = choose(seen, count=int(pipes.get_extra("lookouts")))
        sites = viewsheds["sites"][chosen]
        share = float(covered.mean())
        path = save("lookouts", sites=sites, share=share)

        pipes.report_custom_message({"rows_and_columns": sites.tolist()})
        pipes.report_asset_check(
            check_name="most_is_seen", passed=share > 0.5, metadata={"seen_pct": round(100 * share, 1)}
        )
        image = base64.b64encode(map_png(elevation, cell_m, sites, covered.reshape(elevation.shape))).decode()
        pipes.report_asset_materialization(
            metadata={
                "lookouts": len(sites),
                "seen_pct": round(100 * share, 1),
                "map": {"raw_value": f"![lookouts](data:image/png;base64,{image})", "type": "md"},
                "path": {"raw_value": path, "type": "path"},
            }
        )


if __name__ == "__main__":
    main()
