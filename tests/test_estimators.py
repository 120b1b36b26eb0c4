"""Estimators against slow loops, closed forms of Gaussian posteriors, and a reweighted posterior."""

import numpy as np
import pytest

import toys
from susc_pipeline.sampling import loss_traces
from susc_pipeline.susceptibility import estimators
from susc_pipeline.susceptibility.estimators import influence, restricted, two_chain
from susc_pipeline.susceptibility.estimators.terms import BLOCKS_PER_CHAIN

GAUSSIAN_KINDS = ("restricted", "first_order", "second_order", "gauss_newton", "stein")


def random_traces(seed=0, n_chains=4, per_chain=10, n_tokens=7, context_noise=0.0):
    """Unrelated numbers in every column; phi is measured twice, with independent noise of the contexts."""
    rng = np.random.default_rng(seed)
    n_draws = n_chains * per_chain
    phi, rest = rng.normal(size=n_draws), rng.normal(size=n_draws)
    of_batch, of_reference = phi + context_noise * rng.normal(size=(2, n_draws))
    scalars = ("score", "mean_slope", "mean_own_slope", "mean_response")
    return toys.traces_of(
        of_batch + rest,
        rng.normal(size=(n_draws, n_tokens)) + phi[:, None],
        n_chains=n_chains,
        rest_loss=rest,
        reference_rise=of_reference,
        token_slopes=rng.normal(size=(n_draws, n_tokens)),
        own_slopes=rng.normal(size=(n_draws, n_tokens)),
        responses=rng.normal(size=(n_draws, n_tokens)),
        **{name: rng.normal(size=n_draws) for name in scalars},
    )


def gaussian_traces(rng, *, n_chains=8, per_chain=50, n_tokens=6):
    """Mirrored pairs of draws w ~ N(0, 1/localization), quadratic phi, linear excess losses: every moment is known."""
    dimension, localization = 20, 4.0
    g, curvature = rng.normal(size=dimension), 0.2 * rng.random(dimension)
    of_tokens = rng.normal(size=(n_tokens, dimension))
    half = rng.normal(size=(n_chains, 1, per_chain // 2, dimension)) / np.sqrt(localization)
    w = np.concatenate([half, -half], axis=1)
    gradient = g + curvature * w
    v = np.broadcast_to(gradient.mean(axis=(1, 2), keepdims=True) / localization, w.shape)
    own = (gradient - gradient[:, ::-1]) / (2 * localization)
    w, gradient, v, own = (array.reshape(-1, dimension) for array in (w, gradient, v, own))
    phi = w @ g + 0.5 * (w**2) @ curvature
    mean_slope, mean_own_slope = ((along * gradient).sum(axis=1) for along in (v, own))
    traces = toys.traces_of(
        phi,
        w @ of_tokens.T + phi[:, None],
        n_chains=n_chains,
        score=localization * (v * w).sum(axis=1),
        mean_slope=mean_slope,
        mean_own_slope=mean_own_slope,
        token_slopes=v @ of_tokens.T + mean_slope[:, None],
        own_slopes=own @ of_tokens.T + mean_own_slope[:, None],
        mean_response=mean_slope,
        responses=v @ of_tokens.T + mean_slope[:, None],  # linear excess losses have no curvature but phi's
    )
    draw, mirror = traces.draw % (per_chain // 2), traces.draw // (per_chain // 2)
    return traces._replace(draw=draw, mirror=mirror), -(of_tokens @ g) / localization


def slow_covariance(first, second):
    pairs = zip(first - np.mean(first), second - np.mean(second), strict=True)
    return sum(a * b for a, b in pairs) / (len(first) - 1)


def test_restricted_equals_a_slow_loop():
    traces = random_traces(context_noise=0.3)
    phi = traces.mean_loss - traces.rest_loss
    for token, found in enumerate(restricted.estimate(traces).value):
        of_token = slow_covariance((phi + traces.reference_rise) / 2, traces.token_losses[:, token].astype(np.float64))
        assert found == pytest.approx(slow_covariance(phi, traces.reference_rise) - of_token, abs=1e-9)


def test_first_order_and_second_order_equal_a_slow_loop():
    traces = random_traces()
    n_draws, n_tokens = traces.token_losses.shape
    for token in range(n_tokens):
        first = sum(traces.token_slopes[d, token] - traces.mean_slope[d] for d in range(n_draws)) / n_draws
        second = sum(traces.own_slopes[d, token] - traces.mean_own_slope[d] for d in range(n_draws)) / n_draws
        assert estimators.estimate(traces, kind="first_order").value[token] == pytest.approx(-first)
        assert estimators.estimate(traces, kind="second_order").value[token] == pytest.approx(-first - second / 2)


def test_stein_is_first_order_and_restricted_of_what_is_left():
    traces = random_traces()
    left = traces._replace(
        mean_loss=traces.mean_loss - traces.score, reference_rise=traces.mean_loss - traces.rest_loss - traces.score
    )
    of_mean = traces.reference_rise
    for token, found in enumerate(estimators.estimate(traces, kind="stein").value):
        excess = traces.token_losses[:, token].astype(np.float64) - of_mean
        slope = traces.token_slopes[:, token].mean() - traces.mean_slope.mean()
        assert found == pytest.approx(-slope - slow_covariance(left.mean_loss - left.rest_loss, excess), abs=1e-9)


def test_influence_is_restricted_without_the_mean():
    traces = random_traces()
    phi = traces.mean_loss - traces.rest_loss
    difference = restricted.estimate(traces).value - influence.estimate(traces).value
    np.testing.assert_allclose(difference, slow_covariance(phi, traces.reference_rise), atol=1e-9)


@pytest.mark.parametrize("kind", estimators.ESTIMATORS)
def test_order_of_draws_and_constants_change_nothing(kind):
    traces, whole = random_traces(), random_traces(seed=9)
    shuffled = loss_traces.take(traces, np.random.default_rng(1).permutation(len(traces.mean_loss)))
    louder, whole_louder = (
        t._replace(token_losses=t.token_losses + np.float32(2), mean_loss=t.mean_loss + 5, rest_loss=t.rest_loss + 5)
        for t in (traces, whole)
    )
    expected = estimators.estimate(traces, kind=kind, all_weights=whole)
    for changed, reference in ((shuffled, whole), (louder, whole_louder)):
        found = estimators.estimate(changed, kind=kind, all_weights=reference)
        np.testing.assert_allclose(found.value, expected.value, atol=1e-6)
        np.testing.assert_allclose(found.standard_error, expected.standard_error, atol=1e-6)


@pytest.mark.parametrize("kind", GAUSSIAN_KINDS)
def test_estimators_find_the_closed_form_of_a_gaussian_posterior(kind):
    traces, truth = gaussian_traces(np.random.default_rng(2), per_chain=2000)
    found = estimators.estimate(traces, kind=kind)
    assert np.all(np.abs(found.value - truth) < 5 * found.standard_error + 1e-3)


def test_the_control_variate_removes_most_of_the_error():
    found = {kind: [] for kind in GAUSSIAN_KINDS}
    for seed in range(30):
        traces, truth = gaussian_traces(np.random.default_rng(seed))
        for kind, errors in found.items():
            errors.append(estimators.estimate(traces, kind=kind).value - truth)
    spread = {kind: np.sqrt(np.mean(np.square(errors))) for kind, errors in found.items()}
    assert spread["first_order"] < spread["stein"] < 0.3 * spread["restricted"]


def test_what_is_linear_in_the_weights_adds_no_noise_to_second_order():
    traces, truth = gaussian_traces(np.random.default_rng(3), per_chain=2)
    np.testing.assert_allclose(estimators.estimate(traces, kind="second_order").value, truth, rtol=1e-12)
    one_of_each_pair = loss_traces.take(traces, traces.mirror == 0)
    unpaired = estimators.estimate(one_of_each_pair, kind="second_order").value
    assert np.abs(unpaired - truth).max() > 0.01  # the power: without mirror images the same formula is noisy


def test_noise_of_contexts_adds_no_bias_to_restricted():
    """One phi for both factors would add the variance of its noise, 0.25, to every token."""
    values = []
    for seed in range(60):
        traces = random_traces(seed, per_chain=200, context_noise=0.5)
        values.append(restricted.estimate(traces).value.mean())
    # Independent excess losses: the truth is zero.
    assert abs(np.mean(values)) < 4 * np.std(values) / np.sqrt(len(values))
    assert 8 * np.std(values) / np.sqrt(len(values)) < 0.25


@pytest.mark.parametrize("kind", ["restricted", "influence"])
def test_standard_errors_cover(kind):
    truth_of = {"restricted": 0.0, "influence": -1.0}  # excess is independent of the observable, whose variance is 1
    inside = []
    for seed in range(300):
        found = estimators.estimate(random_traces(seed, n_chains=4, per_chain=32, n_tokens=3), kind=kind)
        inside.append(np.abs(found.value - truth_of[kind]) < 1.96 * found.standard_error)
    assert 0.90 < np.mean(inside) < 0.98


def test_two_chain_equals_restricted_when_the_full_chains_are_the_same():
    traces = random_traces()
    n_draws = len(traces.mean_loss)
    found = two_chain.estimate(traces, traces).value
    np.testing.assert_allclose(found, restricted.estimate(traces).value * (n_draws - 1) / n_draws, atol=1e-6)


def test_two_chain_equals_a_slow_loop():
    traces, whole = random_traces(), random_traces(seed=8)
    reference = (whole.token_losses.astype(np.float64) - whole.reference_rise[:, None]).mean(axis=0)
    phi = traces.mean_loss - traces.rest_loss
    excess = traces.token_losses.astype(np.float64) - traces.reference_rise[:, None]
    for token, found in enumerate(two_chain.estimate(traces, whole).value):
        mixed = sum(phi[d] * excess[d, token] for d in range(len(phi))) / len(phi)
        assert found == pytest.approx(-(mixed - phi.mean() * reference[token]), abs=1e-9)


def test_susceptibility_is_the_derivative_of_the_observable_under_a_reweighted_posterior():
    traces = random_traces(per_chain=4000)
    observable = traces.mean_loss - traces.rest_loss
    excess = traces.token_losses.astype(np.float64) - observable[:, None]
    step, n_draws = 1e-4, len(observable)
    for token in range(3):
        up, down = (np.average(observable, weights=np.exp(-s * step * excess[:, token])) for s in (1, -1))
        derivative = (up - down) / (2 * step) * n_draws / (n_draws - 1)
        assert restricted.estimate(traces).value[token] == pytest.approx(derivative, rel=1e-5, abs=1e-8)


@pytest.mark.parametrize("kind", estimators.ESTIMATORS)
def test_halves_are_estimates_from_disjoint_chains(kind):
    traces, whole = random_traces(), random_traces(seed=9)
    a, b = estimators.halves(traces, kind=kind, all_weights=whole)
    odd = (traces.chain == 1)[:, None]
    slower = {name: np.where(odd, 9.0, getattr(traces, name)) for name in ("token_slopes", "own_slopes", "responses")}
    changed = traces._replace(token_losses=np.where(odd, traces.mean_loss[:, None], traces.token_losses), **slower)
    a_after, b_after = estimators.halves(changed, kind=kind, all_weights=whole)
    np.testing.assert_array_equal(a, a_after)
    assert np.abs(b - b_after).max() > 0
    with pytest.raises(ValueError, match="chains of even and odd number.*raise sampling.n_chains"):
        estimators.halves(loss_traces.take(traces, traces.chain % 2 == 0), kind=kind, all_weights=whole)


def test_the_whole_is_the_mean_of_the_halves_where_the_estimate_is_a_mean_over_chains():
    traces = random_traces()
    for kind in ("first_order", "second_order"):
        found = estimators.estimate_component(traces, kind=kind)
        np.testing.assert_allclose(found.value, (found.half_a + found.half_b) / 2, rtol=1e-12)


def test_a_chain_and_its_mirror_image_are_one_block():
    """Else a pair, whose odd parts are opposite, would count as two draws that agree or cancel."""
    traces, _ = gaussian_traces(np.random.default_rng(4), n_chains=4, per_chain=64)
    block = estimators.terms.blocks(traces)
    plus, minus = (loss_traces.take(traces, traces.mirror == image) for image in (0, 1))
    np.testing.assert_array_equal(estimators.terms.blocks(plus), estimators.terms.blocks(minus))
    assert len(np.unique(block)) == 4 * BLOCKS_PER_CHAIN


def test_a_shard_is_its_components_side_by_side():
    columns = [random_traces(seed) for seed in range(3)]
    shard = estimators.estimate_shard(iter(columns), kind="second_order")
    for number, traces in enumerate(columns):
        single = estimators.estimate_component(traces, kind="second_order")
        for whole, part in zip(shard, single, strict=True):
            np.testing.assert_array_equal(whole[:, number], part)


def test_unknown_estimators_are_refused():
    with pytest.raises(ValueError, match="estimator must be one of.*'magic'.*correct susceptibility.estimator"):
        estimators.estimate(random_traces(), kind="magic")


@pytest.mark.parametrize(
    ("kind", "lacking", "message"),
    [
        ("first_order", "token_slopes", "first_order needs slopes along response directions.*materialize"),
        ("stein", "token_slopes", "stein needs slopes along response directions.*materialize"),
        ("second_order", "token_slopes", "second_order needs slopes along response directions.*materialize"),
        ("second_order", "own_slopes", "second_order needs slopes of mirrored pairs of chains.*materialize"),
        ("gauss_newton", "responses", "gauss_newton needs slopes and curvatures measured together.*materialize"),
    ],
)
def test_traces_that_lack_what_the_estimator_needs_are_refused(kind, lacking, message):
    traces = random_traces()
    empty = np.zeros((len(traces.chain), 0), np.float32)
    with pytest.raises(ValueError, match=message):
        estimators.estimate(traces._replace(**{lacking: empty}), kind=kind)


def test_estimators_say_what_they_need():
    traces = random_traces()
    empty = np.zeros((len(traces.chain), 0), np.float32)
    bare = traces._replace(token_slopes=empty, own_slopes=empty, responses=empty)
    for kind, estimator in estimators.ESTIMATORS.items():
        if not (estimator.needs_slopes or estimator.needs_own_slopes or estimator.needs_responses):
            expected = estimators.estimate(traces, kind=kind, all_weights=traces).value
            np.testing.assert_array_equal(estimators.estimate(bare, kind=kind, all_weights=traces).value, expected)
    with pytest.raises(ValueError, match="two_chain needs chains of all weights; sample the component all_weights too"):
        estimators.estimate(traces, kind="two_chain")


def test_one_draw_has_no_covariance():
    single = loss_traces.take(random_traces(), np.array([0]))
    with pytest.raises(ValueError, match="a covariance needs at least 2 draws, got 1; raise sampling.n_draws"):
        estimators.estimate(single, kind="restricted")


def test_an_estimator_that_reads_what_it_did_not_ask_for_is_named(monkeypatch):
    traces = random_traces()
    bare = traces._replace(token_slopes=np.zeros((len(traces.chain), 0), np.float32))
    silent = estimators.by_name("first_order")._replace(needs_slopes=False)
    monkeypatch.setitem(estimators.ESTIMATORS, "silent", silent)
    with pytest.raises(ValueError, match="silent gave 0 values for 7 tokens; its Estimator must state what it needs"):
        estimators.estimate(bare, kind="silent")
