"""The auxiliary model: what its width, penalty, layers and inputs are worth, and what prediction costs.

`make bench-auxiliary` reads the store that `make run` left. Part one trains each variant on linear responses and prints its mean
correlation over PCs with sampled values of withheld documents, with 95 % intervals over documents of it and of what it has less
than the default, beside ridge regression and the noise ceiling. Part two times the bare forward pass of the base model
(transformers, logits included) against all that a prediction needs, interleaved, and prints the ratio beside the arithmetic's.
"""

import argparse
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from transformers import GPTNeoXForCausalLM

from resources import experiment as experiments
from resources import tables
from resources.experiment import load as load_experiment
from resources.storage import Store
from susc_pipeline import schema, seeds, tokens
from susc_pipeline.config import ExperimentConfig
from susc_pipeline.model import pretrained, token_activations
from susc_pipeline.representation import auxiliary, auxiliary_training, evaluation, metrics, pca, ridge
from susc_pipeline.representation.auxiliary import AuxSettings
from susc_pipeline.representation.evaluation import Part, Split
from susc_pipeline.susceptibility import reliability

N_RESAMPLES = 500
N_REPEATS = 7


def split_of(store: Store, experiment: ExperimentConfig, folder: Path) -> tuple[Split, pca.PCABasis]:
    """Training, stopping and test tokens as the asset aux_model takes them."""
    shards, withheld = tokens.shard_keys(experiment.tokens), tokens.validation_keys(experiment.tokens)
    wanted = {"activations": shards, "linear_response": shards, "ground_truth_susceptibilities": withheld}
    frames = [{shard: tables.scan(store.table(asset, shard)) for shard in keys} for asset, keys in wanted.items()]
    basis = pca.load(store.path("pca_basis"))
    return evaluation.split(*frames, basis, folder=folder), basis


def columns_of(part: Part, columns: np.ndarray) -> Part:
    """A part with only some input features."""
    return part._replace(activations=part.activations[:, columns])


def resampled(predicted: np.ndarray, test: Part) -> np.ndarray:
    """Mean correlation over PCs in resamples of the documents, which are the same ones for every prediction."""
    rng = np.random.default_rng(0)
    by_document = [np.flatnonzero(test.documents == d) for d in np.unique(test.documents)]
    means = []
    for _ in range(N_RESAMPLES):
        rows = np.concatenate([by_document[d] for d in rng.integers(0, len(by_document), len(by_document))])
        means.append(metrics.correlation_per_column(predicted[rows], test.scores[rows]).mean())
    return np.array(means)


def line(name: str, predicted: np.ndarray, test: Part, default: np.ndarray | None, seconds: float) -> np.ndarray:
    """Print mean correlation over PCs with its interval over documents, and that of the difference from the default."""
    means = resampled(predicted, test)
    r = metrics.correlation_per_column(predicted, test.scores).mean()
    low, high = np.quantile(means, [0.025, 0.975])
    less, more = np.quantile(means - (means if default is None else default), [0.025, 0.975])
    interval = f"r {r:.3f} ({low:.3f}-{high:.3f}) | less default {less:+.3f} to {more:+.3f}"
    print(f"{name:44s} {interval} | {seconds:5.1f} s", flush=True)
    return means


def by_pc(predicted: np.ndarray, test: Part, ceiling: np.ndarray) -> None:
    """Print the default's correlation for each PC, with its interval over documents and its ceiling."""
    found = metrics.document_bootstrap(predicted, test.scores, test.documents, np.random.default_rng(0))
    for pc, (r, low, high, best) in enumerate(zip(*found, ceiling, strict=True), start=1):
        print(f"  PC{pc:<3d} r {r:.3f} ({low:.3f}-{high:.3f}) | ceiling {best:.3f}", flush=True)


def variants(experiment: ExperimentConfig, width: int, n_features: int) -> dict[str, tuple[AuxSettings, np.ndarray]]:
    """Settings of the auxiliary model, and the input features that it reads."""
    default, layers = experiment.aux, experiment.representation.layers
    everything = np.arange(n_features)
    streams, gradient = np.split(everything, [len(layers) * width])
    by_layer = np.split(streams, len(layers))

    def read(*chosen: int) -> np.ndarray:
        return np.concatenate([*(by_layer[number] for number in chosen), gradient])

    last, middle = len(layers) - 1, len(layers) // 2 - 1
    return {
        "default": (default, everything),
        **{f"hidden {n}x": (replace(default, hidden_multiplier=n), everything) for n in (2, 4, 8, 64)},
        "L1 0": (replace(default, l1_penalty=0.0), everything),
        "L1 1": (replace(default, l1_penalty=1.0), everything),
        f"1 layer read ({layers[last]}), and the gradient": (default, read(last)),
        f"2 layers read ({layers[middle]}, {layers[last]}), and the gradient": (default, read(middle, last)),
        "residual streams only (the published input)": (default, streams),
        "loss gradient only": (default, gradient),
        "no weight decay, last weights": (replace(default, weight_decay=0.0, averaging_steps=1), everything),
    }


def sweep(data: Split, basis: pca.PCABasis, experiment: ExperimentConfig, width: int) -> None:
    """Train every variant and print a line each; for the default a line for each PC too."""
    ceiling = reliability.split_half_scores(data.test_halves, basis).ceiling
    sizes = f"{len(data.training.scores)} training tokens, {len(data.test.scores)} test tokens"
    print(f"{sizes}, mean ceiling {ceiling.mean():.3f}")
    n_features, default = data.training.activations.shape[1], None
    for name, (settings, columns) in variants(experiment, width, n_features).items():
        training, stopping, test = (columns_of(part, columns) for part in data[:3])
        started = time.perf_counter()
        found = auxiliary_training.train(
            training.activations,
            training.scores,
            stopping_activations=stopping.activations,
            stopping_targets=stopping.scores,
            settings=settings,
            hidden_width=settings.hidden_multiplier * width,
            rng=np.random.default_rng(seeds.sequence(experiment.seed, "aux_model")),
        )
        predicted = auxiliary.predict(found.model, test.activations)
        means = line(name, predicted, test, default, time.perf_counter() - started)
        if default is None:
            default = means
            by_pc(predicted, test, ceiling)
            print(f"  units that no training or stopping token makes fire: {n_dead(found.model, training, stopping)}")
    streams = np.arange(n_features - width)
    for name, columns in (("ridge", np.arange(n_features)), ("ridge, residual streams only", streams)):
        training, stopping, test = (columns_of(part, columns) for part in data[:3])
        started = time.perf_counter()
        linear = ridge.fit(
            training.activations,
            training.scores,
            stopping_activations=stopping.activations,
            stopping_targets=stopping.scores,
        )
        line(name, ridge.predict(linear, test.activations), test, default, time.perf_counter() - started)


@torch.no_grad()
def n_dead(model: auxiliary.AuxModel, *parts: Part) -> int:
    """Hidden units that could be taken out without changing a prediction of these tokens."""
    codes = [model.encode(torch.tensor(np.array(part.activations))).amax(dim=0) for part in parts]
    return int((torch.stack(codes).amax(dim=0) == 0).sum())


class Shape(NamedTuple):
    """What decides the arithmetic of a prediction."""

    name: str
    n_layers: int
    width: int
    vocabulary: int
    context: int
    n_read: int
    n_hidden: int
    n_pcs: int


def products(shape: Shape) -> dict[str, int]:
    """Multiplications and additions in matrix products, a token: of the base model, and what a prediction adds."""
    width, n_features = shape.width, (shape.n_read + 1) * shape.width
    layer = 12 * width**2 + shape.context * width  # causal: half of the context on average, for scores and for values
    unembedding = shape.vocabulary * width
    return {
        "base model": 2 * (shape.n_layers * layer + unembedding),
        "loss gradient": 2 * unembedding,
        "auxiliary model": 2 * shape.n_hidden * (n_features + shape.n_pcs),
    }


def matrix_product_peak() -> float:
    """Floating-point operations a second of a float32 matrix product that fits the cache well."""
    a, times = torch.randn(2048, 2048), []
    for _ in range(9):
        started = time.perf_counter()
        torch.mm(a, a)
        times.append(time.perf_counter() - started)
    return 2 * 2048**3 / statistics.median(times)


def arithmetic(shape: Shape, peak: float | None = None) -> None:
    """Print the ratio that matrix products alone ask for, and at a measured peak the microseconds of each."""
    found = products(shape)
    ratio = sum(found.values()) / found["base model"]
    parts = ", ".join(f"{name} {count / 1e6:.2f}" for name, count in found.items())
    at_peak = "" if peak is None else f"; at the peak {sum(found.values()) / peak * 1e6:.1f} us a token"
    print(f"{shape.name}: MFLOP a token: {parts}; ratio of arithmetic {ratio:.2f}{at_peak}")


def throughput(store: Store, experiment: ExperimentConfig) -> None:
    """Tokens per second of the base model alone and of a prediction, and their ratio."""
    folder = store.path("language_model")
    model = pretrained.load(folder).model
    module = GPTNeoXForCausalLM.from_pretrained(folder, local_files_only=True).eval()
    aux = auxiliary.load(store.path("aux_model"))
    ids = schema.token_ids(tables.scan(store.table("token_shards", tokens.shard_keys(experiment.tokens)[0])).collect())
    ids = np.concatenate([ids] * 4)
    layers = experiment.representation.layers
    n_hidden, n_pcs = aux.decoder.in_features, aux.decoder.out_features
    ours = Shape(
        "this model",
        model.n_layers,
        model.hidden_size,
        model.vocabulary_size,
        ids.shape[1],
        len(layers),
        n_hidden,
        n_pcs,
    )
    arithmetic(ours, matrix_product_peak())
    arithmetic(Shape("Pythia-1.4B, hidden 16x", 24, 2048, 50304, 256, 4, 16 * 2048, 410))

    @torch.no_grad()
    def forward() -> None:
        for batch in torch.as_tensor(ids).split(16):
            module(input_ids=batch, use_cache=False)

    def predict() -> None:
        found = token_activations.activations(model, ids, layers=layers)
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
    store = experiments.store(experiment)
    throughput(store, experiment)
    with tempfile.TemporaryDirectory() as folder:
        data, basis = split_of(store, experiment, Path(folder))
        sampled = data._replace(test=data.test._replace(scores=data.test_truth))
        sweep(sampled, basis, experiment, pretrained.load(store.path("language_model")).model.hidden_size)


if __name__ == "__main__":
    main()
