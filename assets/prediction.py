"""Predicted susceptibilities for every shard, their whitening, and how much of the activations leaks through."""

import dagster as dg
import numpy as np
import polars as pl

from assets import plots, pools
from assets.partitions import EVERY_SHARD, SHARDS, version
from resources.language_model import LanguageModelFolder
from susc_pipeline import schema, seeds, tokens
from susc_pipeline.config import ExperimentConfig
from susc_pipeline.model import gpt_neox
from susc_pipeline.representation import auxiliary, moments, whitening
from susc_pipeline.representation import leakage as leakages
from susc_pipeline.representation.auxiliary import AuxModel
from susc_pipeline.representation.whitening import WhiteningBasis

GROUP = "d_prediction"
DESCRIPTIONS = {
    "predicted_susceptibilities": "PC scores that the auxiliary model predicts for each token, and the token's loss: "
    "one forward pass of the language model. scores = D relu(E x + e) + d of the activations x (one hidden layer, as Baker "
    "et al. 2025); a component's prediction is the scores times the axes of pca_basis.",
    "half_chain_predictions": "PC scores = D relu(E x + e) + d of each token by the auxiliary model of one half of the "
    "chains, from the same forward pass.",
}


@dg.multi_asset(
    partitions_def=SHARDS,
    outs={
        name: dg.AssetOut(kinds={"pytorch", "parquet"}, code_version=version(3, "representation"), description=text)
        for name, text in DESCRIPTIONS.items()
    },
    group_name=GROUP,
    pool=pools.GPU,
)
def predict_susceptibilities(
    language_model: LanguageModelFolder,
    token_shards: pl.DataFrame,
    aux_model: AuxModel,
    half_chain_aux_model: AuxModel,
    experiment: dg.ResourceParam[ExperimentConfig],
):
    """PC scores that both auxiliary models predict for each token, from the same forward pass of the language model."""
    model = language_model.load(experiment.model).model
    found = gpt_neox.activations(model, schema.token_ids(token_shards), layers=experiment.representation.layers)
    keys = schema.token_key_frame(token_shards).with_columns(loss=pl.Series(found.losses))
    inputs = np.concatenate([found.features, found.loss_gradients], axis=1)
    metadata = {"dagster/row_count": keys.height, "mean_loss": float(found.losses.mean())}
    for name, auxiliary_model in zip(DESCRIPTIONS, (aux_model, half_chain_aux_model), strict=True):
        frame = schema.with_vectors(keys, prediction=auxiliary.predict(auxiliary_model.to(model.device), inputs))
        yield dg.Output(frame, name, metadata=metadata)


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


@dg.asset(partitions_def=SHARDS, group_name=GROUP, kinds={"numpy", "parquet"}, code_version=version(1))
def whitened_susceptibilities(
    predicted_susceptibilities: pl.LazyFrame, whitening_basis: WhiteningBasis
) -> dg.MaterializeResult[pl.DataFrame]:
    """Predicted scores s rotated and scaled, v = U (s - mean) / sqrt(variance), so that every direction kept has unit variance.

    Over all shards together, for the basis is that of all.
    """
    shard = schema.stack({"": predicted_susceptibilities}, "prediction")
    frame = schema.with_vectors(shard.keys, whitened=whitening.transform(shard.values, whitening_basis))
    return dg.MaterializeResult(value=frame, metadata={"dagster/row_count": frame.height})


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
    return dg.MaterializeResult(
        value=frame, metadata={"dagster/row_count": frame.height, "leakage": plots.leakage(frame)}
    )
