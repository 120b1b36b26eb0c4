"""Llama (SmolLM, TinyLlama, Llama 3) and Mistral: root-mean-square norms, rotary positions, grouped keys, gated MLP."""

from typing import Any

from susc_pipeline.model.description import AttentionKind, Description
from susc_pipeline.model.families.family import Family
from susc_pipeline.model.families.values import Values, same_in_every_layer

LAYER = {
    "attention_norm": "input_layernorm",
    "mlp_norm": "post_attention_layernorm",
    "query_key_value": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "dense": "self_attn.o_proj",
    "gate": "mlp.gate_proj",
    "up": "mlp.up_proj",
    "down": "mlp.down_proj",
}
NAMES: dict[str, Any] = {
    "prefix": "model",
    "embedding": "embed_tokens",
    "final_norm": "norm",
    "unembedding": "lm_head",
    "layers": "layers",
}
ATTENTION_BIASES = ("query_key_value", "dense")


def common(values: Values, *, epsilon: float = 1e-6) -> dict[str, Any]:
    """What this family and those after it share: norms, gate and ends."""
    return {
        "nonlinearity": values.nonlinearity("hidden_act", "silu"),
        "gated": True,
        "root_mean_square": True,
        "norm_epsilon": values.number("rms_norm_eps", epsilon, largest=1.0),
        "tied": values.flag("tie_word_embeddings", False),
    }


def describe_llama(values: Values) -> Description:
    """The description that config.json gives.

    Raises:
        ValueError: a value that no Llama can have, or a feature that is not computed here.
    """
    n_heads, n_groups, size = values.heads()
    biases = ATTENTION_BIASES if values.flag("attention_bias", False) else ()
    biases += ("gate", "up", "down") if values.flag("mlp_bias", False) else ()
    kind = AttentionKind(size**-0.5, values.rotary(size))
    return Description(
        **values.shape(n_heads, n_groups, size),
        **common(values),
        attention=same_in_every_layer(values, kind),
        biases=biases,
    )


def describe_mistral(values: Values) -> Description:
    """The description that config.json gives.

    Raises:
        ValueError: a value that no Mistral can have, or a feature that is not computed here.
    """
    n_heads, n_groups, size = values.heads()
    window = None if values.content.get("sliding_window", 4096) is None else values.size("sliding_window", 4096)
    kind = AttentionKind(size**-0.5, values.rotary(size), window)
    return Description(
        **values.shape(n_heads, n_groups, size), **common(values), attention=same_in_every_layer(values, kind)
    )


FAMILIES = {
    "llama": Family(describe=describe_llama, layer=LAYER, **NAMES),
    "mistral": Family(describe=describe_mistral, layer=LAYER, **NAMES),
}
