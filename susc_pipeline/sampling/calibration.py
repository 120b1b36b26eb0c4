"""A sweep of sampler settings on a few components: traces, diagnostics, a verdict for each, and a recommendation.

The rules are those that are used by hand on loss traces (method: Lau et al. 2023, Baker et al. 2025): a good trace rises
above the loss at w*, levels off, and its chains agree; a bad one says which of step size, n_beta, localization is wrong.
"""

import dataclasses
import itertools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import polars as pl
import torch
from scipy import stats

from susc_pipeline import schema, seeds
from susc_pipeline.config import CalibrationSettings, SamplingSettings
from susc_pipeline.model import components, perturbation
from susc_pipeline.model.components import Component
from susc_pipeline.model.gpt_neox import GPTNeoX
from susc_pipeline.model.perturbation import ComponentInputs
from susc_pipeline.sampling import chains, diagnostics, samplers, stability
from susc_pipeline.sampling.chains import SamplingContexts
from susc_pipeline.sampling.loss_traces import LossTraces
from susc_pipeline.susceptibility import estimators

DRIFT_LEVEL = 0.995
ACCEPTANCE_STEPS = 4


class Sweep(NamedTuple):
    """The table of a sweep, and the traces behind it for those cells that could be sampled."""

    table: pl.DataFrame
    """As schema.CALIBRATION."""
    traces: dict[tuple[str, float, float, float], LossTraces]
    """By component, step size, n_beta and localization."""


def sweep(
    model: GPTNeoX,
    contexts: SamplingContexts,
    sampling: SamplingSettings,
    settings: CalibrationSettings,
    *,
    estimator: str,
    seed: int,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Sweep:
    """Every combination of step size, n_beta and localization on every chosen component."""
    chosen = [components.by_name(model, name) for name in settings.components or default_components(model)]
    cells = list(itertools.product(chosen, settings.step_sizes, settings.n_betas, settings.localizations))
    curvatures = {
        c: stability.largest_curvature(model, c, chains.observable_inputs(model, c, contexts)) for c in chosen
    }
    rows, traces = [], {}
    for number, (component, *values) in enumerate(cells):
        names = ("step_size", "n_beta", "localization")
        cell = dataclasses.replace(
            sampling, n_chains=settings.n_chains, n_draws=settings.n_draws, **dict(zip(names, values, strict=True))
        )
        found, row = _cell(model, component, contexts, cell, curvatures[component], estimator, seed)
        rows.append({"component": component.name, **dict(zip(names, values, strict=True)), **row})
        if found is not None:
            traces[component.name, *values] = found
        progress(number + 1, len(cells))
    return Sweep(pl.DataFrame(rows, schema=schema.CALIBRATION), traces)


def default_components(model: GPTNeoX) -> tuple[str, ...]:
    """One component of each kind: the embedding, a head and an MLP of the middle layer, the unembedding."""
    middle = model.n_layers // 2
    return ("embed", f"L{middle}H0", f"L{middle}MLP", "unembed")


def recommended(table: pl.DataFrame) -> dict[str, float] | None:
    """The settings at which no component has a complaint, and the halves of the chains agree best; none if there are none."""
    keys = ["step_size", "n_beta", "localization"]
    sound = (
        table.group_by(keys)
        .agg(good=(pl.col("verdict") == "good").all(), agreement=pl.col("half_correlation").mean())
        .filter("good")
        .sort("agreement", *keys, descending=[True, False, False, False])
    )
    return None if sound.is_empty() else sound.select(keys).row(0, named=True)


def _cell(
    model: GPTNeoX,
    component: Component,
    contexts: SamplingContexts,
    settings: SamplingSettings,
    curvature: float,
    estimator: str,
    seed: int,
) -> tuple[LossTraces | None, dict[str, object]]:
    observable = chains.observable_inputs(model, component, contexts)
    limit = stability.max_step_size(curvature, settings, inflation=stability.MAX_INFLATION)
    known: dict[str, object] = {"curvature": curvature, "max_step_size": limit}
    name = f"{settings.step_size:g}, {settings.n_beta:g}, {settings.localization:g}"
    source = seeds.sequence(seed, "calibration", component.name, name)
    try:
        settings = stability.split_steps(curvature, component, settings)
        traces = chains.sample(model, component, settings, contexts, source)
    except stability.UnstableStepError:
        remedy = f"lower step_size to at most {stability.MAX_SPLIT * limit:.3g}, or raise localization"
        return None, known | {"verdict": "unstable", "remedy": remedy}
    except chains.ChainDivergedError:
        return None, known | {"verdict": "diverged", "remedy": "lower step_size or n_beta, or raise localization"}
    by_chain = traces.mean_loss.reshape(settings.n_chains, -1)
    a, b = estimators.halves(traces, kind=estimator)
    coefficient = diagnostics.local_learning_coefficient(
        by_chain, init_loss=traces.init_loss, n_beta=settings.n_beta or 1.0
    )
    known |= {
        "r_hat": diagnostics.r_hat(by_chain),
        "effective_share": diagnostics.effective_sample_size(by_chain) / by_chain.size,
        "rise": float(by_chain.mean() - traces.init_loss),
        "llc": coefficient.value if settings.n_beta else None,
        "llc_error": coefficient.standard_error if settings.n_beta else None,
        "acceptance": acceptance(model, component, observable, settings, source),
        "half_correlation": float(np.corrcoef(a, b)[0, 1]),
    }
    word, remedy = verdict(by_chain, init_loss=traces.init_loss, uniform_loss=float(np.log(model.vocabulary_size)))
    return traces, known | {"verdict": word, "remedy": remedy}


def verdict(trace: np.ndarray, *, init_loss: float, uniform_loss: float) -> tuple[str, str]:
    """What is wrong with a trace of mean losses (chains, draws), if anything, and what to change.

    Args:
        trace: mean loss of the observable set under each draw.
        init_loss: the same at w*.
        uniform_loss: of a guess that knows nothing; half-way to it the model counts as destroyed.
    """
    means = trace.mean(axis=1)
    error = means.std(ddof=1) / np.sqrt(len(means))
    half = trace.shape[1] // 2
    drift = trace[:, half:].mean(axis=1) - trace[:, :half].mean(axis=1)
    drift_error = max(float(drift.std(ddof=1)) / np.sqrt(len(drift)), np.finfo(float).tiny)
    if means.mean() + 2 * error < init_loss:
        return "below", "the chains found a lower loss than w*: train longer, or raise localization"
    if means.mean() - init_loss > (uniform_loss - init_loss) / 2:
        return "destroyed", "the perturbation leaves no model to measure: raise localization"
    limit = stats.t.ppf(DRIFT_LEVEL, len(drift) - 1) * drift_error  # Student: the error itself comes from a few chains
    if abs(drift.mean()) > limit and abs(drift.mean()) > 0.1 * abs(means.mean() - init_loss):
        return "drifting", "the trace has not levelled off: raise n_burn_in or step_size"
    if diagnostics.r_hat(trace) > diagnostics.r_hat_limit(*trace.shape):
        return "at odds", "chains disagree: raise n_draws, n_burn_in or step_size"
    return "good", ""


def acceptance(
    model: GPTNeoX,
    component: Component,
    contexts: ComponentInputs,
    settings: SamplingSettings,
    seed: np.random.SeedSequence,
) -> float | None:
    """Mean probability with which a Metropolis test would accept a step, with exact gradients on a few contexts.

    One minus it bounds the bias that the step size brings; the noise of minibatches comes on top. Only for samplers whose
    proposal is a Gaussian around a function of the position: none for RMSprop, whose scale has a memory.
    """
    if settings.sampler.startswith("rmsprop"):
        return None
    generator = torch.Generator().manual_seed(int(seed.generate_state(1, np.uint64)[0] >> 1))
    n_weights = components.n_parameters(model, component)
    state = samplers.init(settings.n_chains, n_weights, sampler=settings.sampler, device=model.device)
    force = {"n_beta": settings.n_beta, "localization": settings.localization}
    options = {"sampler": settings.sampler, "step_size": settings.step_size, **force}
    kept = np.exp(-settings.step_size)
    variance = settings.step_size if settings.sampler == "sgld" else (1 - kept**2) / settings.localization
    gradient, loss = perturbation.gradients(model, component, contexts, state.delta)
    found = []
    for number in range(settings.n_burn_in + ACCEPTANCE_STEPS):
        noise = torch.randn(settings.n_chains, n_weights, generator=generator).to(model.device)
        after = samplers.step(state, gradient, noise, **options)
        gradient_after, loss_after = perturbation.gradients(model, component, contexts, after.delta)
        back = samplers.step(after, gradient_after, torch.zeros_like(noise), **options).delta
        energies = [
            settings.n_beta * level + settings.localization / 2 * (delta.double() ** 2).sum(dim=1)
            for level, delta in ((loss.double(), state.delta), (loss_after.double(), after.delta))
        ]
        forth_squared = variance * (noise.double() ** 2).sum(dim=1)
        back_squared = ((state.delta - back).double() ** 2).sum(dim=1)
        log_ratio = energies[0] - energies[1] + (forth_squared - back_squared) / (2 * variance)
        if number >= settings.n_burn_in:
            found.append(log_ratio.clamp(max=0).exp())
        state, gradient, loss = after, gradient_after, loss_after
    return float(torch.stack(found).mean())


def contexts_of(model: GPTNeoX, observable: np.ndarray, minibatch: np.ndarray, n_contexts: int) -> SamplingContexts:
    """Contexts of a sweep, none of any shard: the measured tokens are the first minibatch contexts, the pool the others.

    Raises:
        ValueError: fewer minibatch contexts than measured ones and one more.
    """
    if len(minibatch) <= n_contexts:
        raise ValueError(
            f"calibration.n_contexts must be below tokens.n_minibatch_contexts ({len(minibatch)}), got {n_contexts}; "
            f"lower it"
        )
    return chains.sampling_contexts(
        model, shard=minibatch[:n_contexts], observable=observable, minibatch=minibatch[n_contexts:]
    )
