"""Small random models of transformers' own classes: the families that decoder.py computes, with their switches."""

from typing import NamedTuple

import torch
import transformers
from torch import Tensor
from torch.nn import functional

from susc_pipeline.model import components, decoder, decoder_weights, families

VOCABULARY, POSITIONS = 40, 32
SIZES = {"vocab_size": VOCABULARY, "hidden_size": 16, "intermediate_size": 24, "max_position_embeddings": POSITIONS}
SIZES |= {"num_hidden_layers": 2, "num_attention_heads": 4, "initializer_range": 0.3}
GPT2 = {"vocab_size": VOCABULARY, "n_embd": 16, "n_inner": 24, "n_positions": POSITIONS, "n_layer": 2, "n_head": 2}
GPT_NEO = {"vocab_size": VOCABULARY, "hidden_size": 16, "intermediate_size": 24, "max_position_embeddings": POSITIONS}
GPT_NEO |= {"num_layers": 2, "num_heads": 2, "window_size": 3, "attention_types": [[["global", "local"], 1]]}
GPT2, GPT_NEO = ({**sizes, "initializer_range": 0.3} for sizes in (GPT2, GPT_NEO))
NEOX = {**SIZES, "num_attention_heads": 2}
GROUPED = {**SIZES, "num_key_value_heads": 2}
GEMMA = {**GROUPED, "head_dim": 6, "query_pre_attn_scalar": 9, "sliding_window": 3}
TYPES = {"layer_types": ["sliding_attention", "full_attention"]}


def rope(kind, **values):
    return {"rope_parameters": {"rope_type": kind, "rope_theta": 300.0, **values}}


LLAMA3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 16}
VARIANTS = {
    "gpt_neox": ("GPTNeoX", NEOX),
    "gpt_neox, sequential, no bias": ("GPTNeoX", {**NEOX, "use_parallel_residual": False, "attention_bias": False}),
    "gpt_neox, tied, gelu_fast": ("GPTNeoX", {**NEOX, "tie_word_embeddings": True, "hidden_act": "gelu_fast"}),
    "gpt_neox, linear scaling": (
        "GPTNeoX",
        {**NEOX, **rope("linear", factor=2.0, partial_rotary_factor=0.5)},
    ),
    "gpt2": ("GPT2", GPT2),
    "gpt2, untied, by depth": ("GPT2", {**GPT2, "tie_word_embeddings": False, "scale_attn_by_inverse_layer_idx": True}),
    "gpt2, not scaled, silu": ("GPT2", {**GPT2, "scale_attn_weights": False, "activation_function": "silu"}),
    "gpt_neo": ("GPTNeo", GPT_NEO),
    "gpt_neo, untied": ("GPTNeo", {**GPT_NEO, "tie_word_embeddings": False}),
    "llama": ("Llama", SIZES),
    "llama, grouped, tied": ("Llama", {**GROUPED, "tie_word_embeddings": True}),
    "llama, one group, head size": ("Llama", {**SIZES, "num_key_value_heads": 1, "head_dim": 6}),
    "llama, biases": ("Llama", {**GROUPED, "attention_bias": True, "mlp_bias": True}),
    "llama, linear scaling": ("Llama", {**GROUPED, **rope("linear", factor=4.0)}),
    "llama, dynamic scaling": ("Llama", {**GROUPED, **rope("dynamic", factor=2.0)}),
    "llama, llama3 scaling": ("Llama", {**SIZES, "head_dim": 8, **rope("llama3", factor=8.0, **LLAMA3)}),
    "llama, yarn scaling": (
        "Llama",
        {**SIZES, "head_dim": 8, **rope("yarn", factor=4.0, original_max_position_embeddings=8)},
    ),
    "mistral": ("Mistral", {**GROUPED, "sliding_window": None}),
    "mistral, window": ("Mistral", {**GROUPED, "sliding_window": 3, "head_dim": 6}),
    "qwen2": ("Qwen2", GROUPED),
    "qwen2, window, tied": (
        "Qwen2",
        {
            **GROUPED,
            "use_sliding_window": True,
            "sliding_window": 3,
            "max_window_layers": 1,
            "tie_word_embeddings": True,
        },
    ),
    "qwen3": ("Qwen3", {**GROUPED, "head_dim": 6}),
    "qwen3, biases, ungrouped": ("Qwen3", {**SIZES, "head_dim": 6, "num_key_value_heads": 4, "attention_bias": True}),
    "olmo2": ("Olmo2", SIZES),
    "olmo2, grouped, biases": ("Olmo2", {**GROUPED, "attention_bias": True}),
    "gemma2": ("Gemma2", {**GEMMA, **TYPES, "attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0}),
    "gemma2, no caps, untied": (
        "Gemma2",
        {**GEMMA, "attn_logit_softcapping": None, "final_logit_softcapping": None, "tie_word_embeddings": False},
    ),
    "gemma3": ("Gemma3", {**GEMMA, **TYPES}),
    "gemma3, scaled, capped": (
        "Gemma3",
        {
            **{**GEMMA, **TYPES, "final_logit_softcapping": 3.0},
            "rope_parameters": {
                "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 300.0},
                "sliding_attention": {"rope_type": "default", "rope_theta": 50.0},
            },
        },
    ),
}
HEAD = {"GPT2": "LMHeadModel"}
CONFIG = {"Gemma3": "Gemma3TextConfig"}
UNUSED = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}


def module(variant, *, dtype=torch.float32):
    """A random model, its vectors moved away from ones and zeros."""
    name, values = VARIANTS[variant]
    transformers.logging.set_verbosity_error()
    config = getattr(transformers, CONFIG.get(name, f"{name}Config"))(**values, **UNUSED)
    config._attn_implementation = "eager"
    torch.manual_seed(0)
    made = getattr(transformers, f"{name}{HEAD.get(name, 'ForCausalLM')}")(config).eval().requires_grad_(False)
    for parameter in made.parameters():
        if parameter.ndim == 1:
            parameter.add_(0.3 * torch.randn(parameter.shape))
    return made.to(dtype)


def token_ids(n_contexts=3, n_positions=9):
    return torch.randint(VOCABULARY, (n_contexts, n_positions), generator=torch.Generator().manual_seed(1))


class Names(NamedTuple):
    """Of matrices in a layer of the module."""

    queries: str
    keys: str
    values: str
    output: str
    mlp: dict[str, str]


_LLAMA = Names(
    *(f"self_attn.{letter}_proj" for letter in "qkvo"), {name: f"mlp.{name}_proj" for name in ("up", "down", "gate")}
)
_NEO = Names(
    *(f"attn.attention.{name}_proj" for name in ("q", "k", "v", "out")), {"up": "mlp.c_fc", "down": "mlp.c_proj"}
)


def pieces(module, component) -> dict[str, list[Tensor]]:
    """The component's weights as views of the module's, which this file finds by names of its own."""
    base = next(child for name, child in module.named_children() if name != "lm_head")
    if component.kind in ("embed", "unembed"):
        end = {"embed": module.get_input_embeddings(), "unembed": module.get_output_embeddings()}[component.kind]
        return {f"{component.kind}ding": [end.weight]}
    kind = module.config.model_type
    layer = (base.layers if hasattr(base, "layers") else base.h)[component.layer]
    return {"gpt_neox": _gpt_neox, "gpt2": _gpt2}.get(kind, _separate)(module.config, layer, component)


def _separate(config, layer, component) -> dict[str, list[Tensor]]:
    names = _NEO if config.model_type == "gpt_neo" else _LLAMA
    if component.kind == "mlp":
        return _mlp(layer, names.mlp)
    n_heads = config.num_attention_heads
    n_groups = getattr(config, "num_key_value_heads", n_heads)
    output = layer.get_submodule(names.output).weight
    size = output.shape[1] // n_heads
    rows = slice(component.head * size, (component.head + 1) * size)
    shared = n_groups < n_heads
    chosen = {"key_value": (names.keys, names.values), "head": (names.queries, names.keys, names.values)}[
        component.kind
    ]
    chosen = (names.queries,) if component.kind == "head" and shared else chosen
    key = "key_value" if component.kind == "key_value" else "query" if shared else "query_key_value"
    linears = [layer.get_submodule(name) for name in chosen]
    found = {key: [linear.weight[rows] for linear in linears]}
    found |= {"output": [output[:, rows]]} if component.kind == "head" else {}
    return found | ({} if linears[0].bias is None else {f"{key}_bias": [linear.bias[rows] for linear in linears]})


def _mlp(layer, names, transposed=False) -> dict[str, list[Tensor]]:
    linears = {name: layer.get_submodule(place) for name, place in names.items()}
    found = {name: [linear.weight.T if transposed else linear.weight] for name, linear in linears.items()}
    return found | {f"{name}_bias": [linear.bias] for name, linear in linears.items() if linear.bias is not None}


def _gpt_neox(config, layer, component) -> dict[str, list[Tensor]]:
    if component.kind == "mlp":
        return _mlp(layer, {"up": "mlp.dense_h_to_4h", "down": "mlp.dense_4h_to_h"})
    size = config.hidden_size // config.num_attention_heads
    rows = slice(3 * component.head * size, 3 * (component.head + 1) * size)
    stacked, columns = layer.attention.query_key_value, slice(component.head * size, (component.head + 1) * size)
    found = {"query_key_value": [stacked.weight[rows]], "output": [layer.attention.dense.weight[:, columns]]}
    return found | ({} if stacked.bias is None else {"query_key_value_bias": [stacked.bias[rows]]})


def _gpt2(config, layer, component) -> dict[str, list[Tensor]]:
    if component.kind == "mlp":
        return _mlp(layer, {"up": "mlp.c_fc", "down": "mlp.c_proj"}, transposed=True)
    width, size = config.n_embd, config.n_embd // config.n_head
    starts = [part * width + component.head * size for part in range(3)]
    columns = slice(component.head * size, (component.head + 1) * size)
    return {
        "query_key_value": [layer.attn.c_attn.weight[:, start : start + size].T for start in starts],
        "query_key_value_bias": [layer.attn.c_attn.bias[start : start + size] for start in starts],
        "output": [layer.attn.c_proj.weight[columns].T],
    }


def losses(module, ids) -> Tensor:
    """Of each token but the first, by transformers."""
    logits = module(input_ids=ids, use_cache=False).logits[:, :-1].float()
    return functional.cross_entropy(logits.transpose(1, 2), ids[:, 1:], reduction="none")


def losses_of_changed(module, model, component, ids, delta) -> Tensor:
    """The same with the component's weights in the module changed by a flat vector."""
    shapes = {name: weight.shape for name, weight in components.weights(model, component).items()}
    changes, places = components.unflatten(delta[None], shapes), pieces(module, component)
    before = module.state_dict()
    before = {name: tensor.clone() for name, tensor in before.items()}
    for name, views in places.items():
        for view, change in zip(views, changes[name][0].split([len(view) for view in views]), strict=True):
            view.add_(change)
    found = losses(module, ids)
    module.load_state_dict(before)
    return found


def of(variant, **options):
    """The module and our own model of it."""
    made = module(variant, **options)
    return made, families.from_module(made)


def in_float64(model):
    return decoder_weights.with_weights(
        model, {name: w.double() for name, w in decoder_weights.named_weights(model).items()}
    )


def exact_losses(model, component, ids, change):
    """In float64, all logits at once, with the component's weights changed by a flat vector."""
    named = {name: weight.clone() for name, weight in decoder_weights.named_weights(model).items()}
    moved = decoder_weights.with_weights(model, named)
    views = components.weights(moved, component)
    changes = components.unflatten(change[None], {name: view.shape for name, view in views.items()})
    for name, view in views.items():
        view.add_(changes[name][0])
    x = decoder.embed(moved, ids)
    for layer in moved.layers:
        x = decoder.run_layer(x, layer, moved)
    logits = decoder.normalize(x, moved.final_norm, moved)[:, :-1] @ moved.unembedding.T
    logits = decoder.capped(logits, moved.description.final_cap)
    return functional.cross_entropy(logits.transpose(1, 2), ids[:, 1:], reduction="none")
