"""Losses and slopes under every draw of a component's chains, and their table. How they are sampled is in chains.py."""

from typing import NamedTuple

import numpy as np
import polars as pl
from jaxtyping import Bool, Float, Int

from susc_pipeline import schema


class LossTraces(NamedTuple):
    """Losses under every draw, in nats; a row is a draw, ordered by chain, mirror image and number of the draw.

    Slopes are derivatives of a loss along a direction in weight space, in nats squared. An array that the estimator does
    not need has no column.
    """

    chain: Int[np.ndarray, " draws"]
    """Even chains make half a, odd ones half b; they share no context."""
    mirror: Int[np.ndarray, " draws"]
    """1 for the image of a chain whose noise has the opposite sign, else 0; both read the same contexts."""
    draw: Int[np.ndarray, " draws"]
    """Number of the draw in its chain, from zero."""
    step: Int[np.ndarray, " draws"]
    """Steps from the chain's start to the draw."""
    mean_loss: Float[np.ndarray, " draws"]
    """Mean loss under the draw of the population contexts that its gradient is taken on."""
    rest_loss: Float[np.ndarray, " draws"]
    """Mean loss of the same contexts at w*; phi is mean_loss - rest_loss."""
    reference_rise: Float[np.ndarray, " draws"]
    """Rise of the mean loss over that at w* on the draw's other contexts: phi again, with noise of its own."""
    score: Float[np.ndarray, " draws"]
    """Slope of the negative log posterior along v: localization v.(w - w*) + n_beta v.grad L(w); its mean is zero."""
    mean_slope: Float[np.ndarray, " draws"]
    """Slope of the population loss along v at the draw, from contexts that v has not seen."""
    mean_own_slope: Float[np.ndarray, " draws"]
    """Slope of the population loss along the draw's own direction, from contexts that the direction has not seen."""
    mean_response: Float[np.ndarray, " draws"]
    """Response of the population loss, as `responses` has it of a token's, on the draw's other contexts."""
    token_losses: Float[np.ndarray, "draws tokens"]
    token_slopes: Float[np.ndarray, "draws sloped_tokens"]
    """Slope of each token's loss along the chain's response direction v."""
    own_slopes: Float[np.ndarray, "draws own_sloped_tokens"]
    """Slope of each token's loss along the draw's own direction: half the difference of the pair's gradients / localization."""
    responses: Float[np.ndarray, "draws responding_tokens"]
    """Slope of each token's loss along v, and half its curvature along a score of another chain of the half / localization^2."""


WIDE = ("token_losses", "token_slopes", "own_slopes", "responses")


def take(traces: LossTraces, rows: Bool[np.ndarray, " draws"] | Int[np.ndarray, " chosen"]) -> LossTraces:
    """The traces of some draws."""
    return LossTraces(*(part[rows] for part in traces))


def of_measurements(rows: list[dict[str, np.ndarray]], *, n_chains: int, n_images: int) -> LossTraces:
    """Traces of measurements in order of draw, each with a row a chain, the chains first and then their mirror images."""
    n_draws = len(rows)
    stacked = {name: np.stack([row[name] for row in rows]) for name in rows[0]}  # (draws, images x chains, ...)

    def arranged(values: np.ndarray) -> np.ndarray:
        split = values.reshape(n_draws, n_images, n_chains, *values.shape[2:])
        return np.moveaxis(split, 0, 2).swapaxes(0, 1).reshape(n_draws * n_images * n_chains, *values.shape[2:])

    columns = {name: arranged(values) for name, values in stacked.items()}
    chain, mirror, draw = (
        axis.ravel() for axis in np.meshgrid(*map(np.arange, (n_chains, n_images, n_draws)), indexing="ij")
    )
    exact = {name: columns[name].astype(np.float64) for name in schema.TRACE_SCALARS}
    wide = {name: columns[name].astype(np.float32) for name in WIDE}
    return LossTraces(chain=chain, mirror=mirror, draw=draw, step=columns["step"].astype(np.int64), **exact, **wide)


def frame(component: str, traces: LossTraces) -> pl.DataFrame:
    """The traces as a table, as schema.loss_traces."""
    widths = {name: getattr(traces, name).shape[1] for name in WIDE}
    columns = {name: getattr(traces, name) for name in LossTraces._fields if widths.get(name, 1)}
    columns["component"] = [component] * len(traces.chain)
    return pl.DataFrame(columns, schema=pl.Schema(schema.loss_traces(widths)))


def rises(table: pl.DataFrame) -> Float[np.ndarray, "chains draws"]:
    """Rise of the mean loss over that at w* on the same contexts at each draw, in nats: mean of a chain and its mirror image.

    Args:
        table: of one component, with the columns chain, draw, mean_loss and rest_loss; every chain has as many draws.
    """
    of_pairs = table.group_by("chain", "draw").agg(rise=(pl.col("mean_loss") - pl.col("rest_loss")).mean())
    return of_pairs.sort("chain", "draw")["rise"].to_numpy().reshape(of_pairs["chain"].n_unique(), -1)


def of_frame(table: pl.DataFrame) -> LossTraces:
    """The traces that `frame` made a table of, in order of chain, mirror image and draw."""
    ordered = table.sort("chain", "mirror", "draw")
    empty = np.zeros((table.height, 0), np.float32)
    wide = {name: schema.matrix(ordered[name]) if name in table.columns else empty for name in WIDE}
    narrow = {name: ordered[name].to_numpy() for name in LossTraces._fields if name not in WIDE}
    return LossTraces(**narrow, **wide)
