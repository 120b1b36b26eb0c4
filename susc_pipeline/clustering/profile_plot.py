"""The figure of a cluster's profile: its mean response to each component, by layer and head. No file is read or written."""

import numpy as np
import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

OUTSIDE = "embedding"  # title of the panel of what is in no layer
PANEL_INCHES, HEIGHT_INCHES = 1.9, 2.8


def figure(rows: pl.DataFrame) -> Figure:
    """A panel for each layer, in which each head, then the MLP, is a point with its 95 % interval.

    Args:
        rows: of one cluster, a row for each component: cluster, name, kind, layer, head, n_members, mean and half_width, in
            standard deviations over tokens. A missing half_width is drawn as a point alone.
    """
    ordered = rows.sort("layer", "head", "component", nulls_last=True)
    panels = ordered.partition_by("layer", maintain_order=True)
    found = Figure(figsize=(PANEL_INCHES * len(panels) + 0.8, HEIGHT_INCHES), layout="constrained")
    axes = found.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for panel, own in zip(axes, panels, strict=True):
        _draw(panel, own)
    axes[0].set_ylabel("mean response (sd over tokens)")
    found.suptitle(f"cluster {rows['cluster'][0]}: {rows['n_members'][0]} tokens, 95 % intervals", fontsize=9)
    return found


def _draw(panel: Axes, rows: pl.DataFrame) -> None:
    layer, place = rows["layer"][0], np.arange(rows.height)
    half = np.nan_to_num(rows["half_width"].cast(pl.Float64).to_numpy())
    panel.axhline(0, color="0.7", linewidth=0.8)
    panel.errorbar(place, rows["mean"].cast(pl.Float64).to_numpy(), half, fmt="o", markersize=3, capsize=2)
    panel.set_title(OUTSIDE if layer is None else f"layer {layer}", fontsize=9)
    panel.set_xticks(place, [_label(*row) for row in rows.select("kind", "head", "name").iter_rows()], rotation=90)
    panel.tick_params(labelsize=7)


def _label(kind: str, head: int | None, name: str) -> str:
    return name if head is None else f"{kind.replace('_', ' ')} {head}"
