"""Response directions: what they converge to, what their halves share, and what is read back from their files."""

import dataclasses

import numpy as np
import pytest
import torch

import toys
from susc_pipeline import seeds
from susc_pipeline.model import components, decoder, derivatives, families, perturbation
from susc_pipeline.sampling import curvature
from susc_pipeline.sampling.diagnostics import Trace
from susc_pipeline.sampling.observables import Population
from susc_pipeline.sampling.posterior import SamplingSettings
from susc_pipeline.susceptibility import direction_files, direction_task, directions, linear_response, reliability
from susc_pipeline.susceptibility.direction_files import Diagnostics, StoredDirections
from susc_pipeline.susceptibility.direction_task import DirectionTask, Rest
from susc_pipeline.susceptibility.directions import DirectionSettings

LOCALIZATION = 50.0
CURVATURE = 3.0
SETTINGS = SamplingSettings(n_chains=4, step_size=1.0, localization=LOCALIZATION, n_beta=5.0, batch_size=2)
POPULATION = Population(tuple(toys.toy_tokens(16, seed=seed) for seed in range(4)))
PROBE = toys.toy_tokens(3, seed=99)


@pytest.fixture(scope="module")
def model():
    return families.from_module(toys.toy_module())


@pytest.fixture(scope="module")
def resting(model):
    return [directions.at_rest(model, POPULATION, chain) for chain in range(4)]


def gradient_at(model, component, contexts, delta):
    inputs = perturbation.prepare_tokens(model, component, torch.as_tensor(contexts))
    return derivatives.gradients(model, component, inputs, delta)[0]


def risen(model, component, *, settings=SETTINGS, population=POPULATION, rest=None, **wanted):
    slopes = np.zeros((4, 33)) if rest is None else directions.probe_slopes(model, PROBE, {component: rest})[0]
    goal = DirectionSettings(**{"reliability": 0.999999, "max_contexts": 256, **wanted})
    return directions.rise(model, component, settings, goal, population, PROBE, slopes, seeds.sequence(1))


def test_one_backward_pass_gives_the_gradient_at_rest_of_every_component(model, resting):
    for component in components.enumerate_components(model):
        zero = torch.zeros(1, components.n_parameters(model, component))
        exact = gradient_at(model, component, POPULATION.parts[2], zero)[0]
        torch.testing.assert_close(resting[2].gradient[component.name], exact, atol=1e-6, rtol=1e-4)
    assert [rest.n_contexts for rest in resting] == [16] * 4


@pytest.mark.parametrize("name", ["embed", "L1H0", "L2MLP"])
def test_the_rise_is_the_mean_gradient_of_the_prior_less_that_at_rest(model, name):
    """At n_beta = 0 on one fixed set of contexts the chains draw from the Gaussian, so plain sampling is the oracle."""
    component = components.by_name(model, name)
    fixed = Population((POPULATION.parts[0][:2],) * 4)
    settings = dataclasses.replace(SETTINGS, n_beta=0.0, step_size=6.0)
    found = risen(model, component, settings=settings, population=fixed, max_contexts=4 * 2 * 128).gradient
    n_weights = components.n_parameters(model, component)
    x = torch.randn(400, n_weights, generator=torch.Generator().manual_seed(0)) / LOCALIZATION**0.5
    pairs = [
        gradient_at(model, component, fixed.parts[0], torch.cat([part, -part])).unflatten(0, (2, -1)).mean(0)
        for part in x.split(50)
    ]
    slow = torch.cat(pairs) - gradient_at(model, component, fixed.parts[0], torch.zeros(1, n_weights))
    error = slow.std(dim=0).norm() / 400**0.5 + found.std(dim=0).norm() / 2
    assert (found.mean(dim=0) - slow.mean(dim=0)).norm() < 2 * error
    assert slow.mean(dim=0).norm() > 3 * error  # or the comparison would say nothing


@pytest.mark.parametrize("name", ["L1H0", "unembed"])
def test_the_curvature_is_measured_once_kept_and_followed(model, monkeypatch, name):
    component = components.by_name(model, name)
    measured, counted = curvature.of_population, []
    monkeypatch.setattr(curvature, "of_population", lambda *given: counted.append(measured(*given)) or counted[-1])
    goal = DirectionSettings(reliability=0.999999, max_contexts=64, n_probe_contexts=3)
    task = DirectionTask(model, "cpu", SETTINGS, goal, POPULATION, PROBE, 1, [component])
    rest = Rest(np.zeros((4, components.n_parameters(model, component)), np.float32), np.zeros((0, 0)), 64)
    found, diagnostics = direction_task.finder(task)(component, rest)
    assert counted == [found.curvature] == [diagnostics.curvature]
    seed = seeds.sequence(1, "response_directions", name)
    by_itself = directions.rise(model, component, SETTINGS, goal, POPULATION, PROBE, np.zeros((4, 33)), seed)
    (along,) = directions.divided(model, component, SETTINGS, goal, POPULATION, by_itself.gradient)
    torch.testing.assert_close(found.directions, along)
    stiff = directions.rise(
        model, component, SETTINGS, goal, POPULATION, PROBE, np.zeros((4, 33)), seed, largest=20 * found.curvature
    )
    assert len(stiff.trace.loss) > len(by_itself.trace.loss)  # steps are divided, so burn-in is longer


def test_directions_go_on_until_they_are_reliable_or_the_budget_is_spent(model, resting):
    component = components.by_name(model, "L1MLP")
    rest = torch.stack([one.gradient["L1MLP"] for one in resting]) / LOCALIZATION
    few = risen(model, component, rest=rest, reliability=1e-6).n_contexts
    assert few == directions.LEAST_STEPS * 4 * 2 and risen(model, component).n_contexts == 256
    loud = rest + 1e3 * torch.randn(rest.shape, generator=torch.Generator().manual_seed(0))
    assert risen(model, component, rest=loud).n_contexts == few  # its noise is not the chains' to lower


def test_the_stated_reliability_is_that_of_the_whole_direction(model, resting):
    component = components.by_name(model, "L0MLP")
    rest = torch.stack([one.gradient["L0MLP"] for one in resting])
    found = risen(model, component, rest=rest / LOCALIZATION)
    whole = directions.probe_slopes(model, PROBE, {component: (rest + found.gradient) / LOCALIZATION})[0]
    assert found.reliability == pytest.approx(reliability.of_replicates(whole), abs=1e-3)


def test_the_mean_slope_of_a_half_meets_no_chain_with_itself(resting):
    """A chain's gradient at rest is noise here: with its own it would give its squared length, with the other's about nothing."""
    noise = torch.randn(4, 100_000, generator=torch.Generator().manual_seed(0))
    found = directions.mean_slopes(noise / 2.0, noise)
    assert np.all(np.abs(found) < 5 * 100_000**0.5 / 2)
    torch.testing.assert_close(found[0], float(noise[0] @ noise[2]) / 2.0, rtol=1e-4, atol=0)


def stored(model, component, rng):
    shape = (4, components.n_parameters(model, component))
    vectors = [torch.as_tensor(rng.normal(size=shape).astype(np.float32)) for _ in range(3)]
    numbers = LOCALIZATION, *vectors[1:], rng.normal(size=4), CURVATURE
    found = StoredDirections(vectors[0], rng.normal(size=2), *numbers)
    trace = Trace(rng.normal(size=(9, 8)), rng.normal(size=(9, 8)))
    slopes = rng.normal(size=(4, 5)), rng.normal(size=(4, 5))
    return found, Diagnostics(trace, *slopes, 10, 20, 0.9, np.inf, LOCALIZATION, CURVATURE)


@pytest.fixture
def folder(model, tmp_path):
    digest = direction_files.model_digest(model)
    for component in components.enumerate_components(model):
        found = stored(model, component, np.random.default_rng(len(component.name)))
        direction_files.save(tmp_path / f"{component.name}.safetensors", model, component, *found, digest=digest)
    return tmp_path


def test_directions_and_diagnostics_read_back_exactly(model, folder):
    for component in components.enumerate_components(model):
        path, digest = folder / f"{component.name}.safetensors", direction_files.model_digest(model)
        expected, diagnostics = stored(model, component, np.random.default_rng(len(component.name)))
        found = direction_files.load(path, model, component, digest=digest, with_rest=True, with_scores=True)
        for read, written in zip(found, expected, strict=True):
            np.testing.assert_array_equal(read, written)
        bare = direction_files.load(path, model, component, digest=digest)
        assert bare.at_rest is bare.scores is bare.mean_curvatures is None
        again = direction_files.diagnostics(path)
        np.testing.assert_array_equal(again.trace.loss, diagnostics.trace.loss)
        np.testing.assert_allclose(again.rise_slopes, diagnostics.rise_slopes, rtol=1e-6)
        assert again[3:] == diagnostics[3:]


def test_directions_of_other_weights_another_component_or_a_damaged_file_are_refused(model, folder):
    other = families.from_module(toys.toy_module(seed=1))
    with pytest.raises(ValueError, match="directions of 'L0H0' of model .* use the model that they were found for"):
        direction_files.halves(folder, other, [components.by_name(other, "L0H0")])
    (folder / "L0H1.safetensors").write_bytes((folder / "L0H0.safetensors").read_bytes())
    with pytest.raises(ValueError, match="directions of 'L0H0' of model .*, not of L0H1"):
        direction_files.halves(folder, model, [components.by_name(model, "L0H1")])
    (folder / "L0H0.safetensors").write_bytes(b"x" * 100)
    with pytest.raises(ValueError, match="missing or damaged .*find the directions again"):
        direction_files.diagnostics(folder / "L0H0.safetensors")


def test_linear_responses_are_minus_the_excess_slopes_of_each_half_and_do_not_depend_on_how_contexts_are_split(
    model, folder
):
    chosen = components.enumerate_components(model)
    halves = direction_files.halves(folder, model, chosen)
    shard = toys.toy_tokens(5, seed=7)
    found = linear_response.estimate(model, shard, halves, contexts_at_once=2)
    apart = [linear_response.estimate(model, part, halves) for part in (shard[:3], shard[3:])]
    for name in ("half_a", "half_b"):
        np.testing.assert_allclose(getattr(found, name), np.concatenate([getattr(a, name) for a in apart]), atol=1e-3)
    np.testing.assert_allclose(found.value, (found.half_a + found.half_b) / 2, atol=1e-5)
    expected = decoder.token_losses(model, torch.as_tensor(shard)).flatten().numpy()
    np.testing.assert_allclose(found.losses, expected, atol=1e-5)
    for number, component in enumerate(chosen):
        exact = gradient_at(model, component, shard, torch.zeros(1, components.n_parameters(model, component)))[0]
        along = halves[component].directions @ exact  # the mean slope of the shard's own tokens
        for rank, half in enumerate((found.half_a, found.half_b)):
            mean = halves[component].mean_slopes[rank] - float(along[rank])
            assert half[:, number].mean() == pytest.approx(mean, rel=1e-3, abs=1e-3)


def test_linear_responses_of_the_populations_own_tokens_average_to_nothing(model):
    """On one fixed set the slope of its mean loss is the mean of its tokens' slopes."""
    component = components.by_name(model, "L1MLP")
    contexts = toys.toy_tokens(6, seed=3)
    zero = torch.zeros(1, components.n_parameters(model, component))
    gradient = gradient_at(model, component, contexts, zero).repeat(4, 1)
    slopes = directions.mean_slopes(gradient / LOCALIZATION, gradient)
    scores = 0.3 * torch.randn(2, zero.shape[1], generator=torch.Generator().manual_seed(0))
    curvatures = linear_response.mean_curvatures(model, component, contexts, scores, localization=LOCALIZATION)
    bare = StoredDirections(gradient[:2] / LOCALIZATION, slopes, LOCALIZATION)
    for halves in ({component: bare}, {component: bare._replace(scores=scores, mean_curvatures=curvatures)}):
        found = linear_response.estimate(model, contexts, halves).half_a
        assert abs(found.mean()) < 1e-3 * np.abs(found).mean()


@pytest.mark.parametrize("name", ["embed", "L0H1", "L1MLP", "unembed"])
def test_the_second_term_is_half_the_curvature_along_the_scores_of_either_half(model, folder, name):
    component, shard = components.by_name(model, name), toys.toy_tokens(3, seed=7)
    with_scores, without = (direction_files.halves(folder, model, [component], n_scores=n) for n in (4, 0))
    bent, plain = (linear_response.estimate(model, shard, halves) for halves in (with_scores, without))
    found = with_scores[component]
    inputs = perturbation.prepare_tokens(model, component, torch.as_tensor(shard))
    zeros, step = torch.zeros_like(found.scores), 2e-3
    here = perturbation.losses(model, component, inputs, zeros)
    ends = [derivatives.gradients(model, component, inputs, h * found.scores)[0] for h in (-step, step)]
    mean = ((ends[1] - ends[0]) * found.scores).sum(dim=1).numpy() / (2 * step) / LOCALIZATION**2
    token = derivatives.curvatures(model, component, inputs, zeros, found.scores, here, step=0.02).flatten(1).numpy()
    for rank, half in enumerate(("half_a", "half_b")):
        second = getattr(bent, half)[:, 0] - getattr(plain, half)[:, 0]
        expected = -(mean - found.mean_curvatures)[rank::2].mean() / 2
        assert second.mean() == pytest.approx(expected, rel=0.05, abs=0.02 * float(np.abs(mean).max()))
        assert np.corrcoef(second, -token[rank::2].mean(axis=0))[0, 1] > 0.97
    with pytest.raises(ValueError, match="has 4 scores, fewer than the 6 asked for; lower linear_response"):
        direction_files.halves(folder, model, [component], n_scores=6)


def test_scores_at_rest_are_those_of_each_component_alone(model):
    """Of the same labels: one backward pass gives every component's."""
    found = directions.score_at_rest(model, POPULATION, 1, seeds.sequence(3))
    component = components.by_name(model, "unembed")  # reads the labels with the numbers that the whole model drew
    labels = torch.Generator().manual_seed(int(seeds.sequence(3).generate_state(1, np.uint64)[0] >> 1))
    inputs = perturbation.prepare_tokens(model, component, torch.as_tensor(POPULATION.parts[1]))
    batch = perturbation.by_chain(inputs)
    exact = derivatives.scores(model, component, batch, torch.zeros(1, found["unembed"].numel()), labels)[0]
    torch.testing.assert_close(found["unembed"], exact, atol=1e-5, rtol=1e-3)
    assert set(found) == {one.name for one in components.enumerate_components(model)}
