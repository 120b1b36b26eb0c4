"""Asset checks: each says in a sentence what is wrong and what to do. Per-token invariants are raised in the core."""

import shlex

import dagster as dg
import numpy as np
import polars as pl

from assets import basis, clusters, prediction, sampling
from assets.partitions import EXPERIMENT, GROUND_TRUTH_SHARDS
from resources.component_folder import ComponentFolder
from susc_pipeline import schema
from susc_pipeline.config import ExperimentConfig
from susc_pipeline.representation import moments
from susc_pipeline.sampling import diagnostics
from susc_pipeline.susceptibility import direction_files, regime

MIN_SHARE_OF_COMPONENTS = 0.9
LEAST_RELIABILITY = 0.5  # below it a column is more noise than signal
IDENTITY_TOLERANCE = 1e-2


def _result(passed: bool, sentence: str, remedy: str, *again: str, **metadata: float) -> dg.AssetCheckResult:
    """Say what was found, what mends it, and the command that makes the assets again, or all that is out of date."""
    command = f"susc-pipeline run --experiment {shlex.quote(EXPERIMENT.name)}" + f" --select {' '.join(again)}" * bool(
        again
    )
    text = f"{sentence}. Where it fails, {remedy}, then `{command}`."
    return dg.AssetCheckResult(passed=bool(passed), description=text, metadata=metadata)


@dg.asset_check(asset=sampling.response_directions)
def chains_are_sound(
    response_directions: ComponentFolder, experiment: dg.ResourceParam[ExperimentConfig]
) -> dg.AssetCheckResult:
    """Chains of a component agree (R-hat), and their loss lies above that at w*: the LLC is positive."""
    names = response_directions.components()
    rises = [
        regime.rises(direction_files.diagnostics(response_directions.whole(name)), experiment.sampling)
        for name in names
    ]
    r_hats = [diagnostics.r_hat(rise) for rise in rises if rise.shape[1] >= 4]
    limits = [diagnostics.r_hat_limit(*rise.shape) for rise in rises if rise.shape[1] >= 4]
    agreeing = float(np.mean([found < limit for found, limit in zip(r_hats, limits)])) if r_hats else 1.0
    positive = float(np.mean([rise.mean() > 0 for rise in rises]))
    sentence = (
        f"{agreeing:.0%} of components have an R-hat that chains which agree may have by chance, and {positive:.0%} a mean "
        f"loss above that at w*; {MIN_SHARE_OF_COMPONENTS:.0%} are wanted"
    )
    return _result(
        min(agreeing, positive) >= MIN_SHARE_OF_COMPONENTS,
        sentence,
        "raise sampling.n_burn_in, or lower sampling.step_size or sampling.n_beta",
        share_agreeing=agreeing,
        share_above=positive,
        median_r_hat=float(np.median(r_hats or [1.0])),
    )


@dg.asset_check(asset=sampling.response_directions)
def directions_are_reliable(
    response_directions: ComponentFolder, experiment: dg.ResourceParam[ExperimentConfig]
) -> dg.AssetCheckResult:
    """The directions reach the reliability asked for; where they do not, the sentence says what they reach and why."""
    wanted = experiment.directions.reliability
    names = response_directions.components()
    found = [direction_files.diagnostics(response_directions.whole(name)) for name in names]
    short = {name: one.reliability for name, one in zip(names, found) if one.reliability < wanted}
    n_limited = sum(not np.isfinite(one.n_contexts_needed) for one in found)
    n_population = found[0].n_rest_contexts if found else 0
    least = min((one.reliability for one in found), default=0.0)
    listed = ", ".join(f"{name} {value:.2f}" for name, value in sorted(short.items(), key=lambda item: item[1])[:8])
    sentence = (
        f"{len(names) - len(short)} of {len(names)} components reach directions.reliability ({wanted:g}); the others: "
        f"{listed or 'none'}. For {n_limited} the population of {n_population} contexts is too small for 0.9"
    )
    remedy = "raise tokens.population_share or add documents for those, directions.max_contexts for the rest"
    return _result(least >= LEAST_RELIABILITY, sentence, remedy, least=least, below=len(short))


@dg.asset_check(asset=dg.AssetKey("ground_truth_susceptibilities"), partitions_def=GROUND_TRUTH_SHARDS)
def susceptibilities_are_finite(ground_truth_susceptibilities: pl.DataFrame) -> dg.AssetCheckResult:
    """No susceptibility is nan or infinite, and every component varies over tokens."""
    values = schema.matrix(ground_truth_susceptibilities["susceptibility"])
    n_bad, n_constant = int(np.sum(~np.isfinite(values))), int(np.sum(values.std(axis=0) == 0))
    sentence = f"{n_bad} values are not finite and {n_constant} components constant"
    found = {"not_finite": n_bad, "constant_components": n_constant}
    return _result(n_bad == 0 and n_constant == 0, sentence, "lower sampling.step_size", **found)


@dg.asset_check(asset=basis.aux_correlation)
def predictions_beat_chance(aux_correlation: pl.DataFrame) -> dg.AssetCheckResult:
    """The first PCs are predicted better than 95 % of permutations would be."""
    above = aux_correlation["r"] > aux_correlation["null_95"]
    n_leading = max(1, aux_correlation.height // 2)
    share = float(above.head(n_leading).mean() or 0.0)
    sentence = (
        f"{share:.0%} of the first {n_leading} PCs are above the permutation null; below 80 % the auxiliary model has "
        f"learnt little"
    )
    found = {"share_above_null": share, "mean_r": float(aux_correlation["r"].mean() or 0.0)}
    return _result(share >= 0.8, sentence, "raise directions.reliability or tokens.n_shards", **found)


@dg.asset_check(asset=clusters.knn_graph, additional_ins=clusters.ALL_WHITENED)
def whitened_covariance_is_the_identity(whitened_susceptibilities: dict[str, pl.LazyFrame]) -> dg.AssetCheckResult:
    """Whitened vectors have unit variance in every direction and no correlation, over all shards together."""
    merged = moments.merge_all(
        moments.of(schema.stack({shard: frame}, "whitened").values)
        for shard, frame in sorted(whitened_susceptibilities.items())
    )
    error = float(np.abs(merged.covariance - np.eye(len(merged.mean))).max())
    sentence = (
        f"the covariance of the whitened vectors is off the identity by {error:.2g}; above {IDENTITY_TOLERANCE:g} the "
        f"basis is older than the predictions"
    )
    again = "whitening_basis", "whitened_susceptibilities"
    return _result(
        error < IDENTITY_TOLERANCE, sentence, "end other runs of the experiment", *again, largest_error=error
    )


@dg.asset_check(asset=dg.AssetKey("clusters"))
def clusters_are_below_the_threshold(
    clusters: pl.DataFrame, experiment: dg.ResourceParam[ExperimentConfig]
) -> dg.AssetCheckResult:
    """There are clusters, and nearly none leaks more than the threshold (overlap with an earlier one may raise it)."""
    limit = experiment.clustering.max_conductance
    share = float((clusters["conductance"] <= limit).mean() or 0.0)
    sentence = (
        f"{clusters.height} clusters, {share:.0%} with conductance at most {limit:g}; at least one and 90 % are wanted"
    )
    remedy, found = "change clustering.max_conductance or raise tokens.n_shards", {"clusters": clusters.height}
    return _result(clusters.height > 0 and share >= 0.9, sentence, remedy, **found, share_below=share)


@dg.asset_check(asset=prediction.leakage)
def predictions_are_not_activations(leakage: pl.DataFrame) -> dg.AssetCheckResult:
    """CKA of predictions with activations is beyond neither the ground truth's by far nor, for both, chance's."""
    peak = {name: float(leakage.filter(space=name)["cka"].max()) for name in ("ground_truth", "prediction")}
    sentence = (
        f"peak CKA with activations is {peak['prediction']:.2f} for predictions and {peak['ground_truth']:.2f} for the "
        f"ground truth; predictions near 1 repeat the activations"
    )
    found = {f"peak_cka_{name}": value for name, value in peak.items()}
    return _result(peak["prediction"] < 0.9, sentence, "raise aux.l1_penalty or tokens.n_ground_truth_shards", **found)


ALL = [
    chains_are_sound,
    directions_are_reliable,
    susceptibilities_are_finite,
    predictions_beat_chance,
    whitened_covariance_is_the_identity,
    clusters_are_below_the_threshold,
    predictions_are_not_activations,
]
