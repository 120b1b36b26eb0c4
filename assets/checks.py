"""Asset checks: each says in a sentence what is wrong and what to do. Per-token invariants are raised in the core."""

import dagster as dg
import numpy as np
import polars as pl

from assets import basis, clusters, ground_truth, prediction
from assets.partitions import GROUND_TRUTH_SHARDS
from resources.trace_folder import TraceFolder
from susc_pipeline import schema
from susc_pipeline.config import ExperimentConfig
from susc_pipeline.representation import moments
from susc_pipeline.sampling import diagnostics, loss_traces

MIN_SHARE_OF_COMPONENTS = 0.9
IDENTITY_TOLERANCE = 1e-2


def _result(passed: bool, sentence: str, **metadata: float) -> dg.AssetCheckResult:
    return dg.AssetCheckResult(passed=bool(passed), description=sentence, metadata=metadata)


@dg.asset_check(asset=ground_truth.sgld_samples, partitions_def=GROUND_TRUTH_SHARDS)
def chains_are_sound(sgld_samples: TraceFolder, experiment: dg.ResourceParam[ExperimentConfig]) -> dg.AssetCheckResult:
    """Chains of a component agree (R-hat), and their loss lies above that at w*: the LLC is positive."""
    n_chains, n_draws = experiment.sampling.n_chains, experiment.sampling.n_draws
    r_hats, coefficients = [], []
    for component in sgld_samples.components():
        traces = loss_traces.of_frame(sgld_samples.read(component))
        by_chain = traces.mean_loss.reshape(n_chains, -1)
        if by_chain.shape[1] >= 4:
            r_hats.append(diagnostics.r_hat(by_chain))
        found = diagnostics.local_learning_coefficient(
            by_chain, init_loss=traces.init_loss, n_beta=max(experiment.sampling.n_beta, 1e-9)
        )
        coefficients.append(found.value)
    limit = diagnostics.r_hat_limit(n_chains, n_draws) if r_hats else np.inf
    agreeing = float(np.mean(np.array(r_hats or [1.0]) < limit))
    positive = float(np.mean(np.array(coefficients) > 0))
    sentence = (
        f"{agreeing:.0%} of components have R-hat below {limit:.2f}, what so few draws reach by chance, and "
        f"{positive:.0%} a positive LLC; below {MIN_SHARE_OF_COMPONENTS:.0%} raise sampling.n_burn_in, or lower "
        f"sampling.step_size or sampling.n_beta"
    )
    return _result(
        min(agreeing, positive) >= MIN_SHARE_OF_COMPONENTS,
        sentence,
        share_agreeing=agreeing,
        share_llc_positive=positive,
        median_r_hat=float(np.median(r_hats or [1.0])),
        median_llc=float(np.median(coefficients)),
    )


@dg.asset_check(asset=ground_truth.ground_truth_susceptibilities, partitions_def=GROUND_TRUTH_SHARDS)
def susceptibilities_are_finite(ground_truth_susceptibilities: pl.DataFrame) -> dg.AssetCheckResult:
    """No susceptibility is nan or infinite, and every component varies over tokens."""
    values = schema.matrix(ground_truth_susceptibilities["susceptibility"])
    n_bad, n_constant = int(np.sum(~np.isfinite(values))), int(np.sum(values.std(axis=0) == 0))
    sentence = (
        f"{n_bad} values are not finite and {n_constant} components constant; if any, materialize sgld_samples again"
    )
    return _result(n_bad == 0 and n_constant == 0, sentence, not_finite=n_bad, constant_components=n_constant)


@dg.asset_check(asset=basis.aux_correlation)
def predictions_beat_chance(aux_correlation: pl.DataFrame) -> dg.AssetCheckResult:
    """The first PCs are predicted better than 95 % of permutations would be."""
    above = aux_correlation["r"] > aux_correlation["null_95"]
    n_leading = max(1, aux_correlation.height // 2)
    share = float(above.head(n_leading).mean() or 0.0)
    sentence = (
        f"{share:.0%} of the first {n_leading} PCs are above the permutation null; below 80 % the auxiliary model has "
        f"learnt little: raise sampling.n_draws or the number of ground-truth shards"
    )
    return _result(share >= 0.8, sentence, share_above_null=share, mean_r=float(aux_correlation["r"].mean() or 0.0))


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
        f"basis is older than the predictions: materialize whitening_basis and whitened_susceptibilities again"
    )
    return _result(error < IDENTITY_TOLERANCE, sentence, largest_error=error)


@dg.asset_check(asset=dg.AssetKey("clusters"))
def clusters_are_below_the_threshold(
    clusters: pl.DataFrame, experiment: dg.ResourceParam[ExperimentConfig]
) -> dg.AssetCheckResult:
    """There are clusters, and nearly none leaks more than the threshold (overlap with an earlier one may raise it)."""
    limit = experiment.clustering.max_conductance
    share = float((clusters["conductance"] <= limit).mean() or 0.0)
    sentence = (
        f"{clusters.height} clusters, {share:.0%} with conductance at most {limit:g}; none, or under 90 %, asks for "
        f"another clustering.max_conductance or more tokens"
    )
    return _result(clusters.height > 0 and share >= 0.9, sentence, clusters=clusters.height, share_below=share)


@dg.asset_check(asset=prediction.leakage)
def predictions_are_not_activations(leakage: pl.DataFrame) -> dg.AssetCheckResult:
    """CKA of predictions with activations is beyond neither the ground truth's by far nor, for both, chance's."""
    peak = {name: float(leakage.filter(space=name)["cka"].max()) for name in ("ground_truth", "prediction")}
    sentence = (
        f"peak CKA with activations is {peak['prediction']:.2f} for predictions and {peak['ground_truth']:.2f} for the "
        f"ground truth; predictions near 1 repeat the activations: raise aux.l1_penalty or add ground-truth tokens"
    )
    return _result(peak["prediction"] < 0.9, sentence, **{f"peak_cka_{name}": value for name, value in peak.items()})


ALL = [
    chains_are_sound,
    susceptibilities_are_finite,
    predictions_beat_chance,
    whitened_covariance_is_the_identity,
    clusters_are_below_the_threshold,
    predictions_are_not_activations,
]
