"""Qwen 2 and 3: as Llama, with biases of queries, keys and values (2) or norms of queries and keys, head by head (3)."""

from susc_pipeline.model.description import AttentionKind, Description
from susc_pipeline.model.families import llama
from susc_pipeline.model.families.family import Family
from susc_pipeline.model.families.values import Values

LAYER3 = {**llama.LAYER, "query_norm": "self_attn.q_norm", "key_norm": "self_attn.k_norm"}


def _attention(values: Values, size: int) -> tuple[AttentionKind, ...]:
    n_layers, rotary = values.n_layers(), values.rotary(size)
    slides = values.flag("use_sliding_window", False) and values.content.get("sliding_window", 4096) is not None
    first = values.count("max_window_layers", 28) if slides else n_layers
    types = ["sliding_attention" if number >= first else "full_attention" for number in range(n_layers)]
    windows = values.windows(types, default=4096) if slides else [None] * n_layers
    return tuple(AttentionKind(size**-0.5, rotary, window) for window in windows)


def describe_qwen2(values: Values) -> Description:
    """The description that config.json gives.

    Raises:
        ValueError: a value that no Qwen 2 can have, or a feature that is not computed here.
    """
    n_heads, n_groups, size = values.heads()
    return Description(
        **values.shape(n_heads, n_groups, size),
        **llama.common(values),
        attention=_attention(values, size),
        biases=("query_key_value",),
    )


def describe_qwen3(values: Values) -> Description:
    """The description that config.json gives.

    Raises:
        ValueError: a value that no Qwen 3 can have, or a feature that is not computed here.
    """
    n_heads, n_groups, size = values.heads(head_size=128)
    return Description(
        **values.shape(n_heads, n_groups, size),
        **llama.common(values),
        attention=_attention(values, size),
        biases=llama.ATTENTION_BIASES if values.flag("attention_bias", False) else (),
        norms=("attention_norm", "mlp_norm", "query_norm", "key_norm"),
    )


FAMILIES = {
    "qwen2": Family(describe=describe_qwen2, layer=llama.LAYER, **llama.NAMES),
    "qwen3": Family(describe=describe_qwen3, layer=LAYER3, **llama.NAMES),
}
