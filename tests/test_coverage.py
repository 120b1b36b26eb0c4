"""Standard errors on a small transformer: over 200 repetitions a 95 % interval covers 92 to 98 %."""

import numpy as np
import pytest
from scipy import stats

import toys
from susc_pipeline import seeds
from susc_pipeline.config import SamplingSettings
from susc_pipeline.model import components, gpt_neox
from susc_pipeline.sampling import chains
from susc_pipeline.susceptibility import estimators

N_REPETITIONS = 200
SETTINGS = SamplingSettings(
    n_chains=8, n_draws=32, n_burn_in=3, n_steps_between_draws=1, step_size=1.5, batch_size=2, localization=50.0
)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["L1H0", "L0MLP", "unembed"])
def test_intervals_cover_the_mean_of_all_repetitions(name):
    model = gpt_neox.GPTNeoX.from_module(toys.toy_module())
    parts = {role: toys.toy_tokens(n, seed=n) for role, n in (("shard", 4), ("observable", 3), ("minibatch", 8))}
    contexts = chains.sampling_contexts(model, **parts)
    component = components.by_name(model, name)
    found = {kind: [] for kind in ("restricted", "first_order", "stein", "bif")}
    for repetition in range(N_REPETITIONS):
        traces = chains.sample(model, component, SETTINGS, contexts, seeds.sequence(repetition, "coverage", name))
        for kind, estimates in found.items():
            estimates.append(estimators.estimate(traces, kind=kind))
    for kind, estimates in found.items():
        values, errors = (np.stack(part) for part in zip(*estimates, strict=True))
        blocks = SETTINGS.n_chains * (1 if kind in ("first_order", "stein") else estimators.BLOCKS_PER_CHAIN)
        width = stats.t.ppf(0.975, blocks - 1) * errors
        # The mean of the other repetitions is the truth, but for an error 1/sqrt(200) as large as that of one.
        truth = (values.sum(axis=0) - values) / (N_REPETITIONS - 1)
        share = float(np.mean(np.abs(values - truth) < width))
        assert 0.92 <= share <= 0.98, (kind, share)
