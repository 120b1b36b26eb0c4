"""second_order beside the plain covariance, on eight fixed contexts, where phi is exact: correlation and scale without noise.

Chains and mirror images give both estimates at once. A chain shares no draw with another, so that
    r = cov(S_i, R_j) / sqrt(cov(S_i, S_j) cov(R_i, R_j)),   scale = cov(S_i, S_j) / cov(S_i, R_j),   i != j,
hold no noise (Spearman 1904). The scale is the factor of second_order over what the covariance has along it. Beside the
sample covariance (`restricted`) stands `stein`: the same covariance with a control variate of mean zero, which is exact for
any posterior. The sample covariance of an MLP's 768 draws has reliability .02, so the figure is by the less noisy of the two.
"""

import time
from dataclasses import replace

import numpy as np
import torch

from benchmarks import replicates
from susc_pipeline import seeds
from susc_pipeline.model import components
from susc_pipeline.model.components import Component
from susc_pipeline.model.decoder import Decoder
from susc_pipeline.sampling import token_draws
from susc_pipeline.sampling.loss_traces import LossTraces
from susc_pipeline.sampling.observables import Population
from susc_pipeline.sampling.posterior import SamplingSettings
from susc_pipeline.susceptibility import directions, estimators
from susc_pipeline.susceptibility.directions import DirectionSettings

NAMES = ("L1H2", "L2MLP", "unembed")
N_FIXED = 8
SETTINGS = SamplingSettings(
    step_size=2.0, n_chains=16, n_draws=40, batch_size=N_FIXED, n_reference_contexts=N_FIXED, n_burn_in=3
)
N_DIRECTION_STEPS = 8
KINDS = ("restricted", "stein")


def fixed(contexts: np.ndarray, n_chains: int) -> Population:
    """The same contexts for every chain, twice: one turn for the gradient, one for the reference."""
    return Population((np.concatenate([contexts, contexts]).astype(np.int32),) * n_chains)


def sampled(
    model: Decoder, component: Component, settings: SamplingSettings, contexts: np.ndarray, shard: np.ndarray
) -> LossTraces:
    """Traces of chains that know no other contexts than these; directions are those of other draws."""
    everything, once = fixed(contexts, settings.n_chains), Population((contexts.astype(np.int32),))
    rest = directions.at_rest(model, once, 0).gradient[component.name]
    budget = settings.n_chains * N_FIXED * N_DIRECTION_STEPS
    wanted = DirectionSettings(reliability=1 - 1e-9, max_contexts=budget)
    slopes = directions.probe_slopes(model, shard[:2], {component: rest[None] / settings.localization})[0]
    slopes = np.repeat(slopes, settings.n_chains, axis=0)
    names = ("truth", "covariance", component.name)
    rise = directions.rise(
        model, component, settings, wanted, everything, shard[:2], slopes, seeds.sequence(0, *names, "v")
    )
    mean_gradient = rest + rise.gradient
    (direction,) = directions.divided(model, component, settings, wanted, everything, mean_gradient)
    seed = seeds.sequence(0, *names, "draws")
    return token_draws.sample(model, component, settings, shard, everything, seed, direction=direction, own_slopes=True)


def compare(traces: LossTraces, kind: str) -> dict[str, float]:
    """Correlation of second_order with another estimate and its scale, both without noise, with errors over chains."""
    found = {name: estimators.by_chain(traces, kind=name)[:, :, None] for name in ("second_order", kind)}

    def moments(kept: np.ndarray) -> tuple[float, float, float]:
        ours, other = found["second_order"][kept], found[kind][kept]
        pairs = ((ours, ours), (ours, other), (other, other))
        return tuple(float(replicates.products(*pair).signal[0]) for pair in pairs)

    def correlation(kept: np.ndarray) -> float:
        of_ours, crossed, of_other = moments(kept)
        return crossed / np.sqrt(of_ours * of_other) if of_ours > 0 and of_other > 0 else float("nan")

    def scale(kept: np.ndarray) -> float:
        of_ours, crossed, _ = moments(kept)
        return of_ours / crossed

    n_chains = len(np.unique(traces.chain))
    own = replicates.products(found[kind], found[kind])
    r, factor = replicates.jackknife(correlation, n_chains), replicates.jackknife(scale, n_chains)
    return {
        "r": r.value,
        "r_error": r.error,
        "scale": factor.value,
        "scale_error": factor.error,
        "reliability_of_the_other": float(own.signal[0] / own.of_mean(n_chains)[0]),
    }


def measure(
    model: Decoder, contexts: np.ndarray, shard: np.ndarray, *, n_draws: int, names: tuple[str, ...] = NAMES
) -> list[dict]:
    """A row for each component."""
    rows = []
    for name in names:
        started = time.perf_counter()
        settings = replace(SETTINGS, n_draws=n_draws)
        traces = sampled(model, components.by_name(model, name), settings, contexts[:N_FIXED], shard)
        row = {"component": name, "draws": len(traces.chain), "tokens": traces.token_losses.shape[1]}
        row |= {kind: compare(traces, kind) for kind in KINDS}
        row["used"] = min(KINDS, key=lambda kind: np.nan_to_num(row[kind]["r_error"], nan=np.inf))
        row |= {"seconds": time.perf_counter() - started, "threads": torch.get_num_threads()}
        rows.append(row)
        print(f"{name:8s} {row['draws']} draws, {row['seconds']:.0f} s; used {row['used']}", flush=True)
        for kind in KINDS:
            part = row[kind]
            print(
                f"  {kind:10s} r {part['r']:.3f} +- {part['r_error']:.3f}, scale {part['scale']:.3f} +- "
                f"{part['scale_error']:.3f}, reliability {part['reliability_of_the_other']:.2f}",
                flush=True,
            )
    return rows
