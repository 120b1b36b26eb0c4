"""Losses of a perturbed component equal a full forward pass of the same weights, and touch nothing else."""

import numpy as np
import pytest
import torch
from torch.nn import functional
from transformers import MambaConfig, MambaForCausalLM

import toys
from susc_pipeline.model import (
    components,
    decoder,
    decoder_weights,
    derivatives,
    families,
    perturbation,
    token_activations,
    token_loss,
)
from susc_pipeline.model.components import Component


def full_losses(module, token_ids):
    with torch.no_grad():
        logits = module(input_ids=token_ids, use_cache=False).logits[:, :-1].float()
    flat = functional.cross_entropy(logits.flatten(0, 1), token_ids[:, 1:].flatten(), reduction="none")
    return flat.view(len(token_ids), -1)


@pytest.mark.parametrize("parallel", [True, False])
@pytest.mark.parametrize("bias", [True, False])
def test_losses_at_the_trained_weights_equal_transformers(parallel, bias):
    module = toys.toy_module(parallel=parallel, bias=bias)
    token_ids = torch.as_tensor(toys.toy_tokens())
    ours = decoder.token_losses(families.from_module(module), token_ids, batch_size=2)
    torch.testing.assert_close(ours, full_losses(module, token_ids), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("parallel", [True, False])
@pytest.mark.parametrize("bias", [True, False])
def test_every_perturbed_component_equals_a_full_forward_pass(parallel, bias):
    module = toys.toy_module(parallel=parallel, bias=bias)
    model = families.from_module(module)
    token_ids = torch.as_tensor(toys.toy_tokens())
    stream = decoder.residual_stream(model, token_ids)
    generator = torch.Generator().manual_seed(3)
    for component in [*components.enumerate_components(model), components.ALL_WEIGHTS]:
        trained = components.weights(model, component)
        deltas = 0.3 * torch.randn(2, components.n_parameters(model, component), generator=generator)
        inputs = perturbation.prepare(model, component, token_ids, stream)
        fast = perturbation.losses(model, component, inputs, deltas)
        named = components.unflatten(deltas, {name: weight.shape for name, weight in trained.items()})
        before = {name: weight.clone() for name, weight in trained.items()}
        for chain in range(2):
            for name, weight in trained.items():
                weight.copy_(before[name] + named[name][chain])
            slow = full_losses(module, token_ids)
            assert (slow - full_losses_of_trained(module, trained, before, token_ids)).abs().max() > 1e-3, component
            torch.testing.assert_close(fast[chain], slow, atol=2e-5, rtol=1e-5, msg=component.name)
        for name, weight in trained.items():
            weight.copy_(before[name])


def full_losses_of_trained(module, trained, before, token_ids):
    now = {name: weight.clone() for name, weight in trained.items()}
    for name, weight in trained.items():
        weight.copy_(before[name])
    losses = full_losses(module, token_ids)
    for name, weight in trained.items():
        weight.copy_(now[name])
    return losses


def test_chains_with_contexts_of_their_own_equal_chains_run_alone():
    model = families.from_module(toys.toy_module())
    token_ids = torch.as_tensor(toys.toy_tokens(6))
    stream = decoder.residual_stream(model, token_ids)
    rows = torch.tensor([[0, 3], [5, 1]])
    for component in components.enumerate_components(model):
        inputs = perturbation.prepare(model, component, token_ids, stream)
        deltas = 0.1 * torch.randn(2, components.n_parameters(model, component))
        together = perturbation.losses(model, component, inputs.take(rows), deltas)
        for chain in range(2):
            alone = perturbation.losses(model, component, inputs.take(rows[chain]), deltas[chain : chain + 1])
            torch.testing.assert_close(together[chain : chain + 1], alone, atol=1e-5, rtol=1e-5)


def test_a_small_perturbation_of_a_bfloat16_model_is_not_rounded_away():
    module = toys.toy_module(dtype=torch.bfloat16)
    model = families.from_module(module)
    token_ids = torch.as_tensor(toys.toy_tokens())
    stream = decoder.residual_stream(model, token_ids)
    component = Component("unembed")
    inputs = perturbation.prepare(model, component, token_ids, stream)
    exact = families.from_module(toys.toy_module())
    deltas = 1e-2 * torch.randn(
        1, components.n_parameters(model, component), generator=torch.Generator().manual_seed(1)
    )
    change = perturbation.losses(model, component, inputs, deltas) - perturbation.losses(
        model, component, inputs, torch.zeros_like(deltas)
    )
    inputs32 = perturbation.prepare(exact, component, token_ids, decoder.residual_stream(exact, token_ids))
    change32 = perturbation.losses(exact, component, inputs32, deltas) - perturbation.losses(
        exact, component, inputs32, torch.zeros_like(deltas)
    )
    assert np.corrcoef(change.flatten().float(), change32.flatten())[0, 1] > 0.9


def test_components_are_counted_as_published():
    model = families.from_module(toys.toy_module())
    named = [component.name for component in components.enumerate_components(model)]
    assert len(named) == len(set(named)) == 3 * 2 + 3 + 2
    total = sum(components.n_parameters(model, c) for c in components.enumerate_components(model))
    norms_and_output_biases = 3 * (4 * 16 + 16) + 2 * 16
    assert total + norms_and_output_biases == sum(p.numel() for p in toys.toy_module().parameters())


def test_unknown_components_and_layers_are_named():
    model = families.from_module(toys.toy_module())
    with pytest.raises(ValueError, match="L9H0.*L0H0"):
        components.by_name(model, "L9H0")
    with pytest.raises(ValueError, match="no component"):
        components.weights(model, Component("head", 7, 0))
    with pytest.raises(ValueError, match="representation.layers.*between 1 and 3"):
        token_activations.activations(model, toys.toy_tokens(), layers=(1, 4))


def test_foreign_models_and_tokens_are_refused():
    tiny = MambaConfig(vocab_size=10, hidden_size=8, state_size=2, num_hidden_layers=1, time_step_rank=1)
    with pytest.raises(ValueError, match="MambaForCausalLM must be of a model_type among gemma2.*got 'mamba'"):
        families.from_module(MambaForCausalLM(tiny))
    model = families.from_module(toys.toy_module())
    with pytest.raises(ValueError, match="token id 77 is outside the model's vocabulary of 50"):
        decoder.token_losses(model, torch.full((1, 4), 77))
    with pytest.raises(ValueError, match="contexts have 33 tokens, but the model reads at most 32"):
        decoder.token_losses(model, torch.zeros(1, 33, dtype=torch.int64))


def test_activations_are_the_hidden_states_at_the_tokens_own_position():
    module = toys.toy_module()
    token_ids = toys.toy_tokens()
    ours = token_activations.activations(families.from_module(module), token_ids, layers=(1, 2), batch_size=2)
    with torch.no_grad():
        hidden = module(input_ids=torch.as_tensor(token_ids), output_hidden_states=True).hidden_states
    expected = torch.cat([hidden[1][:, 1:], hidden[2][:, 1:]], dim=-1).flatten(0, 1)
    np.testing.assert_allclose(ours.features, expected, atol=1e-5)


def test_loss_gradients_are_those_of_autograd():
    model = families.from_module(toys.toy_module())
    token_ids = torch.as_tensor(toys.toy_tokens())
    stream = decoder.residual_stream(model, token_ids)
    normed = decoder.normalize(stream[-1], model.final_norm, model).requires_grad_()
    token_loss.cross_entropy(normed, token_ids, model.unembedding).sum().backward()
    ours = token_activations.activations(model, token_ids.numpy(), layers=(1,), batch_size=2).loss_gradients
    np.testing.assert_allclose(ours, normed.grad[:, :-1].flatten(0, 1), atol=1e-5)


def test_a_model_in_float16_is_refused():
    with pytest.raises(ValueError, match="float32 or bfloat16, got float16"):
        families.from_module(toys.toy_module(dtype=torch.float16))


@pytest.mark.parametrize("kind", ["embed", "L1H1", "L2MLP", "unembed"])
def test_scores_have_the_gauss_newton_matrix_as_their_covariance(kind):
    """Along any u, E[(s.u)^2] is the mean over tokens of Var_p[dz/du], p the softmax of the logits z at the perturbed weights."""
    model = families.from_module(toys.toy_module())
    component = components.by_name(model, kind)
    token_ids = torch.as_tensor(toys.toy_tokens(3))
    inputs = perturbation.prepare_tokens(model, component, token_ids)
    n_weights, n_scores = components.n_parameters(model, component), 4000
    generator = torch.Generator().manual_seed(0)
    delta = 0.05 * torch.randn(1, n_weights, generator=generator)
    along = torch.randn(5, n_weights, generator=generator)
    found = torch.cat(
        [derivatives.scores(model, component, inputs, delta.expand(200, -1), generator) for _ in range(n_scores // 200)]
    )
    precise = in_float64(model)
    exact = perturbation.prepare_tokens(precise, component, token_ids)
    for u in along:
        ends = [all_logits(precise, component, exact, delta.double() + h * u.double()) for h in (-1e-4, 1e-4)]
        p, moved = (ends[0] + ends[1]).div(2).softmax(-1), (ends[1] - ends[0]) / 2e-4
        variance = (p * moved**2).sum(-1) - (p * moved).sum(-1) ** 2
        assert (found @ u).square().mean() == pytest.approx(float(variance.mean()), rel=6 * (2 / n_scores) ** 0.5)
    assert (found @ along.T).mean(dim=0).abs().max() < 6 * (found @ along.T).std() / n_scores**0.5


def in_float64(model):
    return decoder_weights.with_weights(
        model, {name: w.double() for name, w in decoder_weights.named_weights(model).items()}
    )


def all_logits(model, component, inputs, delta):
    """Logits of every predicted token, of the model with the component's weights moved."""
    captured = []

    def capture(normed, token_ids, unembedding, labels=None, **_):
        captured.append(normed[..., :-1, :] @ unembedding.T)
        return captured[-1][..., 0]

    real, token_loss.cross_entropy = token_loss.cross_entropy, capture
    try:
        perturbation.losses(model, component, inputs, delta)
    finally:
        token_loss.cross_entropy = real
    return captured[0].unflatten(0, (-1, len(inputs.token_ids)))[0]  # the unembedding's have no axis of chains


@pytest.mark.parametrize("kind", ["embed", "L1H1", "L2MLP", "unembed"])
def test_curvatures_are_second_derivatives(kind):
    """Against plain differences of plain logits in float64, token by token."""
    model = families.from_module(toys.toy_module())
    precise = in_float64(model)
    component = components.by_name(model, kind)
    token_ids = torch.as_tensor(toys.toy_tokens(2))
    generator = torch.Generator().manual_seed(0)
    delta, along = 0.05 * torch.randn(2, 1, components.n_parameters(model, component), generator=generator)
    inputs = perturbation.prepare_tokens(model, component, token_ids)
    here = perturbation.losses(model, component, inputs, delta)
    found = derivatives.curvatures(model, component, inputs, delta, along, here, step=0.03)
    exact = perturbation.prepare_tokens(precise, component, token_ids)

    def second(h):
        def at(t):
            logits = all_logits(precise, component, exact, delta.double() + t * along.double())
            return -logits.log_softmax(-1).gather(-1, token_ids[:, 1:, None])[None, ..., 0]

        return (at(h) - 2 * at(0.0) + at(-h)) / h**2

    rounding = 4 * float(here.max()) * 2**-24 / 0.03**2  # of the four losses in a difference; processors round unlike
    atol = 0.02 * float(found.abs().max()) + rounding
    torch.testing.assert_close(found, second(1e-3).float(), atol=atol, rtol=0.0)


@pytest.mark.parametrize("name", ["embed", "L1H1", "L2MLP", "unembed"])
def test_gradients_and_scores_do_not_depend_on_how_many_chains_are_taken_at_once(name, monkeypatch):
    model = families.from_module(toys.toy_module())
    component = components.by_name(model, name)
    ids = torch.as_tensor(toys.toy_tokens(6)).view(3, 2, -1)
    batch = perturbation.prepare_tokens(model, component, ids.flatten(0, 1)).each(
        lambda part: part.unflatten(0, (3, 2))
    )
    generator = torch.Generator().manual_seed(0)
    delta = 0.1 * torch.randn(3, components.n_parameters(model, component), generator=generator)

    def found():
        labels = torch.Generator().manual_seed(1)
        return *derivatives.gradients(model, component, batch, delta), derivatives.scores(
            model, component, batch, delta, labels
        )

    together = found()
    monkeypatch.setattr(derivatives, "KEPT_BYTES", 1)
    assert derivatives.chains_at_once(model, component, 2, 12) == 1
    for apart, whole in zip(found(), together, strict=True):
        torch.testing.assert_close(apart, whole, atol=1e-6, rtol=1e-4)
