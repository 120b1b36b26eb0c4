"""Standard errors: a 95 % interval holds the expected estimate in 92 to 98 % of 200 repetitions with new contexts.

A repetition is eight chains with a population of their own: directions, draws and contexts are all new. Chains are
independent, so many repetitions run as one batch of chains and are cut apart afterwards; two chains of a repetition are
measured along scores of the next one's, which are as independent. What an estimator leaves out is no
matter of its error; test_closed_forms.py measures it. Were v to come from the contexts of the draws, v.grad L would hold the
variance of their noise: these intervals would still cover, around a shifted value.
"""

import functools

import numpy as np
import pytest
import torch
from scipy import stats

import toys
from susc_pipeline import seeds
from susc_pipeline.model import components, families
from susc_pipeline.sampling import loss_traces, token_draws
from susc_pipeline.sampling.observables import Population
from susc_pipeline.sampling.posterior import SamplingSettings
from susc_pipeline.susceptibility import directions, estimators, reliability
from susc_pipeline.susceptibility.directions import DirectionSettings
from susc_pipeline.susceptibility.estimators.terms import BLOCKS_PER_CHAIN

COMPONENTS = ("L1H0", "L0MLP", "unembed", "embed")
N_REPETITIONS, N_CHAINS, AT_ONCE = 200, 8, 20
VOCABULARY, POSITIONS, N_CONTEXTS = 50, 12, 32
SETTINGS = SamplingSettings(
    n_chains=AT_ONCE * N_CHAINS, n_draws=2, n_burn_in=2, step_size=1.0, localization=50.0, evaluation_batch_size=640
)
N_CLUSTERS = 4


def population(rng, n_chains):
    """Texts of a Markov chain in which every token has few successors, so that no mean loss is symmetric in the tokens."""
    successors = np.random.default_rng(7).dirichlet(np.full(VOCABULARY, 0.1), size=VOCABULARY).cumsum(axis=1)
    ids = rng.integers(0, VOCABULARY, size=(n_chains * N_CONTEXTS, 1))
    for _ in range(POSITIONS - 1):
        level = rng.random((len(ids), 1))
        following = (successors[ids[:, -1]] < level).sum(axis=1, keepdims=True).clip(max=VOCABULARY - 1)
        ids = np.concatenate([ids, following], axis=1)
    return Population(tuple(ids.reshape(n_chains, N_CONTEXTS, POSITIONS)))


@functools.cache
def repetitions(name):
    """Traces of each repetition of a component."""
    model = families.from_module(toys.toy_module())
    component, measured = components.by_name(model, name), population(np.random.default_rng(0), 1).parts[0][:4]
    found = []
    for first in range(0, N_REPETITIONS, AT_ONCE):
        rng = np.random.default_rng((5, first))
        of_directions, of_draws = (population(rng, SETTINGS.n_chains) for _ in range(2))
        rest = torch.stack([at_rest(first, chain, of_directions)[name] for chain in range(SETTINGS.n_chains)])
        slopes = directions.probe_slopes(model, measured[:1], {component: rest / SETTINGS.localization})[0]
        seed = seeds.sequence(first, "coverage", "rise", name)
        least = DirectionSettings(max_contexts=1)
        risen = directions.rise(model, component, SETTINGS, least, of_directions, measured[:1], slopes, seed)
        direction = (rest + risen.gradient) / SETTINGS.localization
        seed = seeds.sequence(first, "coverage", name)
        kinds = {"direction": direction, "own_slopes": True, "responses": True}
        traces = token_draws.sample(model, component, SETTINGS, measured, of_draws, seed, **kinds)
        found += [loss_traces.take(traces, traces.chain // N_CHAINS == number) for number in range(AT_ONCE)]
    return found


AT_REST = {}


def at_rest(first, chain, of_directions):
    """Gradients at w* of a chain's contexts, which are the same for all components."""
    if (first, chain) not in AT_REST:
        model = families.from_module(toys.toy_module())
        found = directions.at_rest(model, of_directions, chain).gradient
        AT_REST[first, chain] = {name: found[name] for name in COMPONENTS}
    return AT_REST[first, chain]


def averaged(traces):
    """The traces with clusters in place of tokens: estimates are linear in the tokens, so they average to the cluster's."""
    wide = {
        name: np.stack(
            [getattr(traces, name)[:, first::N_CLUSTERS].mean(axis=1) for first in range(N_CLUSTERS)], axis=1
        )
        for name in loss_traces.WIDE
    }
    return traces._replace(**wide)


def share_covered(found, degrees_of_freedom):
    """Share of values within Student's t times their errors of the mean of the other repetitions.

    That mean is the truth, but for an error 1 / sqrt(200) as large as that of one.
    """
    values, errors = (np.stack(part) for part in zip(*found, strict=True))
    truth = (values.sum(axis=0) - values) / (len(values) - 1)
    return float(np.mean(np.abs(values - truth) < stats.t.ppf(0.975, degrees_of_freedom) * errors))


def degrees_of_freedom(kind):
    n_blocks = min(BLOCKS_PER_CHAIN, SETTINGS.n_draws)
    return (N_CHAINS if kind in ("gauss_newton", "first_order", "second_order", "stein") else N_CHAINS * n_blocks) - 1


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["gauss_newton", "second_order", "first_order", "restricted"])
@pytest.mark.parametrize("name", COMPONENTS)
def test_intervals_of_tokens_cover_the_populations_value(name, kind):
    found = [estimators.estimate(traces, kind=kind) for traces in repetitions(name)]
    assert 0.92 <= share_covered(found, degrees_of_freedom(kind)) <= 0.98


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["gauss_newton", "second_order", "first_order", "restricted"])
@pytest.mark.parametrize("name", COMPONENTS)
def test_intervals_of_a_clusters_mean_cover_when_its_tokens_are_averaged_in_each_chain(name, kind):
    found = [estimators.estimate(averaged(traces), kind=kind) for traces in repetitions(name)]
    assert (
        0.92 <= share_covered(found, degrees_of_freedom(kind)) <= 0.985
    )  # few clusters: the share itself has an error


@pytest.mark.slow
def test_errors_of_tokens_do_not_add_up_to_that_of_their_mean():
    """Tokens share draws: as if they were independent, the interval of a cluster's mean would be too narrow."""
    found = []
    for traces in repetitions("L0MLP"):
        value, _ = estimators.estimate(averaged(traces), kind="restricted")
        _, errors = estimators.estimate(traces, kind="restricted")
        parts = [errors[first::N_CLUSTERS] for first in range(N_CLUSTERS)]
        found.append((value, np.array([np.sqrt(np.sum(part**2)) / len(part) for part in parts])))
    assert share_covered(found, degrees_of_freedom("restricted")) < 0.91


def replicates(rng, *, rank, noise_share, true_reliability, n_replicates=N_CHAINS, n_tokens=200):
    """Measurements with a common signal and noise of the given rank over tokens, the rest of it independent.

    Args:
        rng: of signal, features and noise.
        rank: of the noise that moves many tokens at once.
        noise_share: share of the noise's variance that is independent from token to token.
        true_reliability: of the mean of all replicates, on these tokens.
        n_replicates: independent measurements.
        n_tokens: measured.
    """
    signal, features = rng.normal(size=n_tokens), rng.normal(size=(rank, n_tokens))
    signal -= signal.mean()
    features -= features.mean(axis=1, keepdims=True)
    variance = n_replicates * np.square(signal).mean() * (1 - true_reliability) / true_reliability
    features *= np.sqrt((1 - noise_share) * variance / np.square(features).sum(axis=0).mean())
    own = np.sqrt(noise_share * variance / (1 - 1 / n_tokens))  # centring takes 1 / n_tokens of it away
    shared = rng.normal(size=(n_replicates, rank)) @ features
    return signal + shared + own * rng.normal(size=(n_replicates, n_tokens))


@pytest.mark.parametrize("true_reliability", [0.6, 0.9, 0.97])
@pytest.mark.parametrize(("rank", "noise_share"), [(1, 0.0), (3, 0.3), (20, 0.3), (1, 1.0)])
def test_intervals_of_a_reliability_cover_whatever_the_rank_of_the_noise(rank, noise_share, true_reliability):
    rng = np.random.default_rng((rank, round(100 * true_reliability)))
    inside = []
    for _ in range(400):
        drawn = replicates(rng, rank=rank, noise_share=noise_share, true_reliability=true_reliability)
        found = reliability.of_replicates_interval(drawn)
        assert found.value == pytest.approx(reliability.of_replicates(drawn))
        inside.append(found.low < true_reliability < found.high)
    assert 0.92 <= np.mean(inside) <= 0.99


def test_on_its_own_scale_the_jackknife_of_a_reliability_would_cover_too_seldom():
    """The power of the test above."""
    rng, inside = np.random.default_rng(0), []
    for _ in range(400):
        drawn = replicates(rng, rank=1, noise_share=0.0, true_reliability=0.9)
        without = np.array([reliability.of_replicates(np.delete(drawn, one, axis=0)) for one in range(N_CHAINS)])
        of_all = reliability.spearman_brown(without, factor=N_CHAINS / (N_CHAINS - 1))
        width = stats.t.ppf(0.975, N_CHAINS - 1) * np.sqrt((N_CHAINS - 1) * of_all.var())
        inside.append(abs(reliability.of_replicates(drawn) - 0.9) < width)
    assert np.mean(inside) < 0.9


def test_an_interval_of_a_reliability_does_not_depend_on_scale_shift_or_order_of_chains():
    rng = np.random.default_rng(1)
    drawn = replicates(rng, rank=3, noise_share=0.3, true_reliability=0.8)
    changed = 1e-6 * (drawn[::-1] + rng.normal(size=(N_CHAINS, 1)))
    expected = reliability.of_replicates_interval(drawn)
    assert expected.low < expected.value < expected.high < 1
    np.testing.assert_allclose(reliability.of_replicates_interval(changed), expected, rtol=1e-9)


def test_the_ends_of_what_a_reliability_can_be():
    signal = np.random.default_rng(2).normal(size=50)
    np.testing.assert_allclose(reliability.of_replicates_interval(np.tile(signal, (4, 1))), 1.0)
    noise = reliability.of_replicates_interval(np.random.default_rng(3).normal(size=(8, 500)))
    assert noise.low < 0 < noise.high
    with pytest.raises(ValueError, match="at least 3 replicates, got 2; raise sampling.n_chains"):
        reliability.of_replicates_interval(np.ones((2, 5)))
