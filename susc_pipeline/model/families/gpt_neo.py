"""GPT-Neo (TinyStories): learned positions, attention that is not scaled, every other layer with a window."""

from susc_pipeline.messages import shown
from susc_pipeline.model.description import AttentionKind, Description
from susc_pipeline.model.families.family import Family
from susc_pipeline.model.families.values import Values

NAMES = {"num_heads": "num_attention_heads", "num_layers": "num_hidden_layers"}
LAYER = {
    "attention_norm": "ln_1",
    "mlp_norm": "ln_2",
    "query_key_value": ("attn.attention.q_proj", "attn.attention.k_proj", "attn.attention.v_proj"),
    "dense": "attn.attention.out_proj",
    "up": "mlp.c_fc",
    "down": "mlp.c_proj",
}


def describe(values: Values) -> Description:
    """The description that config.json gives.

    Raises:
        ValueError: a value that no GPT-Neo can have, or a feature that is not computed here.
    """
    values = values.renamed(NAMES)
    n_heads, size = values.equal_heads()
    windows = {"global": None, "local": values.size("window_size", 256)}
    return Description(
        **values.shape(n_heads, n_heads, size, inner_size=4 * values.size("hidden_size")),
        attention=tuple(AttentionKind(1.0, window=windows[kind]) for kind in _kinds(values)),
        nonlinearity=values.nonlinearity("activation_function", "gelu_new"),
        biases=("dense", "up", "down"),
        norm_epsilon=values.number("layer_norm_epsilon", 1e-5, largest=1.0),
        learned_positions=True,
        tied=values.flag("tie_word_embeddings", True),
    )


def _kinds(values: Values) -> list[str]:
    """`global` or `local` for each layer: runs of [kinds, times], one after another."""
    runs, n_layers = values.content.get("attention_types"), values.n_layers()
    runs = [[["global", "local"], 12]] if runs is None else runs
    try:
        kinds = [kind for names, times in runs for kind in list(names) * min(int(times), n_layers)]
    except (TypeError, ValueError, OverflowError):
        kinds = []
    if len(kinds) != n_layers or any(kind not in ("global", "local") for kind in kinds):
        raise ValueError(f"attention_types must name global or local a layer, got {shown(runs)}; correct {values.path}")
    return kinds


FAMILIES = {
    "gpt_neo": Family(
        describe=describe,
        prefix="transformer",
        embedding="wte",
        positions="wpe",
        final_norm="ln_f",
        unembedding="lm_head",
        layers="h",
        layer=LAYER,
    )
}
