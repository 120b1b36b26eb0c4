"""Predicted susceptibilities for every shard, their whitening, and how much of the activations leaks through."""

import dagster as dg
import numpy as np
import polars as pl

from assets import plots, pools
from assets.partitions import EVERY_SHARD, EXPERIMENT, SHARDS, version
from susc_pipeline import schema, seeds, tokens
from susc_pipeline.config import ExperimentConfig
from susc_pipeline.model import pretrained
from susc_pipeline.representation import auxiliary, moments, pca, whitening
from susc_pipeline.representation import leakage as leakages
from susc_pipeline.representation.auxiliary import AuxModel
from susc_pipeline.representation.pca import PCABasis
from susc_pipeline.representation.whitening import WhiteningBasis

GROUP = "5_token_vectors"
BY_AUXILIARY = EXPERIMENT.representation.upsampling == "auxiliary"
SOURCE = "by the auxiliary model" if BY_AUXILIARY else "by linear response"
DESCRIPTIONS = {
    "predicted_susceptibilities": f"PC scores of each token {SOURCE}, s = V (chi - mean) / standard deviation, and the token's "
    "loss. representation.upsampling says which; a component's value is the scores times the axes of pca_basis.",
    "auxiliary_predictions": "PC scores that the auxiliary model predicts for each token, s = D relu(E x + e) + d, x its "
    "activations (one hidden layer, as Baker et al. 2025).",
    "half_a_predictions": f"PC scores of each token {SOURCE}, from even chains alone: s = V (chi - mean) / standard deviation.",
    "half_b_predictions": f"PC scores of each token {SOURCE}, from odd chains alone: s = V (chi - mean) / standard deviation.",
}
# Dagster gives an argument that is taken by ** the type Any, and nobody could load it.
HALF_AUX_MODEL = dg.PythonObjectDagsterType(AuxModel, name="HalfAuxModel")
HALF_AUX_MODELS = ("half_a_aux_model", "half_b_aux_model") if BY_AUXILIARY else ()


@dg.multi_asset(
    partitions_def=SHARDS,
    ins={name: dg.AssetIn(dagster_type=HALF_AUX_MODEL) for name in HALF_AUX_MODELS},
    outs={
        name: dg.AssetOut(kinds={"pytorch", "parquet"}, code_version=version(4, "representation"), description=text)
        for name, text in DESCRIPTIONS.items()
    },
    group_name=GROUP,
    pool=pools.GPU,
)
def predict_susceptibilities(
    activations: pl.DataFrame,
    linear_response: pl.DataFrame,
    pca_basis: PCABasis,
    aux_model: AuxModel,
    experiment: dg.ResourceParam[ExperimentConfig],
    **half_aux_models: AuxModel,
):
    """PC scores of each token: by the auxiliary model, from its activations, and by linear response."""
    device = pretrained.torch_device(experiment.model.device)
    inputs = np.concatenate([schema.matrix(activations[name], np.float16) for name in schema.ACTIVATIONS], axis=1)

    def of_model(auxiliary_model: AuxModel) -> np.ndarray:
        return auxiliary.predict(auxiliary_model.to(device), inputs)

    scores = {"auxiliary_predictions": of_model(aux_model)}
    if BY_AUXILIARY:
        scores["predicted_susceptibilities"] = scores["auxiliary_predictions"]
        scores |= {f"{name[:6]}_predictions": of_model(half_aux_models[name]) for name in HALF_AUX_MODELS}
    else:
        columns = ("linear_response", "half_a", "half_b")
        parts = (pca.transform(schema.matrix(linear_response[column]), pca_basis) for column in columns)
        scores |= dict(zip(("predicted_susceptibilities", "half_a_predictions", "half_b_predictions"), parts))
    with_loss = linear_response.select(*schema.TOKEN_KEY, "loss")
    metadata = {"source": SOURCE}
    for name in DESCRIPTIONS:
        yield dg.Output(schema.with_vectors(with_loss, prediction=scores[name]), name, metadata=metadata)


@dg.asset(
    ins={"predicted_susceptibilities": dg.AssetIn(partition_mapping=EVERY_SHARD)},
    group_name=GROUP,
    kinds={"numpy"},
    code_version=version(1, "representation"),
)
def whitening_basis(
    predicted_susceptibilities: dict[str, pl.LazyFrame], experiment: dg.ResourceParam[ExperimentConfig]
) -> dg.MaterializeResult[WhiteningBasis]:
    """Directions U of the predicted scores and the variance along each, from merged moments of all shards.

    A whitened vector is v = U (s - mean) / sqrt(variance): PCA whitening (Kessy, Lewin and Strimmer 2018).
    Directions with too little variance are dropped: scaled up, they would fill all distances with noise.
    """
    shards = (schema.stack({k: f}, "prediction").values for k, f in sorted(predicted_susceptibilities.items()))
    merged = moments.merge_all(moments.of(values) for values in shards)
    basis = whitening.fit(merged, relative_floor=experiment.representation.whitening_floor)
    metadata = {"tokens": basis.count, "directions_kept": len(basis.variance), "directions_dropped": basis.n_dropped}
    return dg.MaterializeResult(value=basis, metadata={**metadata, "variance": plots.variance(basis.variance)})


@dg.asset(partitions_def=SHARDS, group_name=GROUP, kinds={"numpy", "parquet"}, code_version=version(1, "seed"))
def whitened_susceptibilities(
    predicted_susceptibilities: pl.LazyFrame, whitening_basis: WhiteningBasis
) -> dg.MaterializeResult[pl.DataFrame]:
    """Predicted scores s rotated and scaled, v = U (s - mean) / sqrt(variance), so that every direction kept has unit variance.

    Over all shards together, for the basis is that of all.
    """
    shard = schema.stack({"": predicted_susceptibilities}, "prediction")
    frame = schema.with_vectors(shard.keys, whitened=whitening.transform(shard.values, whitening_basis))
    return dg.MaterializeResult(value=frame)


@dg.asset(
    ins={
        "ground_truth_susceptibilities": dg.AssetIn(partition_mapping=EVERY_SHARD),
        "activations": dg.AssetIn(partition_mapping=EVERY_SHARD),
        "predicted_susceptibilities": dg.AssetIn(partition_mapping=EVERY_SHARD),
    },
    group_name=GROUP,
    kinds={"numpy", "polars"},
    code_version=version(2, "leakage"),
    pool=pools.MEMORY,
)
def leakage(
    ground_truth_susceptibilities: dict[str, pl.LazyFrame],
    activations: dict[str, pl.LazyFrame],
    predicted_susceptibilities: dict[str, pl.LazyFrame],
    experiment: dg.ResourceParam[ExperimentConfig],
) -> dg.MaterializeResult[pl.DataFrame]:
    """How alike activations and susceptibilities are on withheld tokens, by layer: linear CKA and shared neighbours.

    For the ground truth and for the predictions, with 95 % intervals over documents and chance levels (published on
    Pythia-1.4B: CKA up to 0.15 and 0.275, Jaccard below 0.05 and 0.19). Of predictions that were activations in disguise
    both would be near 1. CKA = |X'Y|^2 / (|X'X| |Y'Y|), Frobenius norms of centred columns (Kornblith et al. 2019).
    """
    shards = tokens.validation_keys(experiment.tokens)
    truth, active, predicted = (
        schema.stack({shard: frames[shard] for shard in shards}, column)
        for frames, column in (
            (ground_truth_susceptibilities, "susceptibility"),
            (activations, "activation"),
            (predicted_susceptibilities, "prediction"),
        )
    )
    rng = np.random.default_rng(seeds.sequence(experiment.seed, "leakage"))
    layers = experiment.representation.layers
    spaces = {"ground_truth": truth.values, "prediction": predicted.values}
    _, documents = np.unique(active.keys["document_id"].to_numpy(), return_inverse=True)
    frame = leakages.table(active.values, spaces, documents, layers=layers, settings=experiment.leakage, rng=rng)
    return dg.MaterializeResult(value=frame, metadata={"leakage": plots.leakage(frame), "table": plots.table(frame)})
