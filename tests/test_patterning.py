"""Patterning: wanted changes of observables become weights of documents; closed forms, planted worlds and fine-tuning itself."""

from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest
import torch

import toys
from benchmarks import linear_datamodeling
from benchmarks import patterning as benchmark
from susc_pipeline import corpus, seeds
from susc_pipeline.corpus import Document
from susc_pipeline.model import decoder, decoder_weights, families
from susc_pipeline.patterning import datamodeling, document_responses, group_losses, reweighting, weighted_corpus
from susc_pipeline.patterning.document_responses import Responses
from susc_pipeline.sampling.posterior import SamplingSettings

N_OBSERVABLES, N_DOCUMENTS = 4, 60
SETTINGS = SamplingSettings(n_beta=2.0, localization=20_000.0)  # gradient flow for a time of .0001


def world(seed=0, *, error=0.0):
    """Planted linear world: true centred responses, and the same with errors."""
    rng = np.random.default_rng(seed)
    true = rng.normal(size=(N_OBSERVABLES, N_DOCUMENTS))
    return true - true.mean(axis=1, keepdims=True), error * np.ones((N_OBSERVABLES, N_DOCUMENTS))


def noisy(true, errors, rng):
    return Responses(true + errors * rng.normal(size=true.shape), errors)


def test_without_noise_the_weights_make_exactly_the_wanted_change_with_the_least_departure():
    true, errors = world()
    wanted = np.array([0.1, -0.2, 0.0, 0.3])
    found = reweighting.weights(Responses(true, errors), wanted)
    np.testing.assert_allclose(true @ (found.weights - 1), wanted, atol=1e-12)
    np.testing.assert_allclose(found.weights - 1, np.linalg.pinv(true) @ wanted, atol=1e-12)
    np.testing.assert_allclose(found.predicted, wanted, atol=1e-12)
    assert found.weights.mean() == pytest.approx(1) and found.n_clipped == 0


def test_with_a_ridge_the_weights_are_those_of_ridge_regression_in_units_of_the_noise():
    true, errors = world(error=0.05)
    errors = errors * np.array([[1.0], [2.0], [3.0], [4.0]])
    wanted = np.array([0.1, -0.2, 0.0, 0.3])
    found = reweighting.weights(Responses(true, errors), wanted, ridge=7.0)
    noise = np.sqrt((errors**2).sum(axis=1))
    rows, aim = true / noise[:, None], wanted / noise
    primal = np.linalg.solve(rows.T @ rows + 7.0 * np.eye(N_DOCUMENTS), rows.T @ aim)
    np.testing.assert_allclose(found.weights - 1, primal, atol=1e-12)


def test_the_unit_of_an_observable_changes_neither_weights_nor_what_is_reachable():
    true, errors = world(error=0.3)
    units, wanted = np.array([1.0, 1e-6, 1e3, 10.0]), np.array([0.1, -0.2, 0.0, 0.3])
    found = reweighting.weights(Responses(true, errors), wanted)
    other = Responses(true * units[:, None], errors * units[:, None])
    same = reweighting.weights(other, wanted * units)
    np.testing.assert_allclose(same.weights, found.weights, atol=1e-9)
    np.testing.assert_allclose(same.predicted, found.predicted * units, rtol=1e-9)
    reach, of_units = (reweighting.reachable(each) for each in (Responses(true, errors), other))
    np.testing.assert_allclose(of_units.singular_values, reach.singular_values)


def test_observables_that_repeat_one_another_are_one_direction_even_without_noise():
    true, errors = world()
    true[3] = true[2]
    assert reweighting.reachable(Responses(true, errors)).count == 3


def test_a_response_that_all_documents_share_changes_no_weight():
    true, errors = world(error=0.01)
    wanted = np.array([0.1, -0.2, 0.0, 0.3])
    shifted = Responses(true + np.arange(4.0)[:, None], errors)
    found, same = (reweighting.weights(each, wanted) for each in (shifted, Responses(true, errors)))
    np.testing.assert_allclose(found.weights, same.weights, atol=1e-12)


def test_error_bars_of_the_predicted_change_cover_what_the_weights_really_do():
    true, errors = world(error=0.15)
    rng, wanted, inside, naive = np.random.default_rng(1), np.array([0.5, -0.3, 0.0, 0.4]), [], []
    for _ in range(400):
        seen = noisy(true, errors, rng)
        found = reweighting.weights(seen, wanted, ridge=0.0)
        made = true @ (found.weights - 1)
        inside.append(np.abs(found.predicted - made) < 1.96 * found.predicted_errors)
        centred = seen.value - seen.value.mean(axis=1, keepdims=True)
        naive.append(centred @ (found.weights - 1) - made)
    assert 0.93 < np.mean(inside) < 0.97
    # Without the correction the promise is too large, by far more than chance.
    along = np.array(naive) @ wanted
    assert along.mean() > 4 * along.std() / 20


def test_error_bars_of_the_weights_cover_those_without_noise():
    true, errors = world(error=0.05)
    errors[0] *= 3  # of unequal size
    rng, wanted = np.random.default_rng(2), np.array([0.5, -0.3, 0.0, 0.4])
    exact = reweighting.weights(Responses(true, 0 * errors), wanted, ridge=0.0).weights
    found = [reweighting.weights(noisy(true, errors, rng), wanted, ridge=0.0) for _ in range(400)]
    inside = [np.abs(one.weights - exact) < 1.96 * one.standard_errors for one in found]
    assert 0.93 < np.mean(inside) < 0.97


def test_error_bars_of_the_weights_are_the_spread_by_finite_differences():
    true, errors = world(error=0.05)
    errors, wanted, step = errors * np.random.default_rng(3).uniform(0, 2, errors.shape), np.arange(1.0, 5.0) / 10, 1e-6
    base, total = reweighting.weights(Responses(true, errors), wanted, ridge=2.0), 0.0
    for i in range(N_OBSERVABLES):
        for k in range(N_DOCUMENTS):
            moved = true.copy()
            moved[i] -= step / (N_DOCUMENTS - 1)  # so that the row stays centred and the entry moves by step
            moved[i, k] += step + step / (N_DOCUMENTS - 1)
            after = reweighting.weights(Responses(moved, errors), wanted, ridge=2.0).weights
            total = total + ((after - base.weights) / step * errors[i, k]) ** 2
    np.testing.assert_allclose(base.standard_errors, np.sqrt(total), rtol=0.1)


def test_noise_alone_reaches_no_direction_and_a_planted_one_is_counted():
    rng, counts = np.random.default_rng(4), []
    errors = np.full((N_OBSERVABLES, N_DOCUMENTS), 0.5)
    for _ in range(100):
        counts.append(reweighting.reachable(noisy(np.zeros_like(errors), errors, rng)).count)
    assert np.mean(np.array(counts) > 0) < 0.1
    one = np.outer([1, -1, 0, 0], np.linspace(-2, 2, N_DOCUMENTS))
    found = reweighting.reachable(noisy(one, errors, rng))
    assert found.count == 1 and found.certainty[0] > 0.9
    np.testing.assert_allclose(np.abs(found.directions[:, 0]), [0.71, 0.71, 0, 0], atol=0.15)


def test_fewer_reachable_directions_than_observables_are_refused_or_projected():
    errors = np.full((N_OBSERVABLES, N_DOCUMENTS), 0.05)
    one = np.outer([1.0, -1.0, 0.0, 0.0], np.linspace(-1, 1, N_DOCUMENTS))
    seen = noisy(one, errors, np.random.default_rng(5))
    with pytest.raises(ValueError, match="only 1 directions rise above the noise .* project=True takes the 50%"):
        reweighting.weights(seen, np.array([0.1, 0.0, 0.0, 0.0]))
    found = reweighting.weights(seen, np.array([0.1, 0.0, 0.0, 0.0]), project=True)
    assert found.reachable_share == pytest.approx(0.5, abs=0.05)
    np.testing.assert_allclose(one @ (found.weights - 1), [0.05, -0.05, 0, 0], atol=0.01)
    with pytest.raises(ValueError, match="only 0 directions"):
        reweighting.weights(Responses(0 * one, errors), np.ones(4), project=True)


def test_weights_below_zero_become_zero_and_the_cost_is_told():
    true, errors = world()
    wanted = np.array([0.5, -0.3, 0.0, 0.4])
    whole = reweighting.weights(Responses(true, errors), wanted)
    assert whole.n_clipped == 0
    edge = whole.unclipped_share * (1 - 1e-12)
    at_edge = reweighting.weights(Responses(true, errors), edge * wanted)
    assert at_edge.n_clipped == 0 and at_edge.weights.min() == pytest.approx(0, abs=1e-9)
    beyond = reweighting.weights(Responses(true, errors), 3 * edge * wanted)
    assert beyond.n_clipped > 0 and beyond.weights.min() == 0 and beyond.weights.mean() == pytest.approx(1)
    made = true @ (beyond.weights - 1)
    np.testing.assert_allclose(beyond.predicted, made, atol=1e-12)
    assert beyond.lost_share == pytest.approx(1 - made @ wanted / (3 * edge * wanted @ wanted))
    assert 0 < beyond.lost_share < 1


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ([np.nan, 0, 0, 1], "observable 0 is nan; give finite changes"),
        ([0, np.inf, 0, 1], "observable 1 is inf"),
        ([0, 0, 0, 0], "zero everywhere"),
        ([1, 0], "2 changes are wanted of 4 observables"),
    ],
)
def test_a_wanted_change_that_means_nothing_is_refused(wanted, message):
    with pytest.raises(ValueError, match=message):
        reweighting.weights(Responses(*world()), np.array(wanted, dtype=float))


def test_responses_and_ridges_that_mean_nothing_are_refused():
    true, errors = world()
    for value, spread in ((true * np.nan, errors), (true, errors - 1), (true, errors + np.inf)):
        with pytest.raises(ValueError, match="must be finite"):
            reweighting.weights(Responses(value, spread), np.ones(4))
    with pytest.raises(ValueError, match="ridge must be zero or more"):
        reweighting.weights(Responses(true, errors), np.ones(4), ridge=-1.0)


def test_the_error_of_two_halves_is_that_of_their_mean():
    rng = np.random.default_rng(6)
    true = rng.normal(size=(3, 5000))
    sizes = np.array([[0.1], [1.0], [3.0]])
    found = document_responses.from_halves(*(true + sizes * rng.normal(size=true.shape) for _ in range(2)))
    np.testing.assert_allclose(found.standard_errors[:, 0], (found.value - true).std(axis=1), rtol=0.05)


def test_responses_of_components_are_document_means_of_the_tokens():
    values = np.array([[1.0, 0.0], [3.0, 2.0], [10.0, 4.0]])
    found = document_responses.of_components(values, values, np.array([0, 0, 1]), n_beta=30.0)
    np.testing.assert_allclose(found.value, 15 * np.array([[2.0, 10.0], [1.0, 4.0]]))
    assert not found.standard_errors.any()
    with pytest.raises(ValueError, match="document 1 has no token"):
        document_responses.of_components(values, values, np.array([0, 0, 2]), n_beta=30.0)
    with pytest.raises(ValueError, match="2 tokens have a document, but 3"):
        document_responses.of_components(values, values, np.array([0, 1]), n_beta=30.0)


def test_the_benchmark_keeps_what_equal_weights_do_with_each_seed(monkeypatch):
    """A model stands for its loss: 0 before the fine-tuning, seed + 1 after it."""
    monkeypatch.setattr(benchmark, "tuned", lambda model, parts, weights, options, seed: seed + 1)
    monkeypatch.setattr(benchmark, "package_losses", lambda model, parts: np.full((2, N_OBSERVABLES), model))
    monkeypatch.setattr(benchmark.patterning_figures, "summary", lambda content: {})
    responses = Responses(*world(error=0.05))
    found = benchmark.Measured(responses, responses, responses.value, {}, {})
    parts, options = SimpleNamespace(packages=list("abcd")), SimpleNamespace(seed=1, seeds=3)
    content = benchmark.patterning(0, parts, found, options, lambda part: None)
    np.testing.assert_array_equal(np.array(content["equal_weights"])[:, 0, 0], [1, 2, 3])


def toy_documents(model, n_documents, *, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.integers(0, model.vocabulary_size, size=(2, 12)) for _ in range(n_documents)]


def descended(model, documents, weights, *, time, n_steps):
    """Gradient flow of the weighted mean loss, in small steps: the definition, without any of the module's code."""
    named = {name: w.clone().requires_grad_() for name, w in decoder_weights.named_weights(model).items()}
    moved, ids = decoder_weights.with_weights(model, named), torch.as_tensor(np.stack(documents))
    for _ in range(n_steps):
        losses = decoder.differentiable_losses(moved, ids.flatten(0, 1)).mean(dim=1).view(len(ids), -1).mean(dim=1)
        loss = (torch.as_tensor(weights, dtype=torch.float32) * losses).mean()
        for parameter, gradient in zip(named.values(), torch.autograd.grad(loss, list(named.values())), strict=True):
            parameter.data -= time / n_steps * gradient
    return decoder_weights.with_weights(model, {name: w.detach() for name, w in named.items()})


def mean_losses(model, groups):
    return np.array([float(decoder.token_losses(model, torch.as_tensor(ids)).mean()) for ids in groups])


def test_fine_tuning_on_the_weights_changes_the_losses_as_predicted():
    start = families.from_module(toys.toy_module())
    documents, groups = toy_documents(start, 8), toy_documents(start, 3, seed=1)
    model, time = descended(start, documents, np.ones(8), time=2.0, n_steps=100), 0.2
    settings = SamplingSettings(n_beta=time * 1e6, localization=1e6)
    wide = group_losses.mean_gradients(model, groups, settings, seeds.sequence(0, "test"), n_pairs=1)
    along = group_losses.directions(model, wide, np.concatenate(documents), settings, n_contexts=16)
    of_documents = group_losses.gradients(model, documents)
    excess = 0.3 * np.array([1, -1, 0.5, 0.5, -0.5, -0.5, 1, -1.0])
    after = [descended(model, documents, 1 + sign * excess, time=time, n_steps=32) for sign in (1, -1)]
    changed = np.subtract(*(mean_losses(each, groups) for each in after)) / 2
    found = document_responses.of_losses(along, of_documents) @ excess
    products = document_responses.of_losses(time * wide, of_documents) @ excess
    # What is left is third order in the weights; without curvature the error would be several times larger.
    assert np.linalg.norm(found - changed) < 0.15 * np.linalg.norm(changed)
    assert np.linalg.norm(products - changed) > 0.6 * np.linalg.norm(changed)


def test_without_curvature_and_noise_responses_are_products_of_gradients():
    model = families.from_module(toys.toy_module())
    documents, groups = toy_documents(model, 5), toy_documents(model, 2, seed=1)
    seed, plain = seeds.sequence(0, "test"), group_losses.gradients(model, groups)
    torch.testing.assert_close(group_losses.mean_gradients(model, groups, SETTINGS, seed, n_pairs=0), plain)
    along = group_losses.directions(model, plain, np.concatenate(documents), SETTINGS)
    torch.testing.assert_close(along, 1e-4 * plain)
    of_documents = group_losses.gradients(model, documents)
    expected = -1e-4 / 5 * (plain @ (of_documents - of_documents.mean(dim=0)).T)
    np.testing.assert_allclose(
        document_responses.of_losses(along, of_documents), expected.numpy(), rtol=1e-3, atol=1e-10
    )


def test_the_weighted_corpus_reads_back_whatever_the_text(tmp_path):
    documents = [Document("a/'; drop", "<script>\x00\u202e"), Document("b", ""), Document("c", "é\n")]
    path = tmp_path / "weighted [1].parquet"
    weighted_corpus.write(path, documents, np.array([0.0, 2.5, 0.5]))
    found = pl.read_parquet(path, glob=False)
    assert found.rows() == [(*d, w) for d, w in zip(documents, (0.0, 2.5, 0.5))]
    assert [path.name for path in tmp_path.iterdir()] == [path.name]
    assert [d.text for d in corpus.local_files(path)] == [d.text for d in documents]


@pytest.mark.parametrize("weights", [[1, -1], [1, np.nan], [0, 0], [1]])
def test_a_weighted_corpus_with_senseless_weights_is_refused(tmp_path, weights):
    with pytest.raises(ValueError, match=r"weights"):
        weighted_corpus.write(tmp_path / "x", [Document("a", ""), Document("b", "")], np.array(weights, dtype=float))
    with pytest.raises(ValueError, match="given twice"):
        weighted_corpus.write(tmp_path / "x", [Document("a", ""), Document("a", "")], np.ones(2))
    with pytest.raises(ValueError, match="surrogate"):
        weighted_corpus.write(tmp_path / "x", [Document("a", "\ud800")], np.ones(1))
    assert not list(tmp_path.iterdir())


def test_the_datamodeling_score_is_one_for_any_rising_function_and_about_zero_for_chance():
    rng = np.random.default_rng(7)
    subsets = rng.random((40, 10)) < 0.5
    predicted = datamodeling.predicted(rng.normal(size=(6, 10)), subsets)
    assert datamodeling.score(predicted, np.exp(predicted), rng).estimate == pytest.approx(1)
    assert datamodeling.score(predicted, -predicted, rng).estimate == pytest.approx(-1)
    chance = datamodeling.score(predicted, rng.normal(size=predicted.shape), rng)
    assert chance.low < 0 < chance.high and chance.high - chance.low < 1
    with pytest.raises(ValueError, match="at least 3 subsets"):
        datamodeling.score(predicted[:2], predicted[:2], rng)


def test_the_datamodeling_score_is_the_mean_spearman_correlation():
    stats = pytest.importorskip("scipy.stats")
    rng = np.random.default_rng(8)
    predicted, measured = rng.normal(size=(2, 12, 3)).round(0)  # with ties
    expected = np.mean([stats.spearmanr(predicted[:, i], measured[:, i]).statistic for i in range(3)])
    assert datamodeling.score(predicted, measured, rng).estimate == pytest.approx(expected)


@pytest.mark.slow
def test_the_covariance_of_losses_under_draws_of_the_posterior_is_the_linear_response():
    start = families.from_module(toys.toy_module())
    documents, time = np.stack(toy_documents(start, 4)), 0.05
    model = descended(start, documents, np.ones(4), time=4.0, n_steps=100)
    settings, seed = SamplingSettings(n_beta=time * 1e6, localization=1e6), seeds.sequence(0, "test")
    sampled = linear_datamodeling.sampled(model, documents, documents, settings, seed, n_draws=40, n_contexts=8)
    of_documents = group_losses.gradients(model, list(documents))
    along = group_losses.directions(model, of_documents, np.concatenate(documents), settings, n_contexts=8)
    expected = document_responses.of_losses(along, of_documents)
    products = document_responses.of_losses(time * of_documents, of_documents)
    # The error of 40 draws; with more it falls by their root.
    assert np.linalg.norm(sampled - expected) < 0.6 * np.linalg.norm(expected)
    assert np.linalg.norm(sampled - products) > 0.8 * np.linalg.norm(expected)
    assert np.corrcoef(sampled.ravel(), expected.ravel())[0, 1] > 0.85
