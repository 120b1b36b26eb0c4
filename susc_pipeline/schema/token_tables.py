"""Columns of the tables of documents, contexts and tokens, and of the traces of chains."""

from collections.abc import Mapping

import polars as pl

DOCUMENTS = {
    "document_id": pl.String,
    "n_characters": pl.Int64,
    "sha256": pl.String,  # of the text in UTF-8
}
DOCUMENT_GROUPS = {
    "document_id": pl.String,
    "document_group": pl.Int64,  # documents of one number are near duplicates of each other
}
CONTEXTS = {
    "context_id": pl.Int64,  # unique in the experiment
    "document_id": pl.String,
    "start": pl.Int64,  # tokens of the document before the context
    "token_ids": pl.List(pl.Int32),
}
POPULATION = CONTEXTS | {
    "role": pl.String,  # directions or draws
    "chain": pl.Int32,  # the only one that reads the context
}
TOKEN_KEY = {
    "context_id": pl.Int64,
    "position": pl.Int32,  # from 1: the first token of a context is not predicted
    "document_id": pl.String,
    "token_id": pl.Int32,
}
ACTIVATIONS = ("activation", "loss_gradient")
LOSS = {"loss": pl.Float32}  # of the token at the trained weights


TRACE_SCALARS = ("mean_loss", "rest_loss", "reference_rise", "score", "mean_slope", "mean_own_slope", "mean_response")


def loss_traces(widths: Mapping[str, int]) -> dict[str, object]:
    """Losses under every draw of one component's chains: a row is a draw; what was not measured has width 0 and no column."""
    return {
        "component": pl.String,
        "chain": pl.Int16,
        "mirror": pl.Int8,  # 1 for the image of a chain whose noise has the opposite sign
        "draw": pl.Int32,
        "step": pl.Int32,
        **dict.fromkeys(TRACE_SCALARS, pl.Float64),
        **{name: pl.Array(pl.Float32, width) for name, width in widths.items() if width},
    }
