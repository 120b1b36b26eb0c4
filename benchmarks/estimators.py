"""Split-half reliability of each estimator on the same draws of the embedded model, component by component.

`make bench` prints one line for each component: the correlation across tokens between the estimates from two disjoint
halves of the chains, the spread over tokens, and the mean standard error. `--bias` compares what first_order and the
covariance estimate, from long chains (a quarter of an hour).
"""

import sys
import time
from dataclasses import replace

import numpy as np
import standard_library

from susc_pipeline import seeds
from susc_pipeline.config import SamplingSettings, TokenSettings
from susc_pipeline.model import components, pretrained
from susc_pipeline.sampling import chains
from susc_pipeline.susceptibility import estimators

NAMES = ("L0H0", "L1H2", "L3H1", "L2MLP", "embed", "unembed")
SETTINGS = SamplingSettings(n_chains=8, n_draws=4, n_steps_between_draws=1, step_size=2.0, n_burn_in=2, batch_size=4)


def bias(model, contexts, name: str) -> str:
    """How far first_order and the sample covariance agree once the sampling noise of both is taken off.

    Halves a and b of a long chain are independent, so covariances over tokens between them hold no noise: the
    correlation of the two estimands is cov(first_a, restricted_b) / sqrt(cov(first_a, first_b) cov(restricted_a,
    restricted_b)), and the ratio of the last two is the share of the variance that first_order holds.
    """
    started = time.perf_counter()
    settings = replace(SETTINGS, n_draws=128, step_size=1.0)
    traces = chains.sample(model, components.by_name(model, name), settings, contexts, seeds.sequence(1, "bias", name))
    first, plain = (estimators.halves(traces, kind=kind) for kind in ("first_order", "restricted"))
    crossed = (np.cov(first[0], plain[1])[0, 1] + np.cov(first[1], plain[0])[0, 1]) / 2
    of_first, of_plain = np.cov(*first)[0, 1], np.cov(*plain)[0, 1]
    return (
        f"{name:8s} {time.perf_counter() - started:5.0f} s | {len(traces.mean_loss)} draws | correlation of the estimands "
        f"{crossed / np.sqrt(of_first * of_plain):.2f} | variance of first_order / of the covariance "
        f"{of_first / of_plain:.2f} | half correlation of the covariance {np.corrcoef(*plain)[0, 1]:.2f}"
    )


def main() -> None:
    """Sample each component once and compare the estimators."""
    model, tokenizer = pretrained.load(pretrained.EMBEDDED)
    contexts = standard_library.sampling_contexts(model, tokenizer, TokenSettings())
    if "--bias" in sys.argv:
        for name in ("L3H1", "unembed", "L2MLP", "L1H2"):
            print(bias(model, contexts, name), flush=True)
        return
    for name in NAMES:
        started = time.perf_counter()
        seed = seeds.sequence(1, "benchmark", name)
        traces = chains.sample(model, components.by_name(model, name), SETTINGS, contexts, seed)
        line = f"{name:8s} {time.perf_counter() - started:5.1f} s"
        for kind in ("restricted", "stein", "first_order"):
            a, b = estimators.halves(traces, kind=kind)
            found = estimators.estimate(traces, kind=kind)
            spread, error = found.value.std(), found.standard_error.mean()
            line += f" | {kind} r {np.corrcoef(a, b)[0, 1]:.2f} spread {spread:.1e} error {error:.1e}"
        print(line, flush=True)


if __name__ == "__main__":
    main()
