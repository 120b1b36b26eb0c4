"""The auxiliary model: what its width, penalty, layers and inputs are worth, and what prediction costs.

`make bench-auxiliary` reads the store that `make run` left. Part one trains each variant on the training shards and prints its
mean correlation over PCs on withheld documents, with a 95 % interval over documents, beside ridge regression and the noise
ceiling. Part two times the bare forward pass of the base model (transformers, logits included) against all that a prediction
needs, interleaved, and prints the ratio.
"""

import argparse
import statistics
import time
from dataclasses import replace

import numpy as np
import torch
from transformers import GPTNeoXForCausalLM

from resources.experiment import load as load_experiment
from resources.experiment import store_root
from resources.storage import Store, scan_table
from susc_pipeline import schema, seeds, tokens
from susc_pipeline.config import ExperimentConfig
from susc_pipeline.model import gpt_neox, pretrained
from susc_pipeline.representation import auxiliary, evaluation, metrics, pca, ridge
from susc_pipeline.representation.evaluation import Part, Split
from susc_pipeline.susceptibility import reliability

N_RESAMPLES = 500
N_REPEATS = 7


def split_of(store: Store, experiment: ExperimentConfig) -> tuple[Split, pca.PCABasis]:
    """Training, stopping and test tokens as the asset aux_model takes them."""
    shards = tokens.ground_truth_keys(experiment.tokens)
    frames = {
        asset: {shard: scan_table(store.table(asset, shard)) for shard in shards}
        for asset in ("activations", "ground_truth_susceptibilities")
    }
    basis = pca.load(store.path("pca_basis"))
    training_shards = tokens.training_keys(experiment.tokens)
    return evaluation.split(*frames.values(), basis, training_shards, folder=store.root), basis


def columns_of(part: Part, columns: np.ndarray) -> Part:
    """A part with only some input features."""
    return part._replace(activations=part.activations[:, columns])


def line(name: str, predicted: np.ndarray, test: Part, seconds: float) -> str:
    """Mean correlation over PCs with its interval over documents."""
    rng = np.random.default_rng(0)
    by_document = [np.flatnonzero(test.documents == d) for d in np.unique(test.documents)]
    means = []
    for _ in range(N_RESAMPLES):
        rows = np.concatenate([by_document[d] for d in rng.integers(0, len(by_document), len(by_document))])
        means.append(metrics.correlation_per_column(predicted[rows], test.scores[rows]).mean())
    r = metrics.correlation_per_column(predicted, test.scores).mean()
    low, high = np.quantile(means, [0.025, 0.975])
    return f"{name:48s} r {r:.3f} ({low:.3f}-{high:.3f}) | {seconds:5.1f} s"


def sweep(data: Split, basis: pca.PCABasis, experiment: ExperimentConfig, width: int) -> None:
    """Train every variant and print a line each."""
    layers = experiment.representation.layers
    everything = np.arange(data.training.activations.shape[1])
    gradient = everything[len(layers) * width :]
    stream = everything[: len(layers) * width]
    default = experiment.aux
    variants = {
        "default": (default, everything),
        "hidden 4x": (replace(default, hidden_multiplier=4), everything),
        "hidden 64x": (replace(default, hidden_multiplier=64), everything),
        "L1 0": (replace(default, l1_penalty=0.0), everything),
        "L1 1": (replace(default, l1_penalty=1.0), everything),
        "residual streams only (the published input)": (default, stream),
        "loss gradient only": (default, gradient),
        "last stream and loss gradient": (default, np.concatenate([stream[-width:], gradient])),
        "no weight decay, last weights": (replace(default, weight_decay=0.0, averaging_steps=1), everything),
    }
    halves = reliability.split_half_scores(data.test_halves, basis)
    sizes = f"{len(data.training.scores)} training tokens, {len(data.test.scores)} test tokens"
    print(f"{sizes}, mean ceiling {halves.ceiling.mean():.3f}")
    for name, (settings, columns) in variants.items():
        training, stopping, test = (columns_of(part, columns) for part in data[:3])
        started = time.perf_counter()
        found = auxiliary.train(
            training.activations,
            training.scores,
            stopping_activations=stopping.activations,
            stopping_targets=stopping.scores,
            settings=settings,
            hidden_width=settings.hidden_multiplier * width,
            rng=np.random.default_rng(seeds.sequence(experiment.seed, "aux_model")),
        )
        predicted = auxiliary.predict(found.model, test.activations)
        print(line(name, predicted, test, time.perf_counter() - started), flush=True)
    for name, columns in (("ridge", everything), ("ridge, residual streams only", stream)):
        training, stopping, test = (columns_of(part, columns) for part in data[:3])
        started = time.perf_counter()
        linear = ridge.fit(
            training.activations,
            training.scores,
            stopping_activations=stopping.activations,
            stopping_targets=stopping.scores,
        )
        print(line(name, ridge.predict(linear, test.activations), test, time.perf_counter() - started), flush=True)


def throughput(store: Store, experiment: ExperimentConfig) -> None:
    """Tokens per second of the base model alone and of a prediction, and their ratio."""
    folder = store.path("language_model")
    model = pretrained.load(folder).model
    module = GPTNeoXForCausalLM.from_pretrained(folder, local_files_only=True).eval()
    aux = auxiliary.load(store.path("aux_model"))
    ids = schema.token_ids(scan_table(store.table("token_shards", tokens.shard_keys(experiment.tokens)[0])).collect())
    ids = np.concatenate([ids] * 4)
    layers = experiment.representation.layers

    @torch.no_grad()
    def forward() -> None:
        for batch in torch.as_tensor(ids).split(16):
            module(input_ids=batch, use_cache=False)

    def predict() -> None:
        found = gpt_neox.activations(model, ids, layers=layers)
        auxiliary.predict(aux, np.concatenate([found.features, found.loss_gradients], axis=1))

    times: list[tuple[float, float]] = []
    for _ in range(N_REPEATS):
        started = time.perf_counter()
        forward()
        between = time.perf_counter()
        predict()
        times.append((between - started, time.perf_counter() - between))
    ratios = sorted(whole / bare for bare, whole in times)
    bare, whole = (statistics.median(column) for column in zip(*times, strict=True))
    print(
        f"{ids.size} tokens: base model alone {ids.size / bare:.0f} tokens/s, prediction {ids.size / whole:.0f} tokens/s; "
        f"ratio of times {statistics.median(ratios):.2f} ({ratios[0]:.2f}-{ratios[-1]:.2f})"
    )


def main() -> None:
    """Both parts, on the store of an experiment."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--experiment", default="tiny")
    options = parser.parse_args()
    experiment = load_experiment(options.experiment)
    store = Store(store_root(experiment))
    throughput(store, experiment)
    data, basis = split_of(store, experiment)
    sweep(data, basis, experiment, pretrained.load(store.path("language_model")).model.hidden_size)


if __name__ == "__main__":
    main()
