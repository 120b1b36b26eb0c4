"""Columns of the tables that join the checkpoints of one training run, each with its meaning in docs/development.md."""

import polars as pl

DEVELOPMENT_COMPONENTS = {
    "step": pl.Int64,
    "component": pl.String,
    "kind": pl.String,
    "layer": pl.Int32,
    "head": pl.Int32,
    "llc": pl.Float64,
    "llc_error": pl.Float64,
    "reliability": pl.Float64,
    "reliability_low": pl.Float64,
    "reliability_high": pl.Float64,
    "mean_response": pl.Float64,
    "variance_share": pl.Float64,
}
DEVELOPMENT_CHANGES = {
    "component": pl.String,
    "step": pl.Int64,
    "next_step": pl.Int64,
    "change": pl.Float64,
    "change_error": pl.Float64,
    "p_value": pl.Float64,
    "p_adjusted": pl.Float64,
}
DEVELOPMENT_SEPARATIONS = {
    "component": pl.String,
    "step": pl.Int64,
    "separation": pl.Float64,
    "separation_error": pl.Float64,
    "p_value": pl.Float64,
    "p_adjusted": pl.Float64,
}
DEVELOPMENT_HEADS = {
    "step": pl.Int64,
    "scope": pl.String,
    "mean_llc": pl.Float64,
    "spread": pl.Float64,
    "noise": pl.Float64,
    "statistic": pl.Float64,
    "p_value": pl.Float64,
    "p_adjusted": pl.Float64,
}
DEVELOPMENT_AXES = {
    "step": pl.Int64,
    "next_step": pl.Int64,
    "pc": pl.Int64,
    "next_pc": pl.Int64,
    "cosine": pl.Float64,
    "chance": pl.Float64,
    "chance_high": pl.Float64,
}
DEVELOPMENT_CLUSTERS = {
    "step": pl.Int64,
    "cluster": pl.Int64,
    "lineage": pl.Int64,
    "size": pl.Int64,
    "previous_cluster": pl.Int64,
    "jaccard": pl.Float64,
    "growth": pl.Float64,
    "is_born": pl.Boolean,
    "is_dead": pl.Boolean,
    "half_jaccard": pl.Float64,
    "tokens": pl.String,
}
DEVELOPMENT_MATCHES = {
    "step": pl.Int64,
    "next_step": pl.Int64,
    "clusters": pl.Int64,
    "next_clusters": pl.Int64,
    "matched": pl.Int64,
    "matched_by_chance": pl.Float64,
    "chance_high": pl.Float64,
}
DEVELOPMENT_TOKENS = {
    "step": pl.Int64,
    "next_step": pl.Int64,
    "context_id": pl.Int64,
    "position": pl.Int32,
    "token": pl.String,
    "before": pl.String,
    "change": pl.Float64,
    "loss": pl.Float64,
    "next_loss": pl.Float64,
}
