"""GPT-2: layer norms, learned positions, tied ends, matrices stored inputs by outputs."""

from susc_pipeline.model.description import AttentionKind, Description
from susc_pipeline.model.families.family import Family
from susc_pipeline.model.families.values import Values

NAMES = {"n_embd": "hidden_size", "n_head": "num_attention_heads", "n_layer": "num_hidden_layers"}
NAMES |= {"n_positions": "max_position_embeddings", "n_inner": "intermediate_size"}
LAYER = {
    "attention_norm": "ln_1",
    "mlp_norm": "ln_2",
    "query_key_value": "attn.c_attn",
    "dense": "attn.c_proj",
    "up": "mlp.c_fc",
    "down": "mlp.c_proj",
}


def describe(values: Values) -> Description:
    """The description that config.json gives.

    Raises:
        ValueError: a value that no GPT-2 can have, or a feature that is not computed here.
    """
    values = values.renamed(NAMES)
    values.absent("add_cross_attention", "attention to an encoder")
    n_heads, size = values.equal_heads()
    scale = size**-0.5 if values.flag("scale_attn_weights", True) else 1.0
    by_depth = values.flag("scale_attn_by_inverse_layer_idx", False)
    depths = [number + 1 if by_depth else 1 for number in range(values.n_layers())]
    return Description(
        **values.shape(n_heads, n_heads, size, inner_size=4 * values.size("hidden_size")),
        attention=tuple(AttentionKind(scale / depth) for depth in depths),
        nonlinearity=values.nonlinearity("activation_function", "gelu_new"),
        biases=("query_key_value", "dense", "up", "down"),
        norm_epsilon=values.number("layer_norm_epsilon", 1e-5, largest=1.0),
        learned_positions=True,
        tied=values.flag("tie_word_embeddings", True),
    )


FAMILIES = {
    "gpt2": Family(
        describe=describe,
        prefix="transformer",
        embedding="wte",
        positions="wpe",
        final_norm="ln_f",
        unembedding="lm_head",
        layers="h",
        layer=LAYER,
        transposed=True,
    )
}
