"""The PCA basis of the ground truth, its reliability, and the auxiliary model that predicts its scores."""

import dagster as dg
import numpy as np
import polars as pl

from assets import plots, pools, progress
from assets.partitions import EVERY_SHARD, EXPERIMENT, TRAINING, WITHHELD, version
from resources.language_model import LanguageModelFolder
from resources.storage import Store
from susc_pipeline import schema, seeds
from susc_pipeline.config import ExperimentConfig
from susc_pipeline.model import components
from susc_pipeline.model.decoder import Decoder
from susc_pipeline.representation import auxiliary_training, evaluation, moments, pca
from susc_pipeline.representation.auxiliary import AuxModel
from susc_pipeline.representation.evaluation import Split
from susc_pipeline.representation.pca import PCABasis
from susc_pipeline.susceptibility import reliability as reliabilities

GROUP = "4_basis"


@dg.asset(
    ins={"ground_truth_susceptibilities": dg.AssetIn(partition_mapping=TRAINING)},
    group_name=GROUP,
    kinds={"numpy"},
    code_version=version(3, "representation"),
)
def pca_basis(
    ground_truth_susceptibilities: dict[str, pl.LazyFrame], experiment: dg.ResourceParam[ExperimentConfig]
) -> dg.MaterializeResult[PCABasis]:
    """Principal axes of the z-scored tokens x components matrix, from merged moments of the training shards.

    With V the axes, a token's scores are s = V (chi - mean) / standard deviation (Pearson 1901; of susceptibilities, Baker et
    al. 2025). z-scoring removes the scale of a component, which its size decides; withheld shards have no part in the fit.
    An axis stays by its split-half reliability, not by its variance: whitening will give every one that stays the same weight.
    """
    shards = (schema.stack({k: f}, "susceptibility").values for k, f in sorted(ground_truth_susceptibilities.items()))
    n_kept = experiment.representation.n_components or None
    considered = pca.fit(moments.merge_all(moments.of(values) for values in shards), n_components=n_kept)
    halves = reliabilities.moments_of_halves(frame for _, frame in sorted(ground_truth_susceptibilities.items()))
    found = reliabilities.split_half_scores(halves, considered).reliability
    basis = pca.select(considered, found >= experiment.representation.min_reliability)
    picture = plots.explained_variance(basis.explained_variance_ratio)
    counts = {
        "tokens": basis.count,
        "components_kept": len(basis.components),
        "dropped_as_unreliable": len(found) - len(basis.components),
    }
    return dg.MaterializeResult(
        value=basis,
        metadata={
            **counts,
            "share_of_variance_by_pc": plots.glance(basis.explained_variance_ratio),
            "explained_variance": picture,
        },
    )


@dg.asset(
    ins={
        name: dg.AssetIn(partition_mapping=EVERY_SHARD) for name in ("ground_truth_susceptibilities", "chain_products")
    },
    group_name=GROUP,
    kinds={"numpy", "polars"},
    code_version=version(4, "components"),
)
def reliability(
    language_model: LanguageModelFolder,
    ground_truth_susceptibilities: dict[str, pl.LazyFrame],
    chain_products: dict[str, pl.LazyFrame],
    pca_basis: PCABasis,
    experiment: dg.ResourceParam[ExperimentConfig],
) -> dg.MaterializeResult[pl.DataFrame]:
    """Reliability of every component and PC over ground-truth tokens: the share of a column's variance that is no noise.

    Of a component by the spread of its chains, each with its own population documents and draws (analysis of variance). Of a PC
    it is = 2 r / (1 + r), r between halves that share nothing (Spearman 1910, Brown 1910). Its root is the noise ceiling: the
    highest correlation with the measured values that any prediction can reach.
    """
    model = language_model.outline(experiment.model).model
    names = [c.name for c in components.chosen(model, experiment.model.components)]
    halves = reliabilities.moments_of_halves(frame for _, frame in sorted(ground_truth_susceptibilities.items()))
    correlations = reliabilities.split_half_along(halves, np.eye(len(names))).half_correlation
    by_component = reliabilities.of_products(pl.concat(chain_products.values()).collect(), names)
    by_pc = reliabilities.split_half_scores(halves, pca_basis)
    pcs = [f"PC{number + 1}" for number in range(len(by_pc.ceiling))]
    frames = [
        pl.DataFrame({"kind": kind, "name": labels, "half_correlation": r, **found}, schema=schema.RELIABILITY)
        for kind, labels, r, found in (
            ("component", names, correlations, by_component),
            ("pc", pcs, by_pc.half_correlation, _of_halves(by_pc)),
        )
    ]
    frame = pl.concat(frames)
    means = {
        f"mean_{kind}": float(f["reliability"].mean()) for kind, f in zip(("component", "pc"), frames, strict=True)
    }
    glance = plots.glance(frames[0]["reliability"].to_numpy())
    means["least_component"] = float(frames[0]["reliability"].min())
    return dg.MaterializeResult(
        value=frame,
        metadata={
            **means,
            "reliability_by_component": glance,
            "reliability": plots.reliability(frame),
            "table": plots.table(frame),
        },
    )


def _of_halves(found: reliabilities.Reliability) -> dict[str, object]:
    """Of principal components, whose chains are not apart: by the one split into halves, without an interval."""
    unknown = [None] * len(found.ceiling)
    return {"reliability": found.reliability, "low": unknown, "high": unknown, "ceiling": found.ceiling}


AUXILIARY_INPUTS = {
    "activations": dg.AssetIn(partition_mapping=EVERY_SHARD),
    "linear_response": dg.AssetIn(partition_mapping=EVERY_SHARD),
    "ground_truth_susceptibilities": dg.AssetIn(partition_mapping=WITHHELD),
}


def auxiliary_asset(name: str, column: str, about: str) -> dg.AssetsDefinition:
    """An auxiliary model that learns the linear responses under `column`."""

    @dg.asset(
        name=name,
        ins=AUXILIARY_INPUTS,
        group_name=GROUP,
        kinds={"pytorch"},
        code_version=version(3, "aux"),
        description=about,
        pool=pools.GPU,
    )
    def auxiliary_model(
        context: dg.AssetExecutionContext,
        language_model: LanguageModelFolder,
        activations: dict[str, pl.LazyFrame],
        linear_response: dict[str, pl.LazyFrame],
        ground_truth_susceptibilities: dict[str, pl.LazyFrame],
        pca_basis: PCABasis,
        experiment: dg.ResourceParam[ExperimentConfig],
        store: dg.ResourceParam[Store],
    ) -> dg.MaterializeResult[AuxModel]:
        frames = (activations, linear_response, ground_truth_susceptibilities)
        with store.scratch(name) as folder:
            data = evaluation.split(*frames, pca_basis, folder=folder, column=column)
        return _trained(context, data, language_model.load(experiment.model).model, experiment)

    return auxiliary_model


aux_model = auxiliary_asset(
    "aux_model",
    "linear_response",
    """One hidden layer from the residual stream to PC scores: scores of a token from one forward pass.

    scores = D relu(E x + e) + d, squared error over the variance plus l1_penalty times the mean hidden code (as a sparse
    autoencoder, Cunningham et al. 2023). Trained on linear responses of all shards but the withheld ones; stopped early by
    half of the withheld documents.""",
)
# Needed only where clusters are made from the auxiliary model: do they come again from either half of the chains?
half_aux_models = [
    auxiliary_asset(
        f"half_{half}_aux_model",
        f"half_{half}",
        f"The auxiliary model, scores = D relu(E x + e) + d, trained on linear responses by half {half} of the chains alone; its "
        "seed is that of aux_model.",
    )
    for half in "ab"
    if EXPERIMENT.representation.upsampling == "auxiliary"
]


def _trained(
    context: dg.AssetExecutionContext, data: Split, model: Decoder, experiment: ExperimentConfig
) -> dg.MaterializeResult[AuxModel]:
    width, report = experiment.aux.hidden_multiplier * model.hidden_size, progress.reporter(context, "epochs")
    training = auxiliary_training.train(
        data.training.activations,
        data.training.scores,
        stopping_activations=data.stopping.activations,
        stopping_targets=data.stopping.scores,
        settings=experiment.aux,
        hidden_width=width,
        rng=np.random.default_rng(seeds.sequence(experiment.seed, "aux_model")),
        device=str(model.device),
        progress=lambda epoch, loss: report(epoch, experiment.aux.max_epochs),
    )
    history = training.history
    metadata = {"best_epoch": history.best_epoch, "training_tokens": len(data.training.scores), "hidden_width": width}
    return dg.MaterializeResult(value=training.model, metadata={**metadata, "training": plots.training(history)})


@dg.asset(ins=AUXILIARY_INPUTS, group_name=GROUP, kinds={"numpy", "polars"}, code_version=version(3, "seed"))
def aux_correlation(
    activations: dict[str, pl.LazyFrame],
    linear_response: dict[str, pl.LazyFrame],
    ground_truth_susceptibilities: dict[str, pl.LazyFrame],
    pca_basis: PCABasis,
    aux_model: AuxModel,
    experiment: dg.ResourceParam[ExperimentConfig],
    store: dg.ResourceParam[Store],
) -> dg.MaterializeResult[pl.DataFrame]:
    """Pearson r with sampled scores, per PC, of the auxiliary model and of linear response, on withheld documents.

    Early stopping has not seen these documents. Beside r the noise ceiling = sqrt(reliability) of the same tokens (Spearman
    1904), 95 % intervals over documents, the 95 % point of a permutation null, and the r of a ridge regression.
    """
    frames = (activations, linear_response, ground_truth_susceptibilities)
    with store.scratch("aux_correlation") as folder:
        data = evaluation.split(*frames, pca_basis, folder=folder)
    rng = np.random.default_rng(seeds.sequence(experiment.seed, "aux_correlation"))
    frame = evaluation.correlation_table(data, aux_model, pca_basis, rng)
    means = {f"mean_{name}": float(frame[name].mean()) for name in ("r", "linear_response_r", "ceiling", "ridge_r")}
    pictures = {
        "r_by_pc": plots.glance(frame["r"].to_numpy()),
        "correlation": plots.correlation(frame),
        "table": plots.table(frame),
    }
    metadata = {**means, "withheld_tokens": len(data.test_truth), **pictures}
    return dg.MaterializeResult(value=frame, metadata=metadata)
