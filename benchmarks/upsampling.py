"""How well tokens are given without draws, and with k antithetic pairs of draws each, against the ground truth.

With L_i the linear response along the direction of chain i, S_i what chain i gives by the run's estimator (its antithetic pairs
of draws at every token, along the same direction) and D_i = S_i - L_i what they add,

    C_k = mean of L over all chains + s * mean of D over the chains that k pairs take,

s by component from the training shards: the least-squares share of D, shrunk by its noise. The truth is the mean of S over all n
chains, as measured, with its own noise. No product of a chain with itself counts as signal, so that what C_k and the truth
share by chance is left out (replicates.py):

    r_k = cov(L + s D, S) / sqrt(var(C_k) var(truth)),   var(mean over k) = signal + noise / k.

Beside it stands the linear response with the second term along k scores at w* (linear_response.n_scores), from halves that share
nothing. The ceiling is sqrt(reliability of the truth). k = n is an estimate from pairs like those of the truth, and not the truth
itself.
"""

import time
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float

from benchmarks import replicates, stored
from resources.storage import Store
from susc_pipeline import schema, seeds
from susc_pipeline.config import ExperimentConfig
from susc_pipeline.model import components, derivatives, perturbation, tangents
from susc_pipeline.model.components import Component
from susc_pipeline.model.decoder import Decoder
from susc_pipeline.representation.pca import PCABasis
from susc_pipeline.sampling import loss_traces
from susc_pipeline.susceptibility import direction_files, directions, estimators, linear_response
from susc_pipeline.susceptibility.direction_files import StoredDirections

N_CHAINS = (0, 1, 2, 4, 8)
N_SCORES = (0, 2, 4, 8)
CONTEXTS_AT_ONCE = 4
TIMED_CONTEXTS = 2


class ByChain(NamedTuple):
    """Of every chain, what it says of each token of a shard."""

    response: Float[np.ndarray, "chains tokens components"]
    """Linear response along the chain's direction."""
    sampled: Float[np.ndarray, "chains tokens components"]
    """By the chain's pairs of draws."""

    @property
    def added(self) -> Float[np.ndarray, "chains tokens components"]:
        """What the pairs add to the linear response."""
        return self.sampled - self.response


def by_chain(store: Store, model: Decoder, shard: str, kind: str) -> ByChain:
    """Linear responses and sampled values of a shard of the run, chain by chain."""
    found = components.enumerate_components(model)
    digest, place = direction_files.model_digest(model), stored.folder(store, "response_directions")
    names = {component: place / f"{component.name}{direction_files.SUFFIX}" for component in found}
    along = {c: direction_files.load(path, model, c, digest=digest).directions for c, path in names.items()}
    ids = torch.as_tensor(stored.contexts(store, shard).astype(np.int64)).split(CONTEXTS_AT_ONCE)
    slopes = torch.cat([tangents.slopes_at_rest(model, part, along).slopes for part in ids], dim=2)
    response = -slopes.flatten(2).permute(1, 2, 0).numpy().astype(np.float64)
    traces = stored.folder(store, "sgld_samples", shard)
    tables = (stored.traces(traces / f"{component.name}.parquet") for component in found)
    sampled = [estimators.by_chain(loss_traces.of_frame(table), kind=kind) for table in tables]
    return ByChain(response, np.stack(sampled, axis=2))


def shares(training: list[ByChain]) -> Float[np.ndarray, " columns"]:
    """Per component and pair of draws, signal and noise of what is to be shrunk: see `share`."""
    joined = ByChain(*(np.concatenate(parts, axis=1) for parts in zip(*training, strict=True)))
    products = replicates.products(joined.added, joined.added)
    return np.stack([np.maximum(products.signal, 0.0), products.noise])


def share(of: Float[np.ndarray, "2 columns"], n_pairs: int) -> Float[np.ndarray, " columns"]:
    """Least-squares share of the added part as measured by so many pairs: signal / (signal + noise / pairs)."""
    signal, noise = of
    return signal / np.maximum(signal + noise / n_pairs, np.finfo(float).tiny) if n_pairs else np.zeros_like(signal)


def correlations(
    measured: ByChain, weights: Float[np.ndarray, "components columns"], shrunk: np.ndarray, n_pairs: int
) -> Float[np.ndarray, " columns"]:
    """r_k of each column of the components times the weights."""
    n_chains = len(measured.sampled)
    response, truth, added = (
        measured.response @ weights,
        measured.sampled @ weights,
        (measured.added * shrunk) @ weights,
    )
    both, rest = replicates.products(response, added), replicates.products(added, added)
    crossed = replicates.products(response, truth).signal + replicates.products(added, truth).signal
    variance = replicates.products(response, response).of_mean(n_chains) + 2 * both.of_mean(n_chains)
    variance += rest.of_mean(n_pairs) if n_pairs else 0.0
    return crossed / np.sqrt(variance * replicates.products(truth, truth).of_mean(n_chains))


def ceiling(measured: ByChain, weights: Float[np.ndarray, "components columns"]) -> Float[np.ndarray, " columns"]:
    """Correlation of the noiseless truth with the truth as measured."""
    found = replicates.products(measured.sampled @ weights, measured.sampled @ weights)
    return np.sqrt(np.maximum(found.signal, 0.0) / found.of_mean(len(measured.sampled)))


def along_scores(
    store: Store,
    experiment: ExperimentConfig,
    model: Decoder,
    shard: str,
    weights: dict[str, Float[np.ndarray, "components columns"]],
) -> list[dict]:
    """Correlation of the linear response along so many scores with the truth, by component and by PC, and its price."""
    found, ids = components.enumerate_components(model), stored.contexts(store, shard)
    frame = stored.truth(store, shard)
    truths = [schema.matrix(frame[half]).astype(np.float64) for half in ("half_a", "half_b")]
    rows = []
    without = direction_files.halves(stored.folder(store, "response_directions"), model, found)
    whole = with_scores(store, experiment, model, without)
    for n_scores in N_SCORES:
        halves = without
        if n_scores:
            halves = {
                c: one._replace(scores=one.scores[:n_scores], mean_curvatures=one.mean_curvatures[:n_scores])
                for c, one in whole.items()
            }
        started = time.perf_counter()
        response = linear_response.estimate(model, ids, halves)
        seconds = time.perf_counter() - started
        row = {"scores": n_scores, "seconds_a_thousand_tokens": 1000 * seconds / len(response.losses)}
        for kind, columns in weights.items():
            pair = [half.astype(np.float64) @ columns for half in (response.half_a, response.half_b)]
            row[kind] = of_halves(pair, [truth @ columns for truth in truths]).tolist()
            row[f"mean_by_{kind}"] = float(np.mean(row[kind]))
        rows.append(row)
        print(
            f"{n_scores} scores: r by component {row['mean_by_component']:.3f}, by PC {row['mean_by_pc']:.3f}, "
            f"{row['seconds_a_thousand_tokens']:.2f} s a thousand tokens",
            flush=True,
        )
    return rows


def with_scores(
    store: Store, experiment: ExperimentConfig, model: Decoder, halves: dict[Component, StoredDirections]
) -> dict[Component, StoredDirections]:
    """The same with a score of each chain, as the asset stores them where linear_response.n_scores asks for them."""
    n_chains = max(N_SCORES)
    read = stored.population(store, "directions", n_chains)
    probe = stored.population(store, "draws", n_chains, limit=-(-experiment.directions.n_probe_contexts // n_chains))
    source = [seeds.sequence(experiment.seed, "scores", str(chain)) for chain in range(n_chains)]
    scores = [directions.score_at_rest(model, read, chain, seed) for chain, seed in enumerate(source)]
    found = {}
    for component, one in halves.items():
        own = torch.stack([score[component.name] for score in scores])
        bent = linear_response.mean_curvatures(
            model, component, np.concatenate(probe.parts), own, localization=one.localization
        )
        found[component] = one._replace(scores=own, mean_curvatures=bent)
    return found


def of_halves(first: list[np.ndarray], second: list[np.ndarray]) -> Float[np.ndarray, " columns"]:
    """Correlation of two measurements, each the mean of two halves; half a of either is held against half b of the other."""
    (a, b), (c, d) = ([part - part.mean(axis=0) for part in pair] for pair in (first, second))
    whole = [((x + y) / 2).std(axis=0) for x, y in ((a, b), (c, d))]
    return ((a * d).mean(axis=0) + (b * c).mean(axis=0)) / 2 / (whole[0] * whole[1])


def seconds_a_thousand(store: Store, model: Decoder, shard: str) -> tuple[float, float]:
    """Seconds of the linear response of 1,000 tokens along two halves, all components, and of one pair of draws."""
    found = components.enumerate_components(model)
    ids = torch.as_tensor(stored.contexts(store, shard)[:TIMED_CONTEXTS].astype(np.int64))
    sizes = {component: components.n_parameters(model, component) for component in found}
    noise = {component: 1e-3 * torch.randn(2, 2, size) for component, size in sizes.items()}
    tangents.slopes_at_rest(model, ids, {c: value[0] for c, value in noise.items()})
    started = time.perf_counter()
    tangents.slopes_at_rest(model, ids, {c: value[0] for c, value in noise.items()})
    between = time.perf_counter()
    for component, value in noise.items():
        inputs = perturbation.prepare_tokens(model, component, ids)
        here = tangents.losses_and_slopes(model, component, inputs, value[0], value[:1]).losses
        derivatives.curvatures(model, component, inputs, value[0], value[1], here, step=1.0)
    thousands = ids[:, 1:].numel() / 1000
    return (between - started) / thousands, (time.perf_counter() - between) / thousands


def measure(
    store: Store, experiment: ExperimentConfig, model: Decoder, basis: PCABasis, training: list[str], withheld: str
) -> dict:
    """Correlation and price of every number of pairs, by component and by PC, of the withheld shard."""
    kind, each = experiment.susceptibility.estimator, experiment.sampling.n_draws
    measured = by_chain(store, model, withheld, kind)
    noise_of_pairs = shares([by_chain(store, model, shard, kind) for shard in training])
    names = [component.name for component in components.enumerate_components(model)]
    axes = {"component": np.eye(len(names)), "pc": (basis.components / basis.scale).T}
    for_rest, for_pair = seconds_a_thousand(store, model, withheld)
    rows = []
    for n_chains in N_CHAINS:
        n_pairs = n_chains * each
        row = {"pairs": n_pairs, "seconds_a_thousand_tokens": for_rest + n_pairs * for_pair}
        shrunk = share(noise_of_pairs, n_chains)
        for kind, weights in axes.items():
            row[kind] = correlations(measured, weights, shrunk, n_chains).tolist()
            row[f"mean_by_{kind}"] = float(np.mean(row[kind]))
        row["share"] = shrunk.tolist()
        rows.append(row)
        print(
            f"{n_pairs} pairs: r by component {row['mean_by_component']:.3f}, by PC {row['mean_by_pc']:.3f}, share "
            f"{np.mean(shrunk):.2f}, {row['seconds_a_thousand_tokens']:.2f} s a thousand tokens",
            flush=True,
        )
    ceilings = {kind: ceiling(measured, weights).tolist() for kind, weights in axes.items()}
    scored = along_scores(store, experiment, model, withheld, axes)
    return {"components": names, "rows": rows, "scores": scored, "ceiling": ceilings}
