"""The PCA basis of the ground truth, its reliability, and the auxiliary model that predicts its scores."""

import dagster as dg
import numpy as np
import polars as pl

from assets import plots, pools, progress
from assets.partitions import EVERY_SHARD, TRAINING, version
from resources.language_model import LanguageModelFolder
from resources.storage import Store
from susc_pipeline import schema, seeds, tokens
from susc_pipeline.config import ExperimentConfig
from susc_pipeline.model import components
from susc_pipeline.model.gpt_neox import GPTNeoX
from susc_pipeline.representation import auxiliary, evaluation, moments, pca
from susc_pipeline.representation.auxiliary import AuxModel
from susc_pipeline.representation.evaluation import Split
from susc_pipeline.representation.pca import PCABasis
from susc_pipeline.susceptibility import reliability as reliabilities

GROUP = "c_basis"


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
    counts = {"tokens": basis.count, "dropped_as_unreliable": len(found) - len(basis.components)}
    return dg.MaterializeResult(value=basis, metadata={**counts, "explained_variance": picture})


@dg.asset(
    ins={"ground_truth_susceptibilities": dg.AssetIn(partition_mapping=EVERY_SHARD)},
    group_name=GROUP,
    kinds={"numpy", "polars"},
    code_version=version(2),
)
def reliability(
    language_model: LanguageModelFolder,
    ground_truth_susceptibilities: dict[str, pl.LazyFrame],
    pca_basis: PCABasis,
    experiment: dg.ResourceParam[ExperimentConfig],
) -> dg.MaterializeResult[pl.DataFrame]:
    """Split-half reliability of every component and PC, = 2 r / (1 + r) (Spearman 1910, Brown 1910), over ground-truth tokens.

    Its root is the noise ceiling: the highest correlation with the measured values that any prediction can reach.
    """
    names = [c.name for c in components.enumerate_components(language_model.load(experiment.model).model)]
    halves = reliabilities.moments_of_halves(frame for _, frame in sorted(ground_truth_susceptibilities.items()))
    by_component = reliabilities.split_half_along(halves, np.eye(len(names)))
    by_pc = reliabilities.split_half_scores(halves, pca_basis)
    pcs = [f"PC{number + 1}" for number in range(len(by_pc.ceiling))]
    frames = [
        pl.DataFrame({"kind": kind, "name": labels, **found._asdict()}, schema=schema.RELIABILITY)
        for kind, labels, found in (("component", names, by_component), ("pc", pcs, by_pc))
    ]
    frame = pl.concat(frames)
    means = {
        f"mean_{kind}": float(f["reliability"].mean()) for kind, f in zip(("component", "pc"), frames, strict=True)
    }
    return dg.MaterializeResult(value=frame, metadata={**means, "reliability": plots.reliability(frame)})


@dg.asset(
    ins={name: dg.AssetIn(partition_mapping=EVERY_SHARD) for name in ("ground_truth_susceptibilities", "activations")},
    group_name=GROUP,
    kinds={"pytorch"},
    code_version=version(2, "aux"),
    pool=pools.GPU,
)
def aux_model(
    context: dg.AssetExecutionContext,
    language_model: LanguageModelFolder,
    ground_truth_susceptibilities: dict[str, pl.LazyFrame],
    activations: dict[str, pl.LazyFrame],
    pca_basis: PCABasis,
    experiment: dg.ResourceParam[ExperimentConfig],
    store: dg.ResourceParam[Store],
) -> dg.MaterializeResult[AuxModel]:
    """One hidden layer from the residual stream to PC scores: the susceptibilities of a token for one forward pass.

    scores = D relu(E x + e) + d, squared error over the variance plus l1_penalty times the mean hidden code (as a sparse
    autoencoder, Cunningham et al. 2023).
    Trained on the training shards; stopped early by half of the withheld documents, whose chains are their own: noise
    of shared draws is a function of the token, and a model stopped on it would go on learning it.
    """
    training_shards = tokens.training_keys(experiment.tokens)
    with store.scratch("aux_model") as folder:
        data = evaluation.split(activations, ground_truth_susceptibilities, pca_basis, training_shards, folder=folder)
    return _trained(context, data, language_model.load(experiment.model).model, experiment)


@dg.asset(
    ins={name: dg.AssetIn(partition_mapping=EVERY_SHARD) for name in ("ground_truth_susceptibilities", "activations")},
    group_name=GROUP,
    kinds={"pytorch"},
    code_version=version(1, "aux"),
    pool=pools.GPU,
)
def half_chain_aux_model(
    context: dg.AssetExecutionContext,
    language_model: LanguageModelFolder,
    ground_truth_susceptibilities: dict[str, pl.LazyFrame],
    activations: dict[str, pl.LazyFrame],
    pca_basis: PCABasis,
    experiment: dg.ResourceParam[ExperimentConfig],
    store: dg.ResourceParam[Store],
) -> dg.MaterializeResult[AuxModel]:
    """The auxiliary model trained again, on one half of the chains only: which clusters does it give again?

    Its seed is that of aux_model, so that only the chains differ: twice the sampling noise, of which it shares a half.
    """
    training_shards = tokens.training_keys(experiment.tokens)
    frames = (activations, ground_truth_susceptibilities)
    with store.scratch("half_chain_aux_model") as folder:
        data = evaluation.split(*frames, pca_basis, training_shards, folder=folder, column="half_a")
    return _trained(context, data, language_model.load(experiment.model).model, experiment)


def _trained(
    context: dg.AssetExecutionContext, data: Split, model: GPTNeoX, experiment: ExperimentConfig
) -> dg.MaterializeResult[AuxModel]:
    width, report = experiment.aux.hidden_multiplier * model.hidden_size, progress.reporter(context, "epochs")
    training = auxiliary.train(
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


@dg.asset(
    ins={name: dg.AssetIn(partition_mapping=EVERY_SHARD) for name in ("ground_truth_susceptibilities", "activations")},
    group_name=GROUP,
    kinds={"numpy", "polars"},
    code_version=version(2),
)
def aux_correlation(
    ground_truth_susceptibilities: dict[str, pl.LazyFrame],
    activations: dict[str, pl.LazyFrame],
    pca_basis: PCABasis,
    aux_model: AuxModel,
    experiment: dg.ResourceParam[ExperimentConfig],
    store: dg.ResourceParam[Store],
) -> dg.MaterializeResult[pl.DataFrame]:
    """Pearson r of predicted with measured scores, per PC, on withheld documents that early stopping has not seen.

    Beside it the noise ceiling = sqrt(reliability) of the same tokens (Spearman 1904), the 95 % interval over documents, the
    95 % point of a permutation null, and the r of a ridge regression on the same data.
    """
    training_shards = tokens.training_keys(experiment.tokens)
    with store.scratch("aux_correlation") as folder:
        data = evaluation.split(activations, ground_truth_susceptibilities, pca_basis, training_shards, folder=folder)
    rng = np.random.default_rng(seeds.sequence(experiment.seed, "aux_correlation"))
    frame = evaluation.correlation_table(data, aux_model, pca_basis, rng)
    means = {f"mean_{name}": float(frame[name].mean()) for name in ("r", "ceiling", "ridge_r")}
    metadata = {**means, "withheld_tokens": len(data.test.scores), "correlation": plots.correlation(frame)}
    return dg.MaterializeResult(value=frame, metadata=metadata)
