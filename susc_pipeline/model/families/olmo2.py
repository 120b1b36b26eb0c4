"""OLMo 2: norms behind attention and MLP instead of before, and of queries and keys over all heads together."""

from susc_pipeline.model.description import AttentionKind, Description
from susc_pipeline.model.families import llama
from susc_pipeline.model.families.family import Family
from susc_pipeline.model.families.values import Values, same_in_every_layer

NORMS = {
    "query_norm": "self_attn.q_norm",
    "key_norm": "self_attn.k_norm",
    "attention_post_norm": "post_attention_layernorm",
    "mlp_post_norm": "post_feedforward_layernorm",
}


def describe(values: Values) -> Description:
    """The description that config.json gives.

    Raises:
        ValueError: a value that no OLMo 2 can have, or a feature that is not computed here.
    """
    n_heads, n_groups, size = values.heads()
    return Description(
        **values.shape(n_heads, n_groups, size),
        **llama.common(values, epsilon=1e-5),
        attention=same_in_every_layer(values, AttentionKind(size**-0.5, values.rotary(size))),
        biases=llama.ATTENTION_BIASES if values.flag("attention_bias", False) else (),
        norms=tuple(NORMS),
        wide_head_norms=True,
    )


FAMILIES = {"olmo2": Family(describe=describe, layer={**llama.LAYER, **NORMS}, **llama.NAMES)}
