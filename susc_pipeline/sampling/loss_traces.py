"""Losses and slopes under every draw of a component's chains, and their table. How they are sampled is in chains.py."""

from typing import NamedTuple

import numpy as np
import polars as pl
from jaxtyping import Bool, Float, Int

from susc_pipeline import schema


class LossTraces(NamedTuple):
    """Losses under every draw, in nats; a row is a draw, ordered by chain and then by draw."""

    chain: Int[np.ndarray, " draws"]
    draw: Int[np.ndarray, " draws"]
    """Number of the draw in its chain, from zero."""
    step: Int[np.ndarray, " draws"]
    """Steps from w* to the draw."""
    mean_loss: Float[np.ndarray, " draws"]
    """Mean loss of the observable set under the draw."""
    init_loss: float
    """Mean loss of the observable set at w*."""
    score: Float[np.ndarray, " draws"]
    """Slope of the negative log posterior along v: localization v.(w - w*) + n_beta v.grad L(w); its mean is zero."""
    mean_slope: Float[np.ndarray, " draws"]
    """Slope of the observable set's mean loss along v at the draw, in nats squared."""
    token_losses: Float[np.ndarray, "draws tokens"]
    """Loss of each token of the shard under the draw."""
    token_slopes: Float[np.ndarray, "draws sloped_tokens"]
    """Slope of each token's loss along v at the draw, in nats squared; no column where slopes were not measured."""


def of_measurements(rows: list[list[np.ndarray]], init_loss: float) -> LossTraces:
    """Traces of measurements in order of draw, each with one row a chain, rearranged by chain and then by draw."""
    n_draws, n_chains = len(rows), len(rows[0][0])
    chain, draw = (a.ravel() for a in np.meshgrid(np.arange(n_chains), np.arange(n_draws), indexing="ij"))
    stacked = [np.stack(column, axis=1) for column in zip(*rows, strict=True)]
    step, mean_loss, token_losses, *slopes = (a.reshape(-1, *a.shape[2:]) for a in stacked)
    if slopes:
        score, mean_slope, token_slopes = slopes
        measured = {"score": score.astype(np.float64), "mean_slope": mean_slope.astype(np.float64)}
        measured["token_slopes"] = token_slopes
    else:
        measured = _no_slopes(len(step))
    return LossTraces(
        chain=chain,
        draw=draw,
        step=step.astype(np.int64),
        mean_loss=mean_loss.astype(np.float64),
        init_loss=init_loss,
        token_losses=token_losses,
        **measured,
    )


def take(traces: LossTraces, rows: Bool[np.ndarray, " draws"] | Int[np.ndarray, " chosen"]) -> LossTraces:
    """The traces of some draws."""
    return LossTraces(*(part[rows] if isinstance(part, np.ndarray) else part for part in traces))


def frame(component: str, traces: LossTraces) -> pl.DataFrame:
    """The traces as a table, as schema.loss_traces."""
    n_draws, n_tokens = traces.token_losses.shape
    n_sloped = traces.token_slopes.shape[1]
    columns = {
        "component": [component] * n_draws,
        "chain": traces.chain,
        "draw": traces.draw,
        "step": traces.step,
        "mean_loss": traces.mean_loss,
        "init_loss": np.full(n_draws, traces.init_loss),
        "token_losses": traces.token_losses,
    }
    if n_sloped:
        columns |= {name: getattr(traces, name) for name in schema.SLOPES}
    return pl.DataFrame(columns, schema=pl.Schema(schema.loss_traces(n_tokens, slopes=bool(n_sloped))))


def of_frame(table: pl.DataFrame) -> LossTraces:
    """The traces that `frame` made a table of, in order of chain and draw."""
    ordered = table.sort("chain", "draw")
    columns = {name: ordered[name].to_numpy() for name in ("chain", "draw", "step", "mean_loss")}
    if "token_slopes" in table.columns:
        columns |= {name: ordered[name].to_numpy() for name in ("score", "mean_slope")}
        columns["token_slopes"] = schema.matrix(ordered["token_slopes"])
    else:
        columns |= _no_slopes(table.height)
    return LossTraces(
        **columns, init_loss=float(ordered["init_loss"][0]), token_losses=schema.matrix(ordered["token_losses"])
    )


def _no_slopes(n_draws: int) -> dict[str, np.ndarray]:
    zeros = np.zeros(n_draws)
    return {"score": zeros, "mean_slope": zeros, "token_slopes": np.zeros((n_draws, 0), np.float32)}
