"""Patterning, tested by its effect: wanted changes of losses, the weights they ask for, and what fine-tuning on these does.

`make bench-patterning` reads the population of the experiment `tiny` and writes benchmarks/results/patterning.json. `--model`
takes another model with its tokenizer, such as an early checkpoint of `make development`. Observables are
the mean losses of packages of the standard library, measured on documents (`asked`) that the fine-tuning does not read; others
of the same package (`held out`) are read by neither the responses nor the fine-tuning.

- patterning: for each wanted change, fine-tuning by the weights asked for, their opposite, the same weights dealt to documents at
  random, weights by similarity of gradients (cosine), and weights from the reachable directions of the packages in general
  (`of_packages`). A change is that beside equal weights, with the same order of documents.
- lds: the linear datamodeling score of several methods on random half subsets, targets the losses of single held-out documents
  (linear_datamodeling.py).

Its last lines are the figures.
"""

import argparse
import json
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from benchmarks import fine_tuning, linear_datamodeling, patterning_figures
from benchmarks.fine_tuning import Parts
from benchmarks.patterning_figures import ARMS
from resources import experiment as experiments
from susc_pipeline import seeds
from susc_pipeline.model import pretrained
from susc_pipeline.model.decoder import Decoder
from susc_pipeline.patterning import document_responses, group_losses, reweighting
from susc_pipeline.patterning.document_responses import Responses
from susc_pipeline.sampling.posterior import SamplingSettings

RESULTS = Path(__file__).resolve().parent / "results" / "patterning.json"
SMALL = {"packages": 4, "documents": 5, "seeds": 1, "subsets": 12, "epochs": 1, "positions": 64, "pairs": 1}


class Measured(NamedTuple):
    """What the predictions are made of."""

    of_asked: Responses
    """Packages by training documents, in nats per unit of a weight; errors by halves that share no noise: of these documents."""
    of_packages: Responses
    """The same; errors by halves that share no asked document: of the packages in general."""
    similarity: np.ndarray
    """Minus the cosines of the same gradients."""
    methods: dict[str, np.ndarray]
    """Of each method held-out documents by training documents."""
    seconds: dict[str, float]
    """Of the processor, which each method took beside the gradients of the training documents."""


def measure(model: Decoder, parts: Parts, settings: SamplingSettings, options: argparse.Namespace) -> Measured:
    """Responses of packages, and of held-out documents by each method."""
    training = group_losses.gradients(model, list(parts.training.contexts))
    contexts = parts.training.contexts.reshape(-1, parts.training.contexts.shape[-1])
    n_packages = len(parts.packages)
    asked = [parts.asked.contexts[parts.asked.group == number] for number in range(n_packages)]
    groups = [np.concatenate(list(some[half::2])) for half in (0, 1) for some in asked]
    rng, of_halves = np.random.default_rng(options.seed), []
    for half in (0, 1):
        seed = seeds.sequence(options.seed, "patterning", str(half))
        wide = group_losses.mean_gradients(model, groups, settings, seed, n_pairs=options.pairs)
        along = group_losses.directions(
            model, wide, rng.permutation(contexts), settings, n_contexts=options.hessian_contexts
        )
        of_halves.append(document_responses.of_losses(along, training).reshape(2, n_packages, -1))
        say(f"half {half}")
    by_noise, by_documents = np.mean(of_halves, axis=1), np.mean(of_halves, axis=0)
    methods, seconds = linear_datamodeling.methods(model, parts, training, settings, options, say)
    at_rest = group_losses.gradients(model, [np.concatenate(list(some)) for some in asked])
    of_asked, of_packages = (document_responses.from_halves(*halves) for halves in (by_noise, by_documents))
    similarity = -linear_datamodeling.cosines(at_rest, training)
    return Measured(of_asked, of_packages, similarity, methods, seconds)


def wanted_changes(n_packages: int) -> np.ndarray:
    """Of unit length: each package down and the others still, then each down and the next one up."""
    single = -np.eye(n_packages)
    pairs = (single - np.roll(single, 1, axis=1)) / np.sqrt(2)
    return np.concatenate([single, pairs])


def scaled(observables: Responses, unit: np.ndarray) -> reweighting.Reweighting:
    """The largest multiple of a change for which weights and opposite weights lie between 0 and 2."""
    small = 1e-9
    trial = reweighting.weights(observables, small * unit, project=True)
    most = np.abs(trial.weights - 1).max() / small
    return reweighting.weights(observables, unit / most, project=True)


def arms(found: Measured, plan: reweighting.Reweighting, unit: np.ndarray, rng) -> dict[str, np.ndarray]:
    """Weights of each arm, of the same root mean square distance from one, but for clipping of `similarity`."""
    excess = plan.weights - 1
    alike = found.similarity.T @ unit
    alike = alike - alike.mean()
    alike = np.maximum(1 + alike * np.sqrt((excess @ excess) / (alike @ alike)), 0)
    others = {"similarity": alike * len(alike) / alike.sum(), "shuffled": 1 + rng.permutation(excess)}
    general = reweighting.reachable(found.of_packages).count  # with none there is nothing to ask for
    others["of_packages"] = scaled(found.of_packages, unit).weights if general else np.ones(len(excess))
    return {"patterning": plan.weights, "opposite": 1 - excess, **others}


def patterning(model: Decoder, parts: Parts, found: Measured, options: argparse.Namespace, save) -> dict:
    """Measured changes (seeds, changes, packages) of every arm, on asked and held-out documents, and the predictions."""
    changes = wanted_changes(len(parts.packages))
    plans = [scaled(found.of_asked, unit) for unit in changes]
    rng = np.random.default_rng(options.seed)
    weights = [arms(found, plan, unit, rng) for plan, unit in zip(plans, changes, strict=True)]
    centred = found.of_asked.value - found.of_asked.value.mean(axis=1, keepdims=True)
    content: dict = {"packages": parts.packages, "changes": changes.tolist()}
    content["reachable"] = {
        name: reached(part) for name, part in (("asked", found.of_asked), ("packages", found.of_packages))
    }
    content["predicted"] = {arm: [(centred @ (one[arm] - 1)).tolist() for one in weights] for arm in ARMS}
    content["predicted"]["patterning"] = [plan.predicted.tolist() for plan in plans]
    content["predicted_errors"] = [plan.predicted_errors.tolist() for plan in plans]
    content["reachable_share"] = [plan.reachable_share for plan in plans]
    content["measured"], content["equal_weights"] = [], []
    for seed in range(options.seeds):
        rest = package_losses(tuned(model, parts, np.ones(len(centred[0])), options, seed), parts)
        rows: dict = {arm: [] for arm in ARMS}
        for number, one in enumerate(weights):
            for arm in ARMS:
                rows[arm].append((package_losses(tuned(model, parts, one[arm], options, seed), parts) - rest).tolist())
            say(f"seed {seed}, change {number}")
        content["measured"].append(rows)
        start = package_losses(model, parts)
        content["equal_weights"].append((rest - start).tolist())
        content["summary"] = patterning_figures.summary(content)
        save(content)
    return content


def reached(part: Responses) -> dict:
    reach = reweighting.reachable(part)
    say(f"{reach.count} of {len(part.value)} directions: {reach.singular_values} above {reach.noise_level}")
    row = {
        "count": reach.count,
        "noise_level": reach.noise_level,
        "noise_nats": reach.noise.tolist(),
        "singular_values": reach.singular_values.tolist(),
    }
    return row | {"certainty": reach.certainty.tolist()}


def tuned(model: Decoder, parts: Parts, weights: np.ndarray, options: argparse.Namespace, seed: int) -> Decoder:
    how = {"n_epochs": options.epochs, "learning_rate": options.learning_rate, "seed": seed}
    return fine_tuning.fine_tuned(model, parts.training, weights, **how)


def package_losses(model: Decoder, parts: Parts) -> np.ndarray:
    """Mean losses of the packages: a row of asked documents and one of held-out ones."""
    rows = []
    for documents in (parts.asked, parts.held_out):
        losses = fine_tuning.losses(model, documents)
        rows.append([losses[documents.group == number].mean() for number in range(len(parts.packages))])
    return np.array(rows)


def say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="fewer of everything; other sizes given are not read")
    parser.add_argument(
        "--model", type=Path, default=pretrained.EMBEDDED, help="folder of a model with tiny's tokenizer"
    )
    parser.add_argument("--packages", type=int, default=6)
    parser.add_argument("--documents", type=int, default=6, help="training documents of each package")
    parser.add_argument(
        "--asked", type=int, default=6, help="documents of each package that the responses are measured on"
    )
    parser.add_argument("--held-out", type=int, default=3, help="documents of each package that nothing else reads")
    parser.add_argument("--contexts", type=int, default=4, help="of each document")
    parser.add_argument("--positions", type=int, default=128, help="of each context")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--time", type=float, default=0.168, help="steps times learning rate")
    parser.add_argument("--localization", type=float, default=30_000.0, help="of the noise of all weights")
    parser.add_argument("--pairs", type=int, default=2, help="of noise, for each half")
    parser.add_argument("--hessian-contexts", type=int, default=32)
    parser.add_argument("--draws", type=int, default=15, help="of the method that samples the posterior")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--subsets", type=int, default=64)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--results", type=Path, default=RESULTS)
    found = parser.parse_args()
    if found.small:
        vars(found).update(SMALL)
    found.learning_rate = found.time / (found.epochs * found.packages * found.documents * found.contexts)
    return found


def main() -> None:
    chosen = options()
    experiment = experiments.load("tiny")
    sizes = (chosen.documents, chosen.asked, chosen.held_out)
    how = {"n_packages": chosen.packages, "n_contexts": chosen.contexts, "n_positions": chosen.positions}
    parts = fine_tuning.part(experiments.store(experiment), sizes=sizes, seed=chosen.seed, **how)
    model = pretrained.load(chosen.model).model
    settings = SamplingSettings(n_beta=chosen.time * chosen.localization, localization=chosen.localization)
    asked_for = {name: value for name, value in vars(chosen).items() if name != "results"}
    started, content = time.perf_counter(), {"options": asked_for | {"model": chosen.model.name}}

    def save(name: str, part: dict) -> None:
        content[name] = part
        content["seconds"] = round(time.perf_counter() - started, 1)
        content["threads"] = torch.get_num_threads()
        chosen.results.write_text(json.dumps(content, indent=1) + "\n")

    found = measure(model, parts, settings, chosen)
    scores = linear_datamodeling.scores(model, parts, found.methods, chosen, say)
    save("lds", scores | {"processor_seconds": found.seconds})
    save("patterning", patterning(model, parts, found, chosen, lambda part: save("patterning", part)))
    print("\n".join(patterning_figures.lines(content)))


if __name__ == "__main__":
    main()
