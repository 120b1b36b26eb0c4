"""Estimators against a slow loop, closed forms of Gaussian posteriors, and a reweighted posterior."""

import numpy as np
import pytest

import toys
from susc_pipeline.config import ESTIMATORS
from susc_pipeline.sampling import loss_traces
from susc_pipeline.susceptibility import estimators


def random_traces(seed=0, n_chains=4, per_chain=10, n_tokens=7):
    rng = np.random.default_rng(seed)
    n_draws = n_chains * per_chain
    mean_loss = rng.normal(size=n_draws)
    return toys.traces_of(mean_loss, rng.normal(size=(n_draws, n_tokens)) + mean_loss[:, None], n_chains=n_chains)


def gaussian_traces(rng, *, n_chains=8, per_chain=50, n_tokens=6):
    """Quadratic losses over weights w ~ N(0, 1/localization): every moment is known."""
    dimension, localization = 20, 4.0
    g = rng.normal(size=dimension)
    curvature = 0.2 * rng.random(dimension)
    g_tokens = rng.normal(size=(n_tokens, dimension))
    w = rng.normal(size=(n_chains * per_chain, dimension)) / np.sqrt(localization)
    observable = w @ g + 0.5 * (w**2) @ curvature
    gradient = g + curvature * w
    token = w @ g_tokens.T
    direction = (
        np.stack([gradient[c * per_chain : (c + 1) * per_chain].mean(axis=0) for c in range(n_chains)]) / localization
    )
    v = np.repeat(direction, per_chain, axis=0)
    traces = toys.traces_of(
        observable,
        token + observable[:, None],
        n_chains=n_chains,
        score=localization * (v * w).sum(axis=1),
        mean_slope=(v * gradient).sum(axis=1),
        token_slopes=v @ g_tokens.T + (v * gradient).sum(axis=1)[:, None],
    )
    return traces, -(g_tokens @ g) / localization


def test_the_restricted_estimate_equals_a_slow_loop():
    traces = random_traces()
    n_draws, n_tokens = traces.token_losses.shape
    slow = np.zeros(n_tokens)
    for token in range(n_tokens):
        excess = [float(traces.token_losses[d, token]) - traces.mean_loss[d] for d in range(n_draws)]
        for d in range(n_draws):
            slow[token] -= (
                (traces.mean_loss[d] - traces.mean_loss.mean()) * (excess[d] - np.mean(excess)) / (n_draws - 1)
            )
    np.testing.assert_allclose(estimators.restricted(traces).value, slow, atol=1e-6)


def test_order_of_draws_and_constants_change_nothing():
    traces = random_traces()
    order = np.random.default_rng(1).permutation(len(traces.mean_loss))
    shuffled = loss_traces.take(traces, order)
    shifted = traces._replace(token_losses=traces.token_losses + np.float32(2.0), init_loss=5.0)
    whole = random_traces(seed=9)
    whole_shifted = whole._replace(token_losses=whole.token_losses + np.float32(2.0))
    for kind in ESTIMATORS:
        expected = estimators.estimate(traces, kind=kind, all_weights=whole).value
        found = estimators.estimate(shuffled, kind=kind, all_weights=whole).value
        np.testing.assert_allclose(found, expected, atol=1e-6)
        if kind == "two_chain":  # it knows the mean of the observable, which init_loss decides
            shifted = shifted._replace(init_loss=0.0)
        found = estimators.estimate(shifted, kind=kind, all_weights=whole_shifted).value
        np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("kind", ["restricted", "first_order", "stein"])
def test_estimators_find_the_closed_form_of_a_gaussian_posterior(kind):
    rng = np.random.default_rng(2)
    traces, truth = gaussian_traces(rng, per_chain=2000)
    found = estimators.estimate(traces, kind=kind)
    assert np.all(np.abs(found.value - truth) < 5 * found.standard_error + 1e-3)


def test_the_control_variate_removes_most_of_the_error():
    found = {kind: [] for kind in ("restricted", "first_order", "stein")}
    for seed in range(30):
        traces, truth = gaussian_traces(np.random.default_rng(5), n_chains=2, per_chain=2)
        rng = np.random.default_rng(seed)
        traces, truth = gaussian_traces(rng)
        for kind, errors in found.items():
            errors.append(estimators.estimate(traces, kind=kind).value - truth)
    spread = {kind: np.sqrt(np.mean(np.square(errors))) for kind, errors in found.items()}
    assert spread["first_order"] < spread["stein"] < 0.3 * spread["restricted"]


@pytest.mark.parametrize("kind", ["restricted", "bif"])
def test_standard_errors_cover(kind):
    truth_of = {"restricted": 0.0, "bif": -1.0}  # excess is independent of the observable, whose variance is 1
    inside = []
    for seed in range(300):
        traces = random_traces(seed, n_chains=4, per_chain=32, n_tokens=3)
        found = estimators.estimate(traces, kind=kind)
        inside.append(np.abs(found.value - truth_of[kind]) < 1.96 * found.standard_error)
    assert 0.90 < np.mean(inside) < 0.98


def test_two_chain_equals_restricted_when_the_full_chains_are_the_same():
    traces = random_traces()
    n_draws = len(traces.mean_loss)
    found = estimators.two_chain(traces, traces).value
    np.testing.assert_allclose(found, estimators.restricted(traces).value * (n_draws - 1) / n_draws, atol=1e-6)


def test_two_chain_equals_a_slow_loop_and_needs_its_second_chains():
    traces, whole = random_traces(), random_traces(seed=8)
    reference = (whole.token_losses.astype(np.float64) - whole.mean_loss[:, None]).mean(axis=0)
    phi = traces.mean_loss - traces.init_loss
    excess = traces.token_losses.astype(np.float64) - traces.mean_loss[:, None]
    for token in range(excess.shape[1]):
        mixed = sum(phi[d] * excess[d, token] for d in range(len(phi))) / len(phi)
        slow = -(mixed - phi.mean() * reference[token])
        assert estimators.two_chain(traces, whole).value[token] == pytest.approx(slow, abs=1e-9)
    with pytest.raises(ValueError, match="sampling.all_weights = true"):
        estimators.estimate(traces, kind="two_chain")


def test_susceptibility_is_the_derivative_of_the_observable_under_a_reweighted_posterior():
    traces = random_traces(per_chain=4000)
    observable = traces.mean_loss - traces.init_loss
    excess = traces.token_losses.astype(np.float64) - traces.mean_loss[:, None]
    step = 1e-4
    for token in range(3):
        up, down = (np.average(observable, weights=np.exp(-s * step * excess[:, token])) for s in (1, -1))
        n_draws = len(observable)
        derivative = (up - down) / (2 * step) * n_draws / (n_draws - 1)
        assert estimators.restricted(traces).value[token] == pytest.approx(derivative, rel=1e-5, abs=1e-8)


def test_halves_are_estimates_from_disjoint_chains():
    traces = random_traces()
    a, b = estimators.halves(traces, kind="restricted")
    changed = traces._replace(token_losses=np.where((traces.chain == 1)[:, None], 9.0, traces.token_losses))
    a_after, b_after = estimators.halves(changed, kind="restricted")
    np.testing.assert_array_equal(a, a_after)
    assert np.abs(b - b_after).max() > 0
    with pytest.raises(ValueError, match="at least 2 chains"):
        estimators.halves(loss_traces.take(traces, traces.chain == 0), kind="restricted")


def test_unknown_estimators_are_refused():
    with pytest.raises(ValueError, match="estimator must be one of.*'magic'"):
        estimators.estimate(random_traces(), kind="magic")
