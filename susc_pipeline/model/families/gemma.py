"""Gemma 2 and 3 (text): norms before and behind, scaled embeddings, windows in most layers, soft caps (2), head norms (3)."""

from typing import Any

from susc_pipeline.model.description import AttentionKind, Description
from susc_pipeline.model.families import llama
from susc_pipeline.model.families.family import Family
from susc_pipeline.model.families.values import Values
from susc_pipeline.model.rotary import Rotary

NORMS = {
    "attention_norm": "input_layernorm",
    "attention_post_norm": "post_attention_layernorm",
    "mlp_norm": "pre_feedforward_layernorm",
    "mlp_post_norm": "post_feedforward_layernorm",
}
HEAD_NORMS = {"query_norm": "self_attn.q_norm", "key_norm": "self_attn.k_norm"}
MAX_NUMBER = 1e6


def _windows(values: Values, pattern: int) -> list[int | None]:
    types = ["sliding_attention" if (number + 1) % pattern else "full_attention" for number in range(values.n_layers())]
    return values.windows(types, default=4096)


def _common(values: Values) -> dict[str, Any]:
    return {
        "nonlinearity": values.nonlinearity("hidden_activation", "gelu_pytorch_tanh"),
        "gated": True,
        "root_mean_square": True,
        "norm_offset": 1.0,
        "norm_epsilon": values.number("rms_norm_eps", 1e-6, largest=1.0),
        "tied": values.flag("tie_word_embeddings", True),
        "embedding_scale": values.size("hidden_size") ** 0.5,
        "biases": llama.ATTENTION_BIASES if values.flag("attention_bias", False) else (),
    }


def describe_gemma2(values: Values) -> Description:
    """The description that config.json gives.

    Raises:
        ValueError: a value that no Gemma 2 can have, or a feature that is not computed here.
    """
    n_heads, n_groups, size = values.heads(head_size=256)
    scale = values.number("query_pre_attn_scalar", 256.0, largest=MAX_NUMBER) ** -0.5
    cap = values.number_or_none("attn_logit_softcapping", 50.0, largest=MAX_NUMBER)
    rotary = values.rotary(size)
    return Description(
        **values.shape(n_heads, n_groups, size),
        **_common(values),
        attention=tuple(AttentionKind(scale, rotary, window, cap) for window in _windows(values, 2)),
        norms=tuple(NORMS),
        final_cap=values.number_or_none("final_logit_softcapping", 30.0, largest=MAX_NUMBER),
    )


def describe_gemma3(values: Values) -> Description:
    """The description that config.json gives: layers with a window have a rotary base of their own.

    Raises:
        ValueError: a value that no Gemma 3 can have, or a feature that is not computed here.
    """
    n_heads, n_groups, size = values.heads(head_size=256)
    scale = values.number("query_pre_attn_scalar", 256.0, largest=MAX_NUMBER) ** -0.5
    values.absent("attn_logit_softcapping", "a soft cap of Gemma 3's attention")
    full, local = values.rotary(size, base=1e6, key="full_attention"), _local_rotary(values, size)
    pattern = values.size("sliding_window_pattern", values.size("_sliding_window_pattern", 6))
    windows = _windows(values, pattern)
    return Description(
        **values.shape(n_heads, n_groups, size),
        **_common(values),
        attention=tuple(AttentionKind(scale, local if window else full, window) for window in windows),
        norms=(*NORMS, *HEAD_NORMS),
        final_cap=values.number_or_none("final_logit_softcapping", largest=MAX_NUMBER),
    )


def _local_rotary(values: Values, size: int) -> Rotary:
    """Never scaled by `rope_scaling`, which is of the layers without a window."""
    base = values.number("rope_local_base_freq", 10_000.0, largest=1e15)
    return values.without("rope_scaling", "rope_theta").rotary(size, base=base, key="sliding_attention")


FAMILIES = {
    "gemma2": Family(describe=describe_gemma2, layer={**llama.LAYER, **NORMS}, **llama.NAMES),
    "gemma3_text": Family(describe=describe_gemma3, layer={**llama.LAYER, **NORMS, **HEAD_NORMS}, **llama.NAMES),
}
