"""The reference library's chains, replayed: from its minibatches and its noise, our losses are its losses."""

import dataclasses

import numpy as np
import pytest
import torch

import toys
from susc_pipeline.model import components, decoder, families, perturbation
from susc_pipeline.sampling import chains, observables
from susc_pipeline.sampling.posterior import SamplingSettings

pytest.importorskip("devinterp", reason="install the extra `peer` to compare with the reference library")
from benchmarks import peer

SETTINGS = SamplingSettings(
    n_chains=4, n_draws=5, n_burn_in=2, n_steps_between_draws=1, batch_size=2, localization=100.0
)
SEED = 100


def noise_of_the_peer(module, model, component):
    """Its noise, step by step: it draws for whole matrices and masks them afterwards."""
    trained = components.weights(model, component)
    masks = peer.masks(module, component)
    generators = [torch.Generator().manual_seed(SEED + chain) for chain in range(SETTINGS.n_chains)]
    shapes = dict(module.named_parameters())
    while True:
        noise = []
        for generator in generators:
            pieces = []
            for name, mask in masks.items():
                full = torch.normal(0.0, 1.0, size=shapes[name].shape, generator=generator)
                pieces.append((name, full if mask is None else full[mask.bool()]))
            noise.append(_in_our_order(pieces, trained, component))
        yield torch.stack(noise)


def batches_of_the_peer(model, component, minibatch_ids):
    """Its minibatches (chains, steps, contexts, positions), a step after another; the last again, for the last draw's loss."""
    n_steps = minibatch_ids.shape[1]
    for step in [*range(n_steps), n_steps - 1]:
        yield observables.inputs(model, component, np.ascontiguousarray(minibatch_ids[:, step], np.int64))


def _in_our_order(pieces, trained, component):
    endings = {
        "query_key_value": "query_key_value.weight",
        "query_key_value_bias": "query_key_value.bias",
        "output": "dense.weight",
        "up": "dense_h_to_4h.weight",
        "up_bias": "dense_h_to_4h.bias",
        "down": "dense_4h_to_h.weight",
        "down_bias": "dense_4h_to_h.bias",
    }
    found = []
    for name in trained:
        (piece,) = [p for n, p in pieces if component.kind in ("embed", "unembed") or n.endswith(endings[name])]
        found.append(piece.reshape(-1))
    return torch.cat(found)


@pytest.mark.parametrize("sampler", ["sgld", "rmsprop_sgld_devinterp"])
@pytest.mark.parametrize("name", ["L0H1", "L2H0", "L1MLP", "embed", "unembed"])
def test_replayed_chains_have_the_same_token_losses(sampler, name):
    module = toys.toy_module()
    model = families.from_module(module)
    component = components.by_name(model, name)
    data = peer.Tokens(*(toys.toy_tokens(n, seed=n) for n in (6, 4, 8)))
    settings = dataclasses.replace(SETTINGS, sampler=sampler, step_size=1e-3)
    stored = peer.run(module, component, data, settings, seed=SEED)
    contexts = torch.as_tensor(stored.shard_ids.astype(np.int64))
    inputs = perturbation.prepare_tokens(model, component, contexts)
    batches = batches_of_the_peer(model, component, stored.minibatch_ids)
    # At w*, as the peer begins; the noise that our own chains would begin with moves neither of these two samplers.
    start = chains.start(settings, torch.zeros(settings.n_chains, components.n_parameters(model, component)))
    steps = chains.run(model, component, settings, start, batches, noise_of_the_peer(module, model, component))
    moved = 0.0
    for step in steps:
        draw = step.number - settings.n_burn_in - 1  # its first draw is where the first step after the burn-in leads
        if draw < 0:
            continue
        ours = perturbation.losses(model, component, inputs, step.delta).numpy()
        theirs = stored.shard[:, draw]
        np.testing.assert_allclose(ours, theirs, atol=2e-4)
        moved = max(moved, float(np.abs(ours - decoder.token_losses(model, contexts).numpy()).max()))
    assert draw == settings.n_draws - 1 and moved > 0.05  # or equal losses would say nothing
