"""Every family is what transformers computes: losses, residual stream, perturbed components, slopes; the rest is refused."""

import itertools
import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers.activations import ACT2FN

import variants
from susc_pipeline.model import (
    checkpoint,
    components,
    decoder,
    decoder_weights,
    derivatives,
    families,
    perturbation,
    tangents,
)
from susc_pipeline.model.nonlinearity import NONLINEARITIES
from susc_pipeline.model.rotary import SCALINGS

EVERY_VARIANT = pytest.mark.parametrize("variant", variants.VARIANTS)
ONE_OF_EACH = pytest.mark.parametrize("variant", [name for name in variants.VARIANTS if "," not in name])


def made(model, component, ids, *, n_chains=2, n_directions=2, scale=0.1):
    generator = torch.Generator().manual_seed(component.layer + 5)
    n_parameters = components.n_parameters(model, component)
    deltas = scale * torch.randn(n_chains, n_parameters, generator=generator)
    along = torch.randn(n_directions, n_chains, n_parameters, generator=generator)
    return perturbation.prepare(model, component, ids, decoder.residual_stream(model, ids)), deltas, along


@EVERY_VARIANT
def test_losses_and_residual_stream_are_those_of_transformers(variant):
    module, model = variants.of(variant)
    ids = variants.token_ids()
    torch.testing.assert_close(decoder.token_losses(model, ids), variants.losses(module, ids), atol=1e-5, rtol=1e-5)
    *stream, normed = module(input_ids=ids, use_cache=False, output_hidden_states=True).hidden_states
    ours = decoder.residual_stream(model, ids)
    torch.testing.assert_close(ours[:-1], torch.stack(stream), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(decoder.normalize(ours[-1], model.final_norm, model), normed, atol=1e-5, rtol=1e-5)


@EVERY_VARIANT
def test_perturbed_components_are_the_module_with_its_weights_changed(variant):
    module, model = variants.of(variant)
    ids = variants.token_ids()
    at_rest = variants.losses(module, ids)
    for component in components.enumerate_components(model):
        own = components.weights(model, component)
        for name, views in variants.pieces(module, component).items():
            assert torch.equal(torch.cat(views), own[name]), component
        inputs, deltas, _ = made(model, component, ids)
        found = perturbation.losses(model, component, inputs, deltas)
        for chain, delta in enumerate(deltas):
            expected = variants.losses_of_changed(module, model, component, ids, delta)
            assert (expected - at_rest).abs().max() > 1e-4, component
            torch.testing.assert_close(
                found[chain], expected, atol=2e-5, rtol=1e-5, msg=lambda t, c=component: f"{c}: {t}"
            )


@EVERY_VARIANT
def test_slopes_are_central_differences_in_float64(variant):
    _, model = variants.of(variant)
    model, ids, step = variants.in_float64(model), variants.token_ids(), 1e-5
    every = components.enumerate_components(model)
    along_at_rest = {}
    for component in every:
        inputs, deltas, directions = made(model, component, ids, n_chains=1)
        deltas, directions = deltas.double(), directions.double()
        losses, slopes = tangents.losses_and_slopes(model, component, inputs, deltas, directions)
        exact = variants.exact_losses(model, component, ids, deltas[0]).float()
        torch.testing.assert_close(losses[0], exact, atol=1e-5, rtol=1e-5)
        for slope, along in zip(slopes[:, 0], directions[:, 0], strict=True):
            pair = [variants.exact_losses(model, component, ids, deltas[0] + sign * step * along) for sign in (1, -1)]
            exact = ((pair[0] - pair[1]) / (2 * step)).float()
            assert exact.abs().max() > 1e-2, component
            torch.testing.assert_close(slope, exact, atol=3e-5, rtol=3e-5, msg=lambda t, c=component: f"{c}: {t}")
        along_at_rest[component] = directions[:, 0]
    at_rest = tangents.slopes_at_rest(model, ids, along_at_rest)
    for component, slopes in zip(every, at_rest.slopes, strict=True):
        pair = [
            variants.exact_losses(model, component, ids, sign * step * along_at_rest[component][0]) for sign in (1, -1)
        ]
        exact = ((pair[0] - pair[1]) / (2 * step)).float()
        torch.testing.assert_close(slopes[0], exact, atol=3e-5, rtol=3e-5, msg=lambda t, c=component: f"{c}: {t}")


@EVERY_VARIANT
def test_gradients_are_the_mean_slopes_and_scores_are_finite(variant):
    _, model = variants.of(variant)
    ids = variants.token_ids()
    for component in components.enumerate_components(model):
        inputs, deltas, directions = made(model, component, ids)
        own = inputs.take(torch.tensor([[0, 1], [2, 0]]))
        gradient, losses = derivatives.gradients(model, component, own, deltas)
        expected = tangents.losses_and_slopes(model, component, own, deltas, directions)
        torch.testing.assert_close(losses, expected.losses.mean((1, 2)), atol=1e-5, rtol=1e-5)
        torch.testing.assert_close((directions * gradient).sum(2), expected.slopes.mean((2, 3)), atol=1e-4, rtol=1e-4)
        scores = derivatives.scores(model, component, inputs, deltas, torch.Generator().manual_seed(0))
        assert scores.isfinite().all() and scores.abs().max() > 0


@ONE_OF_EACH
def test_all_weights_hold_every_parameter_of_the_module_once(variant):
    module, model = variants.of(variant)
    assert components.n_parameters(model, components.ALL_WEIGHTS) == sum(p.numel() for p in module.parameters())
    ids = variants.token_ids()
    inputs, deltas, _ = made(model, components.ALL_WEIGHTS, ids)
    found = perturbation.losses(model, components.ALL_WEIGHTS, inputs, torch.zeros_like(deltas))
    torch.testing.assert_close(found[0], decoder.token_losses(model, ids), atol=1e-5, rtol=1e-5)


@ONE_OF_EACH
def test_bfloat16_is_the_same_to_rounding(variant):
    _, rounded = variants.of(variant, dtype=torch.bfloat16)
    exact = decoder_weights.with_weights(
        rounded, {n: w.float() for n, w in decoder_weights.named_weights(rounded).items()}
    )
    ids = variants.token_ids()
    for component in components.enumerate_components(rounded):
        inputs, deltas, directions = made(rounded, component, ids, scale=0.03)
        ours = tangents.losses_and_slopes(rounded, component, inputs, deltas, directions)
        torch.testing.assert_close(
            ours.losses, perturbation.losses(rounded, component, inputs, deltas), atol=0.3, rtol=0.1
        )
        inputs = perturbation.prepare(exact, component, ids, decoder.residual_stream(exact, ids))
        expected = tangents.losses_and_slopes(exact, component, inputs, deltas, directions)
        assert (ours.slopes - expected.slopes).norm() < 0.1 * expected.slopes.norm(), component


def same(one, other):
    one, other = decoder_weights.named_weights(one), decoder_weights.named_weights(other)
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@ONE_OF_EACH
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_folders_are_read_back(variant, dtype, tmp_path):
    module = variants.module(variant, dtype=dtype)
    module.save_pretrained(tmp_path)
    read = checkpoint.read(tmp_path, dtype=torch.bfloat16 if dtype == torch.bfloat16 else torch.float32, device="cpu")
    module = module.float() if dtype == torch.float16 else module
    expected = families.from_module(module)
    assert read.description == expected.description and same(read, expected)


def as_base_model(named):
    return {name.removeprefix("model."): tensor for name, tensor in named.items()}


def as_compiled(named):
    return {f"_orig_mod.{name}": tensor for name, tensor in named.items()}


def with_buffers(named):
    return named | {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(2)}


@pytest.fixture
def llama(tmp_path):
    module = variants.module("llama, grouped, tied")
    module.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def read(folder):
    return checkpoint.read(folder, dtype=torch.float32, device="cpu")


def change_config(folder, **changes):
    path = folder / "config.json"
    content = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({name: value for name, value in content.items() if value is not ...}))


def with_its_unembedding(named):
    return named | {"lm_head.weight": named["model.embed_tokens.weight"].clone()}


def with_its_unembedding_alone(named):
    return {name.replace("model.embed_tokens", "lm_head"): tensor for name, tensor in named.items()}


TIED = [with_its_unembedding, with_its_unembedding_alone]


@pytest.mark.parametrize("change", [as_base_model, as_compiled, with_buffers, *TIED])
def test_prefixes_and_buffers_of_checkpoints_are_recognized(llama, change):
    expected = read(llama)
    save_file(change(load_file(llama / "model.safetensors")), llama / "model.safetensors")
    assert same(read(llama), expected)


def test_tied_ends_that_differ_are_refused(llama):
    named = load_file(llama / "model.safetensors")
    save_file(named | {"lm_head.weight": named["model.embed_tokens.weight"] + 1}, llama / "model.safetensors")
    with pytest.raises(ValueError, match=r"ties model.embed_tokens.weight and lm_head.weight, but .* different ones"):
        read(llama)


def test_a_weight_under_two_names_is_refused(llama):
    named = load_file(llama / "model.safetensors")
    save_file(named | {"norm.weight": torch.ones(16)}, llama / "model.safetensors")
    with pytest.raises(ValueError, match="holds model.norm.weight twice; remove one"):
        read(llama)


def test_shards_are_those_of_the_index(llama):
    expected, module = read(llama), variants.module("llama, grouped, tied")
    (llama / "model.safetensors").unlink()
    module.save_pretrained(llama, max_shard_size="8KB")
    first = min(llama.glob("model-*.safetensors"))
    shutil.copy(first, llama / "model-00001-of-00009.safetensors")
    shutil.copy(first, llama / "ema.safetensors")
    assert len(checkpoint.weight_files(llama)) > 1 and same(read(llama), expected)
    index = llama / checkpoint.INDEX
    for names in ({"a": "../outside.safetensors"}, {"a": 3}, {"a": "absent.safetensors"}, [], None):
        index.write_text(json.dumps({"weight_map": names}))
        with pytest.raises(ValueError, match=r"index.json must name files of .*; fetch the model again"):
            read(llama)


REFUSED = {
    "mixtral": ({"model_type": "mixtral"}, "of a model_type among .*, got 'mixtral'"),
    "qwen2_moe": ({"model_type": "qwen2_moe"}, "of a model_type among .*, got 'qwen2_moe'"),
    "t5": ({"model_type": "t5"}, "of a model_type among .*, got 't5'"),
    "deepseek_v3": ({"model_type": "deepseek_v3"}, "of a model_type among .*, got 'deepseek_v3'"),
    "long rope": (
        {"rope_parameters": {"rope_type": "longrope"}},
        "rotary positions of a kind among .*, got 'longrope'",
    ),
    "old word": ({"rope_scaling": {"type": "su", "factor": 2}}, "rotary positions of a kind among .*, got 'su'"),
    "factor": ({"rope_scaling": {"type": "linear", "factor": -1}}, "factor must be a number above 0"),
    "no factor": ({"rope_scaling": {"type": "linear"}}, "factor must be a number above 0"),
    "no frequencies": ({"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, "low_freq_factor must be a number"),
    "both ways": ({"is_causal": False}, "is_causal false, but attention to later tokens is not computed here"),
    "bidirectional": ({"use_bidirectional_attention": True}, "attention to later tokens is not computed here"),
    "by layer": ({"rope_parameters": {"full_attention": {"rope_theta": 3.0}}}, "rotary positions for all layers"),
    "partial": ({"partial_rotary_factor": 0.5}, "partial_rotary_factor.* is not computed here"),
    "activation": ({"hidden_act": "xielu"}, "hidden_act that is known here, got 'xielu'"),
    "heads": ({"num_key_value_heads": 3}, "heads evenly into key-value heads"),
    "experts": ({"num_local_experts": 8}, "num_local_experts, but a mixture of experts is not computed here"),
    "shape": ({"hidden_size": 32, "head_dim": 4}, "must be .* floating-point numbers, as config.json has it"),
    "untied": ({"tie_word_embeddings": False}, "lacks 1 weights, lm_head.weight"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_computed_is_refused_by_name(llama, name):
    changes, message = REFUSED[name]
    change_config(llama, **changes)
    with pytest.raises(ValueError, match=message) as refusal:
        read(llama)
    assert str(llama) in str(refusal.value) and "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("variant", "changes", "message"),
    [
        ("gpt2", {"add_cross_attention": True}, "attention to an encoder is not computed here"),
        ("gpt_neo", {"attention_types": [[["sparse"], 2]]}, "attention_types must name global or local a layer"),
        ("gpt_neo", {"attention_types": 10**400}, "attention_types must name global or local a layer"),
        ("gemma3", {"use_bidirectional_attention": True}, "attention to later tokens is not computed here"),
        ("gemma3", {"layer_types": ["full_attention"]}, "layer_types must name one of"),
    ],
)
def test_features_of_a_family_that_are_not_computed_are_named(variant, changes, message, tmp_path):
    variants.module(variant).save_pretrained(tmp_path)
    change_config(tmp_path, **changes)
    with pytest.raises(ValueError, match=message):
        read(tmp_path)


LENGTH = "original_max_position_embeddings"


@pytest.mark.parametrize(
    ("changes", "same_as"),
    [
        # As transformers: yarn's factor is the ratio of both lengths, and a length beside the scaling goes before one in it.
        ({"rope_type": "yarn", "factor": None, LENGTH: 8}, {"rope_type": "yarn", "factor": 4.0, LENGTH: 8}),
        ({"rope_type": "yarn", "factor": 4.0, LENGTH: None}, {"rope_type": "yarn", "factor": 4.0, LENGTH: 32}),
        ({"rope_type": "yarn", "factor": 4.0, LENGTH: 16, "top": 8}, {"rope_type": "yarn", "factor": 4.0, LENGTH: 8}),
    ],
)
def test_what_a_rotary_scaling_leaves_out_is_taken_from_the_lengths(llama, changes, same_as):
    found = []
    for one in (changes, same_as):
        scaling = {name: value for name, value in one.items() if name != "top"}
        change_config(llama, rope_scaling=scaling, **{LENGTH: one.get("top", ...)})
        found.append(checkpoint.read_config(llama).attention[0].rotary)
    assert found[0] == found[1]


ODD = [0, -1, 1, 2**31, 10**400, 1.5, 1e400, float("nan"), True, None, "", "16", "default", [], {}, [1], {"a": 1}]
ROPE = [
    {"rope_type": kind, "factor": value, "rope_theta": 1} for kind in SCALINGS for value in (1, 1e-300, 1e400, None)
]
ROPE += [{"rope_type": "llama3", "low_freq_factor": 2, "high_freq_factor": 2}, {"type": {"a": 1}}, {"rope_type": None}]


@ONE_OF_EACH
def test_any_value_in_the_configuration_is_taken_or_refused(variant):
    """With nothing but a ValueError that says where the value lies."""
    content = variants.module(variant).config.to_dict()
    family, place = families.FAMILIES[content["model_type"]], Path("folder/config.json")
    keys = {*content, "rope_scaling", "rope_theta", "sliding_window_pattern", "num_experts", "rotary_pct"}
    for key, value in itertools.chain(
        itertools.product(keys, ODD), itertools.product(("rope_parameters", "rope_scaling"), ROPE)
    ):
        try:
            families.describe(family, families.Values({**content, key: value}, place))
        except ValueError as refusal:
            assert str(place) in str(refusal) and len(str(refusal)) < 500, (key, value)


@pytest.mark.parametrize("name", NONLINEARITIES)
def test_nonlinearities_and_their_slopes_are_those_of_transformers(name):
    x = torch.linspace(-4, 4, 80, dtype=torch.float64).requires_grad_()
    expected = ACT2FN[name](x)
    torch.testing.assert_close(NONLINEARITIES[name].apply(x), expected, atol=1e-7, rtol=1e-7)
    (slope,) = torch.autograd.grad(expected.sum(), x)
    torch.testing.assert_close(NONLINEARITIES[name].slope(x.detach()), slope, atol=1e-7, rtol=1e-7)


def test_components_are_chosen_by_patterns():
    _, model = variants.of("llama, grouped, tied")
    every = components.enumerate_components(model)
    assert [c.name for c in every[:8]] == ["embed", "L0H0", "L0H1", "L0H2", "L0H3", "L0KV0", "L0KV1", "L0MLP"]
    assert components.chosen(model) == every and "unembed" not in [c.name for c in every]
    found = [c.name for c in components.chosen(model, ("L1MLP", "L*KV1", "embed"))]
    assert found == ["embed", "L0KV1", "L1KV1", "L1MLP"]
    with pytest.raises(ValueError, match=r"no component matches 'L9\*' of model.components; the model has embed, L0H0"):
        components.chosen(model, ("embed", "L9*"))
