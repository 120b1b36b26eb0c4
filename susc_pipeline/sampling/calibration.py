"""A sweep of sampler settings on a few components: a verdict on each, and a recommendation. Nothing else reads it.

The chains are those that find response directions (directions.py), with a small budget: what they show of a setting is
what the experiment would meet. The rules are those that are used by hand on loss traces (Lau et al. 2023; Baker et al.
2025): a good trace lies above the loss at w* and is level, and its chains agree; a bad one says which of step size, n_beta
and localization is wrong.
"""

import dataclasses
import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import polars as pl
import scipy
import torch
from jaxtyping import Float, Int

from susc_pipeline import schema, seeds
from susc_pipeline.messages import require
from susc_pipeline.model import components, derivatives, perturbation
from susc_pipeline.model.components import Component
from susc_pipeline.model.decoder import Decoder
from susc_pipeline.model.perturbation import ComponentInputs
from susc_pipeline.sampling import chains, curvature, diagnostics, memory
from susc_pipeline.sampling.observables import Population
from susc_pipeline.sampling.posterior import SamplingSettings
from susc_pipeline.sampling.samplers import SAMPLERS
from susc_pipeline.susceptibility import directions
from susc_pipeline.susceptibility.directions import DirectionSettings

DRIFT_LEVEL = 0.995
ACCEPTANCE_STEPS = 4
ENDLESS = math.nextafter(1.0, 0.0)  # a reliability that stops no chain before its budget is spent
SETTINGS = ("step_size", "n_beta", "localization")
VERDICTS = {
    curvature.UnstableStepError: "unstable",
    chains.ChainDivergedError: "diverged",
    memory.BatchTooLargeError: "too large",
}


@dataclass(frozen=True)
class CalibrationSettings:
    """The sweep that shows which sampler settings are sound; nothing else reads its result."""

    enabled: bool = False
    """Whether to make the sweep; without it the table is empty."""
    step_sizes: tuple[float, ...] = (1.0, 2.0)
    """Step sizes tried."""
    n_betas: tuple[float, ...] = (10.0, 30.0, 100.0)
    """Weights of the mean loss tried."""
    localizations: tuple[float, ...] = (100.0, 300.0, 1000.0)
    """Pulls to the trained weights tried."""
    components: tuple[str, ...] = ()
    """Components tried; none named: one of each kind, those of a layer from the middle one."""
    n_contexts: int = 4
    """Contexts whose token losses are measured."""
    n_draws: int = 8
    """Draws of each chain."""

    def __post_init__(self) -> None:
        """Check the values."""
        for name in ("step_sizes", "n_betas", "localizations"):
            require(len(getattr(self, name)) >= 1, f"calibration.{name}", getattr(self, name), "at least one value")
        require(min(self.step_sizes) > 0, "calibration.step_sizes", self.step_sizes, "positive")
        require(min(self.n_betas) >= 0, "calibration.n_betas", self.n_betas, "zero or more")
        require(min(self.localizations) > 0, "calibration.localizations", self.localizations, "positive")
        require(self.n_contexts >= 1, "calibration.n_contexts", self.n_contexts, "at least 1")
        require(self.n_draws >= 4, "calibration.n_draws", self.n_draws, "at least 4, for R-hat")


class Sweep(NamedTuple):
    """The table of a sweep, and the traces behind it for those cells that could be sampled."""

    table: pl.DataFrame
    """As schema.CALIBRATION."""
    traces: dict[tuple[str, float, float, float], Float[np.ndarray, "chains draws"]]
    """Rise of the mean loss over that at w*, in nats, by component, step size, n_beta and localization."""


def sweep(
    model: Decoder,
    population: Population,
    measured: Int[np.ndarray, "contexts positions"],
    sampling: SamplingSettings,
    settings: CalibrationSettings,
    *,
    seed: int,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Sweep:
    """Every combination of step size, n_beta and localization on every chosen component; none of them stops the others.

    Args:
        model: at w*.
        population: a part for each chain.
        measured: contexts of no chain, on whose tokens the reliability is measured.
        sampling: the settings that are not swept.
        settings: those that are, and the number of draws.
        seed: of the experiment.
        progress: told the cells done and their total.
    """
    chosen = settings.components or default_components(model)
    cells = list(itertools.product(chosen, settings.step_sizes, settings.n_betas, settings.localizations))
    rows, traces = [], {}
    for number, (name, *values) in enumerate(cells):
        swept = dict(zip(SETTINGS, values, strict=True))
        cell = dataclasses.replace(sampling, n_draws=settings.n_draws, **swept)
        found, row = _cell_or_complaint(model, name, population, measured, cell, seed)
        rows.append({"component": name, **swept, **row})
        if found is not None:
            traces[name, *values] = found
        progress(number + 1, len(cells))
    return Sweep(pl.DataFrame(rows, schema=schema.CALIBRATION), traces)


def default_components(model: Decoder) -> tuple[str, ...]:
    """One component of each kind that the model has: the ends, and those of the middle layer."""
    middle = model.n_layers // 2
    wanted = {"embed", f"L{middle}H0", f"L{middle}KV0", f"L{middle}MLP", "unembed"}
    return tuple(c.name for c in components.enumerate_components(model) if c.name in wanted)


def recommended(table: pl.DataFrame) -> dict[str, float] | None:
    """The settings at which no component has a complaint, and the chains agree best; none if there are none."""
    keys = list(SETTINGS)
    sound = (
        table.group_by(keys)
        .agg(good=(pl.col("verdict") == "good").all(), agreement=pl.col("rise_reliability").mean())
        .filter("good")
        .sort("agreement", *keys, descending=[True, False, False, False])
    )
    return None if sound.is_empty() else sound.select(keys).row(0, named=True)


def _cell_or_complaint(
    model: Decoder, name: str, population: Population, measured: np.ndarray, settings: SamplingSettings, seed: int
) -> tuple[np.ndarray | None, dict[str, object]]:
    known: dict[str, object] = {}
    try:
        return _cell(model, components.by_name(model, name), population, measured, settings, seed, known)
    # A sweep is made to meet bad settings: what one of them raises is its result.
    except (ValueError, torch.OutOfMemoryError) as error:
        return None, known | {"verdict": VERDICTS.get(type(error), "failed"), "remedy": str(error)}


def _cell(
    model: Decoder,
    component: Component,
    population: Population,
    measured: np.ndarray,
    settings: SamplingSettings,
    seed: int,
    known: dict[str, object],
) -> tuple[np.ndarray, dict[str, object]]:
    """Trace and row of one cell; what is found before an error is left in `known`."""
    few = torch.as_tensor(population.parts[0][: curvature.MAX_CONTEXTS].astype(np.int64)).to(model.device)
    contexts = perturbation.prepare_tokens(model, component, few)
    known["curvature"] = stiffest = curvature.largest_curvature(model, component, contexts)
    known["max_step_size"] = curvature.max_step_size(stiffest, settings, inflation=curvature.MAX_INFLATION)
    settings = curvature.split_steps(stiffest, component, settings)
    source = seeds.sequence(seed, "calibration", component.name, *(f"{getattr(settings, name):g}" for name in SETTINGS))
    n_each = settings.n_chains * settings.batch_size
    budget = DirectionSettings(reliability=ENDLESS, max_contexts=settings.n_draws * n_each)
    n_tokens = measured[:, 1:].size
    # The gradient at w* depends on no setting of the sampler, so its slopes are left out: zero.
    nothing = np.zeros((settings.n_chains, n_tokens))
    chosen = (settings, budget, population, measured, nothing, source)
    found = directions.rise(model, component, *chosen, largest=stiffest)
    trace = diagnostics.rises(found.trace, n_draws=found.n_contexts // n_each)
    coefficient = diagnostics.local_learning_coefficient(trace, init_loss=0.0, n_beta=settings.n_beta)
    uniform_rise = float(np.log(model.vocabulary_size) - found.trace.rest_loss.mean())
    word, remedy = verdict(trace, uniform_rise=uniform_rise)
    return trace, known | {
        "r_hat": diagnostics.r_hat(trace),
        "effective_share": diagnostics.effective_sample_size(trace) / trace.size,
        "rise": float(trace.mean()),
        "llc": coefficient.value if settings.n_beta else None,
        "llc_error": coefficient.standard_error if settings.n_beta else None,
        "acceptance": acceptance(model, component, contexts, settings, source),
        "rise_reliability": found.reliability,
        "verdict": word,
        "remedy": remedy,
    }


def verdict(trace: Float[np.ndarray, "chains draws"], *, uniform_rise: float) -> tuple[str, str]:
    """What is wrong with a trace of rises, if anything, and what to change.

    Args:
        trace: rise of the mean loss over that at w* under each draw.
        uniform_rise: of a guess that knows nothing; half-way to it the model counts as destroyed.
    """
    means = trace.mean(axis=1)
    error = means.std(ddof=1) / np.sqrt(len(means))
    half = trace.shape[1] // 2
    drift = trace[:, half:].mean(axis=1) - trace[:, :half].mean(axis=1)
    drift_error = max(float(drift.std(ddof=1)) / np.sqrt(len(drift)), np.finfo(float).tiny)
    if means.mean() + 2 * error < 0:
        return "below", "the chains reached a lower loss than w*: train longer, or raise localization"
    if means.mean() > uniform_rise / 2:
        return "destroyed", "the perturbation leaves no model to measure: raise localization"
    # Student: the error itself comes from a few chains.
    limit = scipy.stats.t.ppf(DRIFT_LEVEL, len(drift) - 1) * drift_error
    if abs(drift.mean()) > limit and abs(drift.mean()) > 0.1 * abs(means.mean()):
        return "drifting", "the trace has not levelled off: raise n_burn_in or step_size"
    if diagnostics.r_hat(trace) > diagnostics.r_hat_limit(*trace.shape):
        return "at odds", "chains disagree: raise n_draws, n_burn_in or step_size"
    return "good", ""


def acceptance(
    model: Decoder,
    component: Component,
    contexts: ComponentInputs,
    settings: SamplingSettings,
    seed: np.random.SeedSequence,
) -> float | None:
    """Mean probability with which a Metropolis test would accept a step, with exact gradients on a few contexts.

    One minus it bounds the bias that the step size brings; the noise of fresh contexts comes on top. Only for samplers whose
    proposal is a Gaussian around a function of the position: none for RMSprop, whose scale has a memory.
    """
    if settings.sampler.startswith("rmsprop"):
        return None
    step = SAMPLERS[settings.sampler].step
    n_weights = components.n_parameters(model, component)
    pushes = chains.noise(seed, n_weights, n_chains=settings.n_chains, mirrored=False, device=model.device)
    state = chains.start(settings, next(pushes))
    options = {name: getattr(settings, name) for name in SETTINGS}
    kept = np.exp(-settings.step_size)
    variance = settings.step_size if settings.sampler == "sgld" else (1 - kept**2) / settings.localization
    gradient, loss = derivatives.gradients(model, component, contexts, state.delta)
    found = []
    for number, push in zip(range(settings.n_burn_in + ACCEPTANCE_STEPS), pushes):
        after = step(state, gradient, push, **options)
        gradient_after, loss_after = derivatives.gradients(model, component, contexts, after.delta)
        back = step(after, gradient_after, torch.zeros_like(push), **options).delta
        energies = [
            settings.n_beta * level + settings.localization / 2 * (delta.double() ** 2).sum(dim=1)
            for level, delta in ((loss.double(), state.delta), (loss_after.double(), after.delta))
        ]
        forth_squared = variance * (push.double() ** 2).sum(dim=1)
        back_squared = ((state.delta - back).double() ** 2).sum(dim=1)
        log_ratio = energies[0] - energies[1] + (forth_squared - back_squared) / (2 * variance)
        if number >= settings.n_burn_in:
            found.append(log_ratio.clamp(max=0).exp())
        state, gradient, loss = after, gradient_after, loss_after
    return float(torch.stack(found).mean())
