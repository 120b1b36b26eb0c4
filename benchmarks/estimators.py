"""gauss_newton beside second_order, from the same draws and the same population: correlation, scale and reliability.

Both share their first term and differ in the second: gauss_newton has the Fisher matrix for the Hessian of the population loss,
measured along scores; second_order has the Hessian, measured along each draw. Products of different chains hold no noise, so
    r = cov(G_i, S_j) / sqrt(cov(G_i, G_j) cov(S_i, S_j)),   scale = cov(G_i, S_j) / cov(G_i, G_j),   i != j
(Spearman 1904). Chain i is measured along scores of chain i + 2, which is a little less than sharing nothing.
"""

import time
from dataclasses import replace

import numpy as np

from benchmarks import replicates, stored
from resources.storage import Store
from susc_pipeline import seeds
from susc_pipeline.config import ExperimentConfig
from susc_pipeline.model import components
from susc_pipeline.model.decoder import Decoder
from susc_pipeline.sampling import token_draws
from susc_pipeline.susceptibility import direction_files, estimators

KINDS = ("gauss_newton", "second_order")
N_CONTEXTS = 12
DRAW_BATCH_SIZE = 16


def measure(store: Store, experiment: ExperimentConfig, model: Decoder, shard: np.ndarray) -> list[dict]:
    """A row for each component."""
    settings = replace(experiment.sampling, draw_batch_size=DRAW_BATCH_SIZE)
    population = stored.population(store, "draws", settings.n_chains)
    digest, place = direction_files.model_digest(model), stored.folder(store, "response_directions")
    rows = []
    for component in components.enumerate_components(model):
        started = time.perf_counter()
        path = place / f"{component.name}{direction_files.SUFFIX}"
        direction = direction_files.load(path, model, component, digest=digest).directions
        seed = seeds.sequence(0, "truth", "estimators", component.name)
        kinds = {"direction": direction, "own_slopes": True, "responses": True}
        traces = token_draws.sample(model, component, settings, shard[:N_CONTEXTS], population, seed, **kinds)
        ours, other = (estimators.by_chain(traces, kind=kind)[:, :, None] for kind in KINDS)
        first = estimators.by_chain(traces, kind="first_order")[:, :, None]
        row = {"component": component.name, "draws": len(traces.chain), "seconds": time.perf_counter() - started}
        row |= compare(ours, other, first)
        rows.append(row)
        numbers = ", ".join(f"{name} {value:.3f}" for name, value in row.items() if isinstance(value, float))
        print(f"{component.name:8s} {numbers}", flush=True)
    return rows


def compare(ours: np.ndarray, other: np.ndarray, first: np.ndarray) -> dict[str, float]:
    """Correlation and scale without noise, of the whole and of the second term, and both reliabilities."""
    n_chains = len(ours)
    found = {}
    for name, a, b in (("", ours, other), ("second_term_", ours - first, other - first)):
        own, crossed, its = (replicates.products(*pair) for pair in ((a, a), (a, b), (b, b)))
        signals = [float(part.signal[0]) for part in (own, crossed, its)]
        found[f"{name}r"] = signals[1] / max(signals[0] * signals[2], np.finfo(float).tiny) ** 0.5
        found[f"{name}scale"] = signals[1] / signals[0]
    for kind, values in zip(KINDS, (ours, other), strict=True):
        own = replicates.products(values, values)
        found[f"{kind}_reliability"] = float(own.signal[0] / own.of_mean(n_chains)[0])
    return found
