"""Time until a component's susceptibilities have reliability 0.9, beside the reference library (devinterp 2.0.1).

Both estimate the same number, the population's covariance, of the tokens of sixteen contexts, from nothing:

- ours: gradients at w* (a 22nd part of one pass over the population that serves all 22 components), response directions and
  one pair of draws for each of eight chains, as `tiny` has them. Half the chains against the other half.
- devinterp: its published kind of setting (RMSprop-SGLD of step 1e-5, n_beta and localization as ours, 160 steps of burn-in and
  between draws), phi of 96 population contexts. Its sampler evaluates a fixed set, so every chain gets a set of its own, and
  minibatches of its own: no two chains share a context.

With r the correlation of two independent halves that cost t / 2 each, R = 2 r / (1 + r) is the reliability of the whole, and

    time to 0.9 = t * (0.9 / 0.1) / (R / (1 - R))                                                   (Spearman-Brown).

Where devinterp's chains do not correlate, r is bounded: mean correlation of two chains plus Student's t times its jackknife
error over chains. Sharper is R = (correlation of its estimate with ours)^2 / our reliability, for the errors are independent and
the truth is the same (Spearman 1904); the headline takes this R, and where it is less than its error, the upper end of R.
"""

import statistics
import time

import numpy as np
import torch
from scipy import stats

from benchmarks import replicates
from susc_pipeline import seeds
from susc_pipeline.config import ExperimentConfig
from susc_pipeline.model import components
from susc_pipeline.model.decoder import Decoder
from susc_pipeline.sampling import token_draws
from susc_pipeline.sampling.observables import Population
from susc_pipeline.sampling.posterior import SamplingSettings
from susc_pipeline.susceptibility import direction_task, estimators
from susc_pipeline.susceptibility.direction_task import DirectionTask, Rest
from susc_pipeline.susceptibility.directions import RestGradients

NAMES = ("L1H2", "L2MLP", "unembed")
WANTED = 0.9
N_MEASURED, N_PROBE = 16, 16
N_OBSERVABLE, N_MINIBATCH = 96, 160
PEER_CHAINS = 3
NO_PROBE = np.zeros((0, 2), np.int64)
PUBLISHED = SamplingSettings(
    sampler="rmsprop_sgld_devinterp",
    step_size=1e-5,
    n_chains=4,
    n_draws=4,
    n_burn_in=160,
    n_steps_between_draws=160,
    batch_size=8,
)


def time_to(reliability: float, seconds: float) -> float:
    """Seconds until the reliability wanted, where the noise falls as one over time."""
    kept = min(max(reliability, np.finfo(float).tiny), 1 - np.finfo(float).eps)
    return seconds * WANTED / (1 - WANTED) * (1 - kept) / kept


def whole_of_half(correlation: float) -> float:
    """Reliability of both halves together."""
    return 2 * correlation / (1 + correlation)


def at_rest(model: Decoder, experiment: ExperimentConfig, population: Population) -> tuple[list[RestGradients], float]:
    """Gradients at w* of each chain's documents, by all components, and a component's share of the seconds."""
    started, every = time.perf_counter(), components.enumerate_components(model)
    task = DirectionTask(
        model, "cpu", experiment.sampling, experiment.directions, population, NO_PROBE, experiment.seed, every
    )
    find = direction_task.rest_finder(task)
    found = [find(chain, None)[0] for chain in range(experiment.sampling.n_chains)]
    return found, (time.perf_counter() - started) / len(every)


def ours(
    model: Decoder,
    experiment: ExperimentConfig,
    name: str,
    rests: list[RestGradients],
    parts: tuple[Population, Population],
    shard: np.ndarray,
) -> tuple[np.ndarray, float]:
    """gauss_newton of each chain (chains, tokens), and the seconds that it took but for the gradients at w*."""
    on_directions, on_draws = parts
    component, settings = components.by_name(model, name), experiment.sampling
    probe = np.concatenate([part[:2] for part in on_draws.parts])[:N_PROBE]
    task = DirectionTask(
        model, "cpu", settings, experiment.directions, on_directions, probe, experiment.seed, [component]
    )
    gradients = torch.stack([each.gradient[name] for each in rests]).numpy()
    rest = Rest(gradients, np.zeros((0, 0), np.float32), sum(each.n_contexts for each in rests))
    started = time.perf_counter()
    along, _ = direction_task.finder(task)(component, rest)
    seed = seeds.sequence(experiment.seed, "truth", name)
    traces = token_draws.sample(
        model, component, settings, shard, on_draws, seed, direction=along.directions, slopes=False, responses=True
    )
    found = estimators.by_chain(traces, kind="gauss_newton")
    return found, time.perf_counter() - started


def theirs(module, name: str, model: Decoder, parts: Population, shard: np.ndarray) -> tuple[np.ndarray, float]:
    """The sample covariance of each of its chains (chains, tokens), and the seconds that it took."""
    from benchmarks import peer  # only here: everything else works without the reference library

    component, rows = components.by_name(model, name), []
    settings = PUBLISHED
    started = time.perf_counter()
    for chain, part in enumerate(parts.parts[:PEER_CHAINS]):
        data = peer.Tokens(shard, part[:N_OBSERVABLE], part[N_OBSERVABLE : N_OBSERVABLE + N_MINIBATCH])
        stored = peer.run(module, component, data, settings, seed=100 + chain, n_chains=1)
        losses = stored.shard[0].reshape(settings.n_draws, len(shard), -1).astype(np.float64)
        losses = losses[:, _places(stored.shard_ids, shard)].reshape(settings.n_draws, -1)
        phi = stored.observable[0].reshape(settings.n_draws, -1).astype(np.float64).mean(axis=1)
        centred = phi - phi.mean()
        rows.append(-(centred @ (losses - phi[:, None])) / (len(phi) - 1))
    return np.stack(rows), time.perf_counter() - started


def _places(stored: np.ndarray, original: np.ndarray) -> list[int]:
    """Where each of our contexts stands among those that the reference shuffled."""
    found = {row.tobytes(): number for number, row in enumerate(np.ascontiguousarray(stored, np.int64))}
    return [found[row.tobytes()] for row in np.ascontiguousarray(original, np.int64)]


def of_peer(theirs: np.ndarray, ours: np.ndarray, reliability: float) -> dict[str, float]:
    """Reliability of all its chains: by their correlation with ours, and its bound; by their own, and its bound."""
    n_chains = len(theirs)
    truth = ours.mean(axis=0)

    def squared(kept: np.ndarray) -> float:
        r = np.corrcoef(theirs[kept].mean(axis=0), truth)[0, 1]
        one = max(r, 0.0) ** 2 / reliability
        return one * n_chains / (len(kept) + (n_chains - len(kept)) * one)  # of all, from those that are kept

    def alone(kept: np.ndarray) -> float:
        found = replicates.products(theirs[kept][:, :, None], theirs[kept][:, :, None])
        return float(found.signal[0] / (found.signal[0] + found.noise[0]))

    student = stats.t.ppf(0.975, n_chains - 1)
    crossed, own = replicates.jackknife(squared, n_chains), replicates.jackknife(alone, n_chains)
    bound = min(1.0, own.value + student * own.error)
    return {
        "by_ours": crossed.value,
        "by_ours_bound": min(1.0, crossed.value + student * crossed.error),
        "by_ours_error": crossed.error,
        "correlation_of_two_chains": own.value,
        "by_chains_bound": n_chains * bound / (1 + (n_chains - 1) * bound),
    }


def measure(module, model: Decoder, experiment: ExperimentConfig, parts: tuple[Population, Population], shard) -> list:
    """A row for each component."""
    rows, measured = [], np.asarray(shard[:N_MEASURED])
    rests, resting = at_rest(model, experiment, parts[0])
    for name in NAMES:
        found, seconds = ours(model, experiment, name, rests, parts, measured)
        seconds += resting
        half = float(np.corrcoef(found[::2].mean(axis=0), found[1::2].mean(axis=0))[0, 1])
        reliability = whole_of_half(half)
        row = {"component": name, "ours": {"half_correlation": half, "reliability": reliability, "seconds": seconds}}
        row["ours"]["seconds_to_reliability"] = time_to(reliability, seconds)
        chains_of_peer, peer_seconds = theirs(module, name, model, parts[0], measured)
        peer_row = of_peer(chains_of_peer, found, reliability) | {"seconds": peer_seconds}
        is_found = peer_row["by_ours"] > peer_row["by_ours_error"]
        used = peer_row["by_ours"] if is_found else peer_row["by_ours_bound"]
        peer_row |= {"is_bound": not is_found, "seconds_to_reliability": time_to(used, peer_seconds)}
        peer_row["seconds_by_chains_bound"] = time_to(peer_row["by_chains_bound"], peer_seconds)
        row["devinterp"] = peer_row
        base = row["ours"]["seconds_to_reliability"]
        row |= {"speedup": peer_row["seconds_to_reliability"] / base}
        row |= {"speedup_by_chains_bound": peer_row["seconds_by_chains_bound"] / base}
        rows.append(row)
        print(
            f"{name:8s} ours {seconds:.0f} s, reliability {reliability:.3f}, {base:.0f} s to {WANTED:g} | devinterp "
            f"{peer_seconds:.0f} s, reliability {used:.2g}{' (a bound)' if not is_found else ''}, "
            f"{peer_row['seconds_to_reliability']:.2g} s to {WANTED:g} | {row['speedup']:,.0f} times, at least "
            f"{row['speedup_by_chains_bound']:,.0f} by its chains alone",
            flush=True,
        )
    return rows


def median(rows: list[dict]) -> float:
    """Of the components."""
    return statistics.median(row["speedup"] for row in rows)
