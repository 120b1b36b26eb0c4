"""Chains restricted to one component: nothing else moves, seeds decide everything, contexts are fresh, divergence is named."""

import dataclasses

import numpy as np
import pytest
import torch

import toys
from susc_pipeline import seeds
from susc_pipeline.model import components, decoder, derivatives, families, perturbation
from susc_pipeline.sampling import chains, curvature, loss_traces, observables, token_draws
from susc_pipeline.sampling.observables import Population
from susc_pipeline.sampling.posterior import SamplingSettings
from susc_pipeline.sampling.samplers import SAMPLERS
from susc_pipeline.susceptibility import estimators

SETTINGS = SamplingSettings(
    n_chains=4, n_draws=4, n_burn_in=2, batch_size=2, n_reference_contexts=1, step_size=0.5, localization=100.0
)
SHARD = toys.toy_tokens(5, seed=5)
POPULATION = Population(tuple(toys.toy_tokens(10 + chain, seed=20 + chain) for chain in range(4)))


def world(**model_options):
    module = toys.toy_module(**model_options)
    return module, families.from_module(module)


def directions_of(model, component, *, n_chains=4, seed=0):
    """One response direction a chain, as long as a real one: gradients of some contexts / localization."""
    ids = torch.as_tensor(toys.toy_tokens(2 * n_chains, seed=40 + seed)).unflatten(0, (n_chains, 2))
    zero = torch.zeros(n_chains, components.n_parameters(model, component))
    inputs = observables.inputs(model, component, ids.numpy())
    return derivatives.gradients(model, component, inputs, zero)[0] / SETTINGS.localization


def sampled(model, component, seed, *, settings=SETTINGS, shard=SHARD, population=POPULATION, **options):
    return token_draws.sample(model, component, settings, shard, population, seed, **options)


def test_restricted_chains_move_nothing_else_bitwise():
    module, model = world()
    before = {name: parameter.detach().clone() for name, parameter in module.named_parameters()}
    for component in components.enumerate_components(model):
        direction = directions_of(model, component)
        sampled(model, component, seeds.sequence(0, component.name), direction=direction, own_slopes=True)
    assert all(torch.equal(before[name], parameter) for name, parameter in module.named_parameters())


def test_the_same_seed_gives_the_same_traces_and_another_seed_others():
    _, model = world()
    component = components.by_name(model, "L1H0")
    first, again, other = (sampled(model, component, seeds.sequence(s, "x"), own_slopes=True) for s in (1, 1, 2))
    for one, same in zip(first, again, strict=True):
        np.testing.assert_array_equal(one, same)
    assert np.abs(first.token_losses - other.token_losses).max() > 1e-3


def test_batching_changes_no_number_beyond_rounding():
    _, model = world()
    component = components.by_name(model, "L0MLP")
    direction = directions_of(model, component)
    small = dataclasses.replace(SETTINGS, evaluation_batch_size=1)
    a, b = (
        sampled(model, component, seeds.sequence(1), settings=s, direction=direction, own_slopes=True)
        for s in (SETTINGS, small)
    )
    for one, same in zip(a, b, strict=True):
        np.testing.assert_allclose(one, same, atol=2e-5)


def test_columns_do_not_depend_on_how_tokens_are_sharded():
    _, model = world()
    component = components.by_name(model, "L1MLP")
    options = {"direction": directions_of(model, component), "own_slopes": True, "responses": True}
    whole, *parts = (
        sampled(model, component, seeds.sequence(1), shard=s, **options) for s in (SHARD, *np.split(SHARD, [2]))
    )
    for name in loss_traces.WIDE:
        together = np.concatenate([getattr(part, name) for part in parts], axis=1)
        np.testing.assert_allclose(getattr(whole, name), together, atol=2e-5)
    for kind in ("gauss_newton", "second_order", "restricted"):
        estimate = np.concatenate([estimators.estimate(part, kind=kind).value for part in parts])
        np.testing.assert_allclose(estimators.estimate(whole, kind=kind).value, estimate, atol=2e-5)


def test_mirror_images_read_the_same_contexts_and_change_no_chain():
    _, model = world()
    component = components.by_name(model, "L1H0")
    alone, paired = (sampled(model, component, seeds.sequence(1), own_slopes=p) for p in (False, True))
    chains_only = loss_traces.take(paired, paired.mirror == 0)
    np.testing.assert_allclose(chains_only.token_losses, alone.token_losses, atol=2e-5)
    np.testing.assert_array_equal(chains_only.chain, alone.chain)
    np.testing.assert_allclose(paired.rest_loss[paired.mirror == 1], alone.rest_loss, atol=1e-6)


def contexts_read(model, settings, population, seed, n_steps):
    """Token ids of each chain's contexts, step by step: (chains, steps x contexts) tuples."""
    component = components.by_name(model, "embed")
    found = zip(range(n_steps), token_draws.fresh_batches(model, component, settings, population, seed))
    steps = [torch.cat([part.token_ids for part in pair], dim=1) for _, pair in found]
    return [[tuple(row.tolist()) for row in of_chain] for of_chain in torch.cat(steps, dim=1)]


def test_a_chains_contexts_never_repeat_until_its_part_is_used_up_and_no_two_chains_share_one():
    _, model = world()
    population = Population(tuple(toys.toy_tokens(12, seed=chain) for chain in range(4)))
    for seed in range(5):
        read = contexts_read(model, SETTINGS, population, seeds.sequence(seed), n_steps=4)  # 3 of 12 a step
        for chain, part in zip(read, population.parts, strict=True):
            assert len(set(chain)) == len(chain) == 12
            assert set(chain) == {tuple(row.tolist()) for row in part}
        assert len(set.union(*map(set, read))) == 4 * 12


def test_which_contexts_a_draw_used_depends_on_the_seed_alone():
    """Losses at w* name them: neither the component nor the strength of the pull nor the direction changes one."""
    _, model = world()
    found = []
    for name, localization in (("L1H0", 100.0), ("L1H0", 1000.0), ("unembed", 100.0)):
        settings = dataclasses.replace(SETTINGS, localization=localization)
        found.append(sampled(model, components.by_name(model, name), seeds.sequence(4), settings=settings).rest_loss)
    np.testing.assert_allclose(found, [found[0]] * 3, atol=1e-5)
    other = sampled(model, components.by_name(model, "L1H0"), seeds.sequence(5)).rest_loss
    assert np.abs(other - found[0]).max() > 1e-3


def test_a_part_with_fewer_contexts_than_a_step_is_refused():
    _, model = world()
    small = POPULATION._replace(parts=(*POPULATION.parts[:3], POPULATION.parts[3][:2]))
    with pytest.raises(
        ValueError, match="chain 3 has 2 population contexts, fewer than the 3 of one step.*population_share"
    ):
        sampled(model, components.by_name(model, "L1H0"), seeds.sequence(0), population=small)


def steps_of(model, component, settings, seed, *, paired=True):
    """All steps of the chains, without what is measured at them."""
    n_weights = components.n_parameters(model, component)
    pushes = chains.noise(seed, n_weights, n_chains=settings.n_chains, mirrored=paired, device=model.device)
    batches = (batch for batch, _ in token_draws.fresh_batches(model, component, settings, POPULATION, seed))
    driving = (chains.doubled(batch) if paired else batch for batch in batches)
    n_steps = settings.n_burn_in + settings.n_draws * settings.n_steps_between_draws + 1
    steps = chains.run(model, component, settings, chains.start(settings, next(pushes)), driving, pushes)
    return [step for _, step in zip(range(n_steps), steps)]


def of_draw(traces, draw):
    """Rows of a draw in the order of steps: chains, then their images."""
    rows = np.flatnonzero(traces.draw == draw)
    return rows[np.lexsort((traces.chain[rows], traces.mirror[rows]))]


def test_mirror_images_have_opposite_positions_without_a_loss():
    _, model = world()
    component = components.by_name(model, "L2MLP")
    for sampler in SAMPLERS:
        free = dataclasses.replace(SETTINGS, sampler=sampler, n_beta=0.0, step_size=0.001)
        for step in steps_of(model, component, free, seeds.sequence(2))[1:]:
            chain, image = step.delta.chunk(2)
            if sampler.startswith("rmsprop"):  # its scale is that of gradients, which the loss gives even so
                assert ((chain * image) <= 0).float().mean() > 0.9
            else:
                torch.testing.assert_close(chain, -image, rtol=0, atol=0)
            assert chain.abs().max() > 0


def test_fast_chains_equal_a_plain_loop_over_the_whole_model():
    """The oracle sets the weights of the transformers module, lets autograd find all gradients, and masks."""
    module, model = world()
    component = components.by_name(model, "L1H1")
    fast = sampled(model, component, seeds.sequence(5))
    trained = {name: weight.clone() for name, weight in components.weights(model, component).items()}
    live = components.weights(model, component)
    shapes = {name: weight.shape for name, weight in trained.items()}
    n_weights = components.n_parameters(model, component)
    head, layer = slice(1 * 24, 2 * 24), module.gpt_neox.layers[1].attention
    first = int(np.random.default_rng(seeds.sequence(5)).integers(max(map(len, POPULATION.parts))))
    n_read = SETTINGS.batch_size + SETTINGS.n_reference_contexts
    for chain, child in enumerate(seeds.sequence(5).spawn(4)):
        generator = torch.Generator().manual_seed(int(child.generate_state(1, np.uint64)[0] >> 1))
        delta = torch.randn(n_weights, generator=generator) / SETTINGS.localization**0.5
        part = torch.as_tensor(POPULATION.parts[chain])
        for number in range(SETTINGS.n_burn_in + SETTINGS.n_steps_between_draws):
            set_weights(live, trained, components.unflatten(delta[None], shapes))
            rows = (first + number * n_read + np.arange(SETTINGS.batch_size)) % len(part)
            module.zero_grad()
            module(input_ids=part[rows], labels=part[rows]).loss.backward()
            full = {
                "query_key_value": layer.query_key_value.weight.grad[head],
                "output": layer.dense.weight.grad[:, 8:16],
                "query_key_value_bias": layer.query_key_value.bias.grad[head],
            }
            gradient = torch.cat([full[name].reshape(-1) for name in shapes])
            kept = np.exp(-SETTINGS.step_size)
            delta = kept * delta - (1 - kept) * SETTINGS.n_beta / SETTINGS.localization * gradient
            noise = torch.randn(n_weights, generator=generator)
            delta = delta + ((1 - kept**2) / SETTINGS.localization) ** 0.5 * noise
        set_weights(live, trained, components.unflatten(delta[None], shapes))
        slow = decoder.token_losses(model, torch.as_tensor(SHARD)).flatten().numpy()
        rows = (first + (number + 1) * n_read + np.arange(n_read)) % len(part)
        of_contexts = decoder.token_losses(model, part[rows]).mean(dim=1).numpy()
        set_weights(live, trained, {name: torch.zeros_like(weight)[None] for name, weight in trained.items()})
        at_rest = decoder.token_losses(model, part[rows]).mean(dim=1).numpy()
        (row,) = np.flatnonzero((fast.chain == chain) & (fast.draw == 0))
        np.testing.assert_allclose(fast.token_losses[row], slow, atol=1e-4)
        np.testing.assert_allclose(fast.mean_loss[row], of_contexts[:2].mean(), atol=1e-4)
        np.testing.assert_allclose(fast.rest_loss[row], at_rest[:2].mean(), atol=1e-4)
        np.testing.assert_allclose(fast.reference_rise[row], (of_contexts - at_rest)[2:].mean(), atol=1e-4)


@torch.no_grad()
def set_weights(live, trained, pieces):
    for name, weight in trained.items():
        live[name].copy_(weight + pieces[name][0])


@pytest.mark.parametrize("name", ["L2MLP", "L1H0", "embed", "unembed"])
def test_slopes_are_gradients_times_the_direction(name):
    """Along v: the step's own gradient for the population, autograd's for the shard. Along the pair's: half a difference."""
    _, model = world()
    component = components.by_name(model, name)
    direction = directions_of(model, component)
    traces = sampled(model, component, seeds.sequence(9), direction=direction, own_slopes=True)
    steps = steps_of(model, component, SETTINGS, seeds.sequence(9))
    shard = perturbation.prepare_tokens(model, component, torch.as_tensor(SHARD))
    both = torch.cat([direction, direction])
    for draw in range(SETTINGS.n_draws):
        rows, step = of_draw(traces, draw), steps[SETTINGS.n_burn_in + draw + 1]
        np.testing.assert_array_equal(traces.step[rows], step.number)
        along = (both * step.gradient).sum(dim=1)
        np.testing.assert_allclose(traces.mean_slope[rows], along, rtol=1e-4, atol=1e-6)
        score = SETTINGS.localization * (both * step.delta).sum(dim=1) + SETTINGS.n_beta * along
        np.testing.assert_allclose(traces.score[rows], score, rtol=1e-4, atol=1e-4)
        gradient = derivatives.gradients(model, component, shard, step.delta)[0]  # of the shard's mean loss
        slope = (both * gradient).sum(dim=1)
        np.testing.assert_allclose(traces.token_slopes[rows].mean(axis=1), slope, rtol=1e-3, atol=1e-5)
        chain, image = step.gradient.chunk(2)
        odd = torch.cat([chain - image, image - chain]) / (2 * SETTINGS.localization)
        own = (odd * gradient).sum(dim=1)
        np.testing.assert_allclose(traces.own_slopes[rows].mean(axis=1), own, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", ["L2MLP", "L1H0", "embed", "unembed"])
def test_responses_hold_second_derivatives_along_the_score_of_another_chain_of_the_half(name):
    _, model = world()
    component = components.by_name(model, name)
    settings = dataclasses.replace(SETTINGS, draw_batch_size=3)
    population = POPULATION._replace(parts=tuple(np.concatenate([part, part]) for part in POPULATION.parts))
    seed, n_steps = seeds.sequence(9), settings.n_burn_in + 2  # to the first draw
    traces = sampled(model, component, seed, settings=settings, population=population, responses=True)
    assert not traces.own_slopes.size
    rows = of_draw(traces, 0)
    fresh = token_draws.fresh_batches(model, component, settings, population, seed)
    batches = [batch for _, (batch, _) in zip(range(n_steps), fresh)]
    read = (chains.doubled(token_draws.first_contexts(batch, settings.batch_size)) for batch in batches)
    n_weights = components.n_parameters(model, component)
    pushes = chains.noise(seed, n_weights, n_chains=4, mirrored=True, device=model.device)
    delta = list(chains.run(model, component, settings, chains.start(settings, next(pushes)), read, pushes))[-1].delta
    labels, batch = token_draws._labels(seed, settings.n_chains, model.device), batches[-1]
    scores = derivatives.scores(model, component, chains.doubled(batch), delta, labels)
    shard = perturbation.prepare_tokens(model, component, torch.as_tensor(SHARD))
    here = perturbation.losses(model, component, shard, delta)
    others = [2, 3, 0, 1, 6, 7, 4, 5]  # of the mirror images in the same order

    def along(order):
        bent = derivatives.curvatures(model, component, shard, delta, scores[order], here, step=0.02)
        return bent.flatten(1).numpy() / (2 * settings.localization**2)

    for found, wanted, own in zip(traces.responses[rows], along(others), along(range(8)), strict=True):
        assert np.corrcoef(found, wanted)[0, 1] > 0.98
        assert np.corrcoef(found, own)[0, 1] < 0.95


@pytest.mark.parametrize("name", ["L2MLP", "L1H0", "embed", "unembed"])
def test_responses_are_slopes_and_curvatures_in_one_difference(name):
    _, model = world()
    component = components.by_name(model, name)
    both = sampled(model, component, seeds.sequence(9), direction=0.2 * directions_of(model, component), responses=True)
    curved = sampled(model, component, seeds.sequence(9), responses=True)
    slopes = both.responses.astype(np.float64) - curved.responses
    scale = both.token_slopes.std()
    assert np.square(slopes - both.token_slopes).mean() ** 0.5 < 0.05 * scale
    assert np.corrcoef(slopes.ravel(), both.token_slopes.ravel())[0, 1] > 0.999
    alone = sampled(
        model,
        component,
        seeds.sequence(9),
        direction=0.2 * directions_of(model, component),
        slopes=False,
        responses=True,
    )
    assert not alone.token_slopes.size
    np.testing.assert_allclose(alone.responses, both.responses, rtol=1e-3, atol=1e-3 * scale)


@pytest.mark.parametrize("kind", ["restricted", "first_order", "second_order", "gauss_newton"])
@pytest.mark.parametrize("name", ["L1H0", "L2MLP", "unembed"])
def test_susceptibilities_of_the_contexts_that_phi_is_made_of_sum_to_zero(name, kind):
    """Every step then reads all of them twice: for its gradient, and as its reference."""
    _, model = world()
    component = components.by_name(model, name)
    fixed = Population((np.concatenate([SHARD, SHARD]),) * 4)
    settings = dataclasses.replace(SETTINGS, batch_size=len(SHARD), n_reference_contexts=len(SHARD))
    options = {"direction": directions_of(model, component), "own_slopes": True, "responses": True}
    traces = sampled(model, component, seeds.sequence(2), settings=settings, population=fixed, **options)
    found = estimators.estimate(traces, kind=kind).value
    assert abs(found.mean()) < 1e-3 * np.abs(found).max()
    np.testing.assert_allclose(traces.reference_rise, traces.mean_loss - traces.rest_loss, atol=1e-5)


def test_a_diverging_chain_is_named_with_step_and_remedy(monkeypatch):
    _, model = world()
    component = components.by_name(model, "L0H1")
    wild = dataclasses.replace(SETTINGS, sampler="sgld", step_size=50.0, localization=1.0, n_draws=40)
    with pytest.raises(curvature.UnstableStepError, match="sampling.step_size must be at most .* for L0H1 .*got 50"):
        sampled(model, component, seeds.sequence(0), settings=wild)
    monkeypatch.setattr(curvature, "split_steps", lambda *_: wild)  # what curvature at w* does not foresee
    with pytest.raises(
        chains.ChainDivergedError, match=r"chain \d of L0H1 diverged at step \d+.*lower sampling.step_size"
    ):
        sampled(model, component, seeds.sequence(0), settings=wild)


def test_a_lost_token_stops_the_chain_though_the_population_is_finite(monkeypatch):
    _, model = world()
    component, real = components.by_name(model, "unembed"), perturbation.prepare_tokens

    def break_at(position):
        def prepare(model, component, ids):
            inputs = real(model, component, ids)
            if len(ids) == len(SHARD):  # neither the contexts of the curvature nor those of a step
                inputs.normed[0, position] = torch.nan  # of the first context: no other token sees it
            return inputs

        monkeypatch.setattr(perturbation, "prepare_tokens", prepare)

    break_at(-1)
    fine = sampled(model, component, seeds.sequence(0))  # the last position predicts nothing
    assert np.isfinite(fine.token_losses).all()
    break_at(-2)
    with pytest.raises(chains.ChainDivergedError, match="chain 0 of unembed diverged"):
        sampled(model, component, seeds.sequence(0))


@pytest.mark.parametrize("paired", [False, True])
def test_traces_survive_their_table(paired):
    _, model = world()
    component = components.by_name(model, "embed")
    direction = directions_of(model, component) if paired else None
    options = {"direction": direction, "own_slopes": paired, "responses": paired}
    traces = sampled(model, component, seeds.sequence(0), **options)
    back = loss_traces.of_frame(loss_traces.frame("embed", traces).sample(fraction=1.0, shuffle=True, seed=1))
    for before, after in zip(traces, back, strict=True):
        np.testing.assert_array_equal(before, after)


@pytest.mark.slow
def test_first_order_and_covariance_agree_where_losses_are_linear():
    """With weights so tightly held that losses are linear, first_order is the whole covariance."""
    _, model = world()
    component = components.by_name(model, "L1MLP")
    fixed = toys.toy_tokens(3, seed=3)
    population = Population((np.concatenate([fixed, fixed]),) * 8)
    inputs = perturbation.prepare_tokens(model, component, torch.as_tensor(fixed))
    zero = torch.zeros(1, components.n_parameters(model, component))
    tight = dataclasses.replace(SETTINGS, localization=1e5, n_beta=0.0, n_draws=300, n_chains=8, step_size=3.0)
    tight = dataclasses.replace(tight, n_burn_in=0, batch_size=3, n_reference_contexts=3)
    direction = derivatives.gradients(model, component, inputs, zero)[0].expand(8, -1) / tight.localization
    options = {"settings": tight, "population": population, "direction": direction, "shard": SHARD[:2]}
    traces = sampled(model, component, seeds.sequence(3), **options)
    first, plain = (estimators.estimate(traces, kind=kind) for kind in ("first_order", "restricted"))
    assert np.corrcoef(first.value, plain.value)[0, 1] > 0.9
    assert np.median(first.standard_error / plain.standard_error) < 0.2
    error = np.abs(first.value - plain.value) / plain.standard_error
    assert np.mean(error < 3) > 0.97
