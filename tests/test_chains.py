"""Chains restricted to one component: nothing else moves, seeds decide everything, divergence is named."""

import dataclasses

import numpy as np
import pytest
import torch

import toys
from susc_pipeline import seeds
from susc_pipeline.config import SamplingSettings
from susc_pipeline.model import components, gpt_neox, perturbation
from susc_pipeline.sampling import chains, loss_traces, samplers, stability
from susc_pipeline.susceptibility import estimators

SETTINGS = SamplingSettings(n_chains=4, n_draws=4, n_burn_in=2, batch_size=2, step_size=0.5, localization=100.0)


def world(**model_options):
    module = toys.toy_module(**model_options)
    model = gpt_neox.GPTNeoX.from_module(module)
    parts = {name: toys.toy_tokens(n, seed=n) for name, n in (("shard", 5), ("observable", 3), ("minibatch", 8))}
    return module, model, chains.sampling_contexts(model, **parts)


def test_restricted_chains_move_nothing_else_bitwise():
    module, model, contexts = world()
    before = {name: parameter.detach().clone() for name, parameter in module.named_parameters()}
    for component in components.enumerate_components(model):
        chains.sample(model, component, SETTINGS, contexts, seeds.sequence(0, component.name))
    assert all(torch.equal(before[name], parameter) for name, parameter in module.named_parameters())


def test_the_same_seed_gives_the_same_traces_and_another_seed_others():
    _, model, contexts = world()
    component = components.by_name(model, "L1H0")
    first, again, other = (
        chains.sample(model, component, SETTINGS, contexts, seeds.sequence(s, "x")) for s in (1, 1, 2)
    )
    np.testing.assert_array_equal(first.token_losses, again.token_losses)
    assert np.abs(first.token_losses - other.token_losses).max() > 1e-3


def test_batching_changes_no_number_beyond_rounding():
    _, model, contexts = world()
    component = components.by_name(model, "L0MLP")
    small = dataclasses.replace(SETTINGS, evaluation_batch_size=1)
    a = chains.sample(model, component, SETTINGS, contexts, seeds.sequence(1))
    b = chains.sample(model, component, small, contexts, seeds.sequence(1))
    np.testing.assert_allclose(a.token_losses, b.token_losses, atol=2e-5)


def test_fast_chains_equal_a_plain_loop_over_the_whole_model():
    """The oracle sets the weights of the transformers module, lets autograd find all gradients, and masks."""
    module, model, contexts = world()
    component = components.by_name(model, "L1H1")
    fast = chains.sample(model, component, SETTINGS, contexts, seeds.sequence(5))
    trained = {name: weight.clone() for name, weight in components.weights(model, component).items()}
    live = components.weights(model, component)
    shapes = {name: weight.shape for name, weight in trained.items()}
    n_weights = components.n_parameters(model, component)
    head, layer = slice(1 * 24, 2 * 24), module.gpt_neox.layers[1].attention
    for chain, child in enumerate(seeds.sequence(5).spawn(4)):
        generator = torch.Generator().manual_seed(int(child.generate_state(1, np.uint64)[0] >> 1))
        state = samplers.init(1, n_weights, sampler="exponential", device=torch.device("cpu"))
        for number in range(1, SETTINGS.n_burn_in + SETTINGS.n_steps_between_draws + 1):
            rows = torch.randint(8, (SETTINGS.batch_size,), generator=generator)
            noise = torch.randn(n_weights, generator=generator)
            module.zero_grad()
            batch = contexts.minibatch_tokens[rows]
            module(input_ids=batch, labels=batch).loss.backward()
            full = {
                "query_key_value": layer.query_key_value.weight.grad[head],
                "output": layer.dense.weight.grad[:, 8:16],
                "query_key_value_bias": layer.query_key_value.bias.grad[head],
            }
            gradient = torch.cat([full[name].reshape(-1) for name in shapes])[None]
            state = samplers.exponential(
                state,
                gradient,
                noise[None],
                step_size=SETTINGS.step_size,
                n_beta=SETTINGS.n_beta,
                localization=SETTINGS.localization,
            )
            for name, piece in components.unflatten(state.delta, shapes).items():
                live[name].copy_(trained[name] + piece[0])
        with torch.no_grad():
            shard = contexts.tokens[:5]
            slow = gpt_neox.token_losses(model, shard).flatten().numpy()
        for name, weight in trained.items():
            live[name].copy_(weight)
        np.testing.assert_allclose(fast.token_losses[chain * SETTINGS.n_draws], slow, atol=1e-4)


def test_slopes_are_the_derivative_of_the_losses_along_the_direction():
    _, model, contexts = world()
    component = components.by_name(model, "L2MLP")
    traces = chains.sample(model, component, SETTINGS, contexts, seeds.sequence(9))
    pool = perturbation.prepare(model, component, contexts.minibatch_tokens, contexts.minibatch_stream)
    measured = perturbation.prepare(model, component, contexts.tokens, contexts.stream)
    n_weights = components.n_parameters(model, component)
    steps = chains.random_steps(SETTINGS, seeds.sequence(9), n_pool=8, n_weights=n_weights, device=model.device)
    states = list(chains.draws(model, component, SETTINGS, pool, steps))
    observable = measured.take(slice(5, None))
    gradient = torch.stack([perturbation.gradients(model, component, observable, s.delta)[0] for s in states])
    direction = gradient.mean(dim=0) / SETTINGS.localization
    exact = (gradient[1] * direction).sum(dim=1).numpy()  # slope of the mean loss at the second draw
    np.testing.assert_allclose(traces.mean_slope.reshape(4, -1)[:, 1], exact, rtol=0.2)
    shard_gradient = perturbation.gradients(model, component, measured.take(slice(0, 5)), states[1].delta)[0]
    mean_token_slope = traces.token_slopes.reshape(4, 4, -1)[:, 1].mean(axis=1)
    expected = (shard_gradient * direction).sum(dim=1).numpy()
    np.testing.assert_allclose(mean_token_slope, expected, rtol=0.3, atol=0.05 * np.abs(exact).max())


def test_a_diverging_chain_is_named_with_step_and_remedy(monkeypatch):
    _, model, contexts = world()
    component = components.by_name(model, "L0H1")
    wild = dataclasses.replace(SETTINGS, sampler="sgld", step_size=50.0, localization=1.0)
    with pytest.raises(stability.UnstableStepError, match="sampling.step_size must be at most .* for L0H1 .*got 50"):
        chains.sample(model, component, wild, contexts, seeds.sequence(0))
    monkeypatch.setattr(stability, "split_steps", lambda *_: wild)  # what curvature at w* does not foresee
    with pytest.raises(
        chains.ChainDivergedError, match=r"chain \d of L0H1 diverged at step \d+.*lower sampling.step_size"
    ):
        chains.sample(model, component, wild, contexts, seeds.sequence(0))


def test_an_observable_that_holds_a_measured_context_is_refused_unless_allowed():
    _, model, _ = world()
    shard, pool = toys.toy_tokens(5, seed=5), toys.toy_tokens(8, seed=8)
    parts = {"shard": shard, "observable": np.concatenate([pool[:2], shard[3:4].astype(np.int32)]), "minibatch": pool}
    with pytest.raises(ValueError, match="no context of the shard, but 1 of its 3 are in both"):
        chains.sampling_contexts(model, **parts)
    assert chains.sampling_contexts(model, **parts, disjoint=False).n_observable == 3


def test_a_lost_token_stops_the_chain_though_the_observable_is_finite():
    _, model, contexts = world()
    broken = contexts._replace(stream=contexts.stream.clone())
    broken.stream[:, 0, -1] = torch.nan  # the last position of the first context: no other token sees it
    component = components.by_name(model, "unembed")
    fine = chains.sample(model, component, SETTINGS, broken, seeds.sequence(0))  # the last position predicts nothing
    assert np.isfinite(fine.token_losses).all()
    broken.stream[:, 0, -2] = torch.nan
    with pytest.raises(chains.ChainDivergedError, match="chain 0 of unembed diverged"):
        chains.sample(model, component, SETTINGS, broken, seeds.sequence(0))


def test_traces_survive_their_table():
    _, model, contexts = world()
    traces = chains.sample(model, components.by_name(model, "embed"), SETTINGS, contexts, seeds.sequence(0))
    back = loss_traces.of_frame(loss_traces.frame("embed", traces).sample(fraction=1.0, shuffle=True, seed=1))
    for before, after in zip(traces, back, strict=True):
        np.testing.assert_array_equal(before, after)


def test_first_order_and_covariance_agree_where_losses_are_linear():
    """With weights so tightly held that losses are linear, first_order is the whole covariance."""
    _, model, contexts = world()
    component = components.by_name(model, "L1MLP")
    tight = dataclasses.replace(SETTINGS, localization=1e5, n_beta=0.0, n_draws=400, n_chains=8, step_size=3.0)
    tight = dataclasses.replace(tight, n_steps_between_draws=1, n_burn_in=4)
    traces = chains.sample(model, component, tight, contexts, seeds.sequence(3))
    first, plain = estimators.first_order(traces), estimators.restricted(traces)
    assert np.corrcoef(first.value, plain.value)[0, 1] > 0.9
    assert np.median(first.standard_error / plain.standard_error) < 0.2
    error = np.abs(first.value - plain.value) / plain.standard_error
    assert np.mean(error < 3) > 0.97
