"""Named observables: the run's own comes out the same, a text's covariance is met, a quadratic readout has its closed form."""

import dataclasses
import json

import numpy as np
import pytest
import torch

import toys
from susc_pipeline import seeds
from susc_pipeline.model import components, decoder, families, perturbation
from susc_pipeline.sampling.observables import Population
from susc_pipeline.sampling.posterior import SamplingSettings
from susc_pipeline.susceptibility import (
    direction_files,
    direction_task,
    linear_response,
    observable_directions,
    readouts,
)
from susc_pipeline.susceptibility.direction_files import StoredDirections
from susc_pipeline.susceptibility.direction_task import DirectionTask, Rest
from susc_pipeline.susceptibility.directions import DirectionSettings
from susc_pipeline.susceptibility.readouts import Observable, Pair, Readout

LOCALIZATION, SEED = 400.0, 1
SETTINGS = SamplingSettings(n_chains=4, step_size=1.0, localization=LOCALIZATION, n_beta=2.0, batch_size=2)
WANTED = DirectionSettings(reliability=0.999, max_contexts=128)
POPULATION = Population(tuple(toys.toy_tokens(8, seed=seed) ** 2 // 50 for seed in range(4)))
PROBE = toys.toy_tokens(4, seed=99)
SHARD = toys.toy_tokens(5, seed=7)
NAMES = ("embed", "L1H0", "L2MLP", "unembed")


@pytest.fixture(scope="module")
def model():
    return families.from_module(toys.toy_module())


@pytest.fixture(scope="module")
def run(model):
    """The run's own directions and diagnostics of some components."""
    chosen = [components.by_name(model, name) for name in NAMES]
    task = DirectionTask(model, "cpu", SETTINGS, WANTED, POPULATION, PROBE, SEED, chosen)
    resting, finding = direction_task.rest_finder(task), direction_task.finder(task)
    gradients = [resting(chain, None)[0].gradient for chain in range(4)]
    rests = {c: np.stack([own[c.name].numpy() for own in gradients]) for c in chosen}
    return {c: finding(c, Rest(rest, np.zeros((0, 0), np.float32), 32)) for c, rest in rests.items()}


def asked(model, run, *wanted, settings=SETTINGS):
    """Directions of readouts, by component and name."""
    rest, found = {one.name: observable_directions.at_rest(model, one, list(run), n_chains=4) for one in wanted}, {}
    for component, (stored, diagnostics) in run.items():
        source = seeds.sequence(SEED, "response_directions", component.name)
        parts = (model, component, settings, POPULATION, wanted, source)
        risen = observable_directions.rises(*parts, n_contexts=diagnostics.n_contexts)
        own = {name: gradient[component.name] for name, gradient in rest.items()}
        found[component] = observable_directions.found(
            model, component, settings, WANTED, POPULATION, own, risen, stored
        )
    return found


def responses(model, found, name):
    return linear_response.estimate(model, SHARD, {component: each[name] for component, each in found.items()})


def test_the_mean_loss_of_the_population_has_the_directions_of_the_run(model, run):
    found = asked(model, run, readouts.of_population("own", POPULATION.parts))
    halves = {}
    for component, (stored, _) in run.items():
        means = torch.stack([stored.directions[rank::2].mean(dim=0) for rank in (0, 1)])
        halves[component] = stored._replace(directions=means, at_rest=None)
        torch.testing.assert_close(
            found[component]["own"].directions, means, rtol=1e-3, atol=1e-5 * float(means.abs().max())
        )
        np.testing.assert_allclose(found[component]["own"].mean_slopes, stored.mean_slopes, rtol=1e-3)
    expected, own = linear_response.estimate(model, SHARD, halves), responses(model, found, "own")
    scale = float(np.abs(expected.value).max())
    np.testing.assert_allclose(own.half_a, expected.half_a, atol=1e-4 * scale)
    np.testing.assert_allclose(own.half_b, expected.half_b, atol=1e-4 * scale)


def test_a_constant_factor_and_a_sum_of_readouts_pass_through(model, run):
    """A response is linear in the observable."""
    few = {component: made for component, made in run.items() if component.name == "L1H0"}
    text = readouts.of_texts("text", [toys.toy_tokens(1, seed=5)[0]], context_length=12)
    pair = readouts.of_pairs("pair", [Pair(np.array([3, 4, 5]), np.array([6]), np.array([7, 8]))], context_length=12)
    double = lambda losses: 2 * torch.cat(losses).mean()  # noqa: E731
    doubled = readouts.of_texts("doubled", [text.parts[0][0]], context_length=12, function=double)
    found = asked(model, few, text, doubled, pair)
    one, two = (responses(model, found, name) for name in ("text", "doubled"))
    np.testing.assert_allclose(two.half_a, 2 * one.half_a, rtol=1e-3, atol=1e-5 * np.abs(one.half_a).max())
    assert np.abs(responses(model, found, "pair").half_a).max() > 0


@pytest.mark.slow
def test_the_influence_of_a_query_text_is_the_covariance_of_losses_over_draws(model, run):
    """Chains at n_beta = 0 are draws of the Gaussian, so covariances of their odd parts are the oracle (Kreer et al. 2025)."""
    settings = dataclasses.replace(SETTINGS, n_beta=0.0, localization=8000.0)
    name, query = "L1H0", toys.toy_tokens(1, seed=5)[0]
    component = components.by_name(model, name)
    stored, diagnostics = run[component]
    few = {component: (stored._replace(localization=8000.0), diagnostics)}
    found = asked(model, few, readouts.of_texts("query", [query], context_length=12), settings=settings)
    estimate = linear_response.estimate(model, SHARD, {component: found[component]["query"]})
    generator = torch.Generator().manual_seed(0)
    whole, own, shard = (
        perturbation.prepare_tokens(model, component, torch.as_tensor(ids))
        for ids in (np.concatenate(POPULATION.parts), query[None], SHARD)
    )
    sums = []
    with torch.no_grad():
        for _ in range(40):
            half = torch.randn(32, components.n_parameters(model, component), generator=generator) / 8000.0**0.5
            x = torch.cat([half, -half])
            of_query = perturbation.losses(model, component, own, x).mean(dim=(1, 2))
            excess = perturbation.losses(model, component, shard, x).flatten(1)
            excess = excess - perturbation.losses(model, component, whole, x).mean(dim=(1, 2))[:, None]
            of_query, excess = ((part[:32] - part[32:]) / 2 for part in (of_query, excess))  # the odd part
            sums.append(-(of_query[:, None] * excess).mean(dim=0).double().numpy())
    expected, error = np.mean(sums, axis=0), np.std(sums, axis=0, ddof=1) / len(sums) ** 0.5
    value = estimate.value[:, 0]
    z = (value - expected) / error
    assert np.abs(expected).max() > 10 * np.median(error)  # or the comparison would say nothing
    assert 0.5 < np.sqrt(np.mean(z**2)) < 1.5
    assert np.corrcoef(value, expected)[0, 1] > 0.97


def test_a_quadratic_readout_has_its_closed_form(model, run, monkeypatch):
    """Losses with gradients g + h x: the mean of x is -n_beta g / (localization + n_beta h), the readout's rise a times it."""
    component = components.by_name(model, "L1H0")
    n_weights = components.n_parameters(model, component)
    rng = torch.Generator().manual_seed(0)
    g, h, a, b = (torch.rand(n_weights, generator=rng) for _ in range(4))

    def of_loss(model, component, batch, delta):
        return g + 50 * h * delta, torch.ones(len(delta))

    def of_readout(model, component, readout, inputs, weights, delta):
        return b + a * delta

    monkeypatch.setattr(observable_directions.chains.derivatives, "gradients", of_loss)
    monkeypatch.setattr(observable_directions, "gradients", of_readout)
    monkeypatch.setattr(
        observable_directions.chains, "prepared", lambda model, component, settings, population, **known: settings
    )
    settings = dataclasses.replace(SETTINGS, n_burn_in=30)
    text = readouts.of_texts("text", [toys.toy_tokens(1, seed=5)[0]], context_length=12)
    parts = (model, component, settings, POPULATION, [text], seeds.sequence(SEED))
    risen = observable_directions.rises(*parts, n_contexts=400)["text"]
    exact = -a * settings.n_beta * g / (settings.localization + settings.n_beta * 50 * h)
    torch.testing.assert_close(risen, exact.expand(4, -1), rtol=1e-3, atol=1e-6)


def test_a_batch_of_a_readout_stands_for_all_of_it():
    part = toys.toy_tokens(6, seed=1)
    weights = np.random.default_rng(0).random((6, 11)).astype(np.float32)
    whole = Readout("x", (part,), (weights,), is_sampled=True)
    losses = torch.rand(6, 11)
    expected = float(whole.value(losses, torch.as_tensor(weights)))
    batches = [whole.batch(first, 2) for first in (0, 2, 4)]
    values = [b.value(losses[2 * n : 2 * n + 2], torch.as_tensor(b.weights[0])) for n, b in enumerate(batches)]
    assert float(sum(values)) / 3 == pytest.approx(expected, rel=1e-5)
    again = whole.batch(6, 2)
    np.testing.assert_array_equal(again.parts[0], batches[0].parts[0])


def test_a_filled_up_text_has_the_mean_of_its_own_losses(model):
    texts = [toys.toy_tokens(1, n, seed=n)[0] for n in (5, 12, 30)]
    found = readouts.of_texts("x", texts, context_length=12)
    losses = decoder.token_losses(model, torch.as_tensor(found.parts[0]))
    pieces = [text[start : start + 12] for text in texts for start in range(0, len(text) - 1, 12)]
    apart = torch.cat([decoder.token_losses(model, torch.as_tensor(piece[None]))[0] for piece in pieces])
    value = found.value(losses, torch.as_tensor(found.weights[0]))
    assert float(value) == pytest.approx(float(apart.mean()), rel=1e-5)


def test_the_difference_of_a_pair_is_that_of_the_logits(model):
    prompt = toys.toy_tokens(1, 6, seed=3)[0]
    found = readouts.of_pairs("x", [Pair(prompt, np.array([7]), np.array([9]))], context_length=12)
    value = found.value(decoder.token_losses(model, torch.as_tensor(found.parts[0])), torch.as_tensor(found.weights[0]))
    with torch.no_grad():
        logits = toys.toy_module()(torch.as_tensor(prompt[None])).logits[0, -1]
    assert float(value) == pytest.approx(float(logits[7] - logits[9]), rel=1e-4)


@pytest.mark.parametrize(
    ("pairs", "said"),
    [
        ([Pair(np.array([1]), np.array([2]), np.array([2]))], "pair 1 of observable 'x' has the same answer twice"),
        ([Pair(np.arange(12), np.array([2]), np.array([3]))], "together at most 12 tokens"),
        ([Pair(np.array([1]), np.array([2]), np.array([3]))] * 40, "every draw reads them all: 64 at most"),
    ],
)
def test_bad_pairs_are_refused(pairs, said):
    with pytest.raises(ValueError, match=said):
        readouts.of_pairs("x", pairs, context_length=12)


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (lambda losses: torch.log(-losses[0].sum()), "is nan at the trained weights"),
        (lambda losses: "x", "must return one number as a tensor"),
        (lambda losses: float(losses[0].sum().detach()), "no float\\(\\), item\\(\\) or detach\\(\\)"),
        (lambda losses: losses[0].sum().detach(), "it returned tensor.* through which gradients pass"),
        (lambda losses: torch.ones(1, requires_grad=True).sum(), "through which gradients pass"),
        (lambda losses: (losses[0] - losses[0]).sqrt().sum(), "is nan in its gradient at the trained weights"),
        (lambda losses: losses[99], "failed on the losses at the trained weights \\(IndexError"),
    ],
)
def test_a_function_without_a_finite_number_and_gradient_is_refused(model, function, said):
    readout = readouts.of_texts("x", [SHARD[0]], context_length=12, function=function)
    with pytest.raises(ValueError, match=said):
        readouts.require_finite(readout, model)


def test_a_direction_that_is_not_finite_is_refused_by_the_name_of_its_observable(model, run):
    component, (stored, _) = next(iter(run.items()))
    rest = torch.ones_like(stored.at_rest)
    risen = rest * torch.tensor([1.0, torch.nan, 1.0, 1.0])[:, None]
    with pytest.raises(ValueError, match=f"direction of {component.name} by observable 'x' is not finite"):
        parts = (model, component, SETTINGS, WANTED, POPULATION)
        observable_directions.found(*parts, {"x": rest}, {"x": risen}, stored)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"kind": "mean"}, "kind must be one of"),
        ({"kind": "text"}, "given exactly one of text"),
        ({"kind": "text", "text": "a", "file": "b"}, "given exactly one of text"),
        ({"kind": "function", "text": "a"}, "a Python file for kind 'function'"),
        ({"kind": "corpus", "file": "a", "function": "f.py"}, "not given for another"),
    ],
)
def test_an_observable_says_what_its_kind_asks_for(settings, said):
    with pytest.raises(ValueError, match=said):
        Observable("x", **settings)


def test_directions_of_observables_read_back_exactly_and_only_for_their_model(model, tmp_path):
    component, rng = components.by_name(model, "L1H0"), np.random.default_rng(0)
    shape, digest = (2, components.n_parameters(model, component)), direction_files.model_digest(model)
    made = {
        name: StoredDirections(torch.as_tensor(rng.normal(size=shape).astype(np.float32)), rng.normal(size=2), 9.0)
        for name in ("a", "b.c")
    }
    path = tmp_path / "L1H0.safetensors"
    direction_files.save_observables(path, model, component, made, digest=digest)
    found = direction_files.load_observables(path, model, component, digest=digest)
    assert json.dumps(list(found)) == json.dumps(list(made))
    for name, stored in made.items():
        np.testing.assert_array_equal(found[name].directions, stored.directions)
        np.testing.assert_array_equal(found[name].mean_slopes, stored.mean_slopes)
    with pytest.raises(ValueError, match="use the model that they were found for"):
        direction_files.load_observables(path, model, component, digest="other")
