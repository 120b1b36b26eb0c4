"""GPT-NeoX (Pythia): layer norms, partial rotary positions, one stacked matrix of queries, keys and values, head by head."""

from susc_pipeline.model.description import AttentionKind, Description
from susc_pipeline.model.families.family import Family
from susc_pipeline.model.families.values import Values, same_in_every_layer

LAYER = {
    "attention_norm": "input_layernorm",
    "mlp_norm": "post_attention_layernorm",
    "query_key_value": "attention.query_key_value",
    "dense": "attention.dense",
    "up": "mlp.dense_h_to_4h",
    "down": "mlp.dense_4h_to_h",
}


def describe(values: Values) -> Description:
    """The description that config.json gives.

    Raises:
        ValueError: a value that no GPT-NeoX can have, or a feature that is not computed here.
    """
    n_heads, size = values.equal_heads()
    base = values.number("rotary_emb_base", 10_000.0, largest=1e15)
    values = values.without("rope_theta", "partial_rotary_factor")
    rotary = values.rotary(size, share=values.number("rotary_pct", 0.25, largest=1.0), base=base, partial=True)
    in_attention = ("query_key_value", "dense") if values.flag("attention_bias", True) else ()
    return Description(
        **values.shape(n_heads, n_heads, size),
        attention=same_in_every_layer(values, AttentionKind(size**-0.5, rotary)),
        nonlinearity=values.nonlinearity("hidden_act", "gelu"),
        biases=("up", "down", *in_attention),
        norm_epsilon=values.number("layer_norm_eps", 1e-5, largest=1.0),
        parallel_residual=values.flag("use_parallel_residual", True),
        tied=values.flag("tie_word_embeddings", False),
    )


FAMILIES = {
    "gpt_neox": Family(
        describe=describe,
        prefix="gpt_neox",
        embedding="embed_in",
        final_norm="final_layer_norm",
        unembedding="embed_out",
        layers="layers",
        layer=LAYER,
        grouped=True,
        also_named={"lm_head.weight": "embed_out.weight"},
    )
}
