"""Linear datamodeling scores of several methods: losses of held-out documents after fine-tuning on random halves of the others.

Each method gives a matrix of held-out documents by training documents, in nats per unit of a weight; the score reads ranks alone.
`linear_response` divides by the posterior's precision, `sampled` takes the covariance of losses under draws of the same
posterior, `dot_product` is TracIn at w*, `ekfac` is what the attribution literature uses (influence_functions.py).
"""

import argparse
import time
from collections.abc import Callable

import numpy as np
import torch

from benchmarks import fine_tuning, influence_functions
from benchmarks.fine_tuning import Parts
from susc_pipeline import seeds
from susc_pipeline.model import components, derivatives, perturbation
from susc_pipeline.model.components import ALL_WEIGHTS
from susc_pipeline.model.decoder import Decoder
from susc_pipeline.patterning import datamodeling, document_responses, group_losses
from susc_pipeline.sampling import observables, precision
from susc_pipeline.sampling.observables import Population
from susc_pipeline.sampling.posterior import SamplingSettings


def methods(
    model: Decoder,
    parts: Parts,
    training: torch.Tensor,
    settings: SamplingSettings,
    options: argparse.Namespace,
    say: Callable[[str], None],
) -> tuple[dict[str, np.ndarray], dict[str, float]]:
    """The matrix of each method, and its processor seconds beside the gradients of the training documents, which are given."""
    held_out, n_contexts = list(parts.held_out.contexts), options.hessian_contexts
    contexts = np.concatenate(list(parts.training.contexts))
    duration = settings.n_beta / settings.localization
    found: dict[str, np.ndarray] = {}
    seconds: dict[str, float] = {}

    def done(name: str, values: np.ndarray, started: float) -> None:
        found[name], seconds[name] = values, round(time.process_time() - started, 1)
        say(f"{name}: {seconds[name]} s")

    def along(gradients: torch.Tensor) -> np.ndarray:
        found = group_losses.directions(model, gradients, contexts, settings, n_contexts=n_contexts)
        return document_responses.of_losses(found, training)

    started, seed = time.process_time(), seeds.sequence(options.seed, "patterning", "held_out")
    smoothed = group_losses.mean_gradients(model, held_out, settings, seed, n_pairs=options.pairs)
    done("linear_response", along(smoothed), started)
    started = time.process_time()
    single = group_losses.gradients(model, held_out)
    of_gradients = time.process_time() - started
    done("linear_response_without_noise", along(single), started)
    started = time.process_time() - of_gradients
    done("dot_product", document_responses.of_losses(single * duration, training), started)
    started = time.process_time() - of_gradients
    done("cosine", -cosines(single, training), started)
    started, seed = time.process_time(), seeds.sequence(options.seed, "patterning", "draws")
    how = {"n_draws": options.draws, "n_contexts": n_contexts}
    done("sampled", sampled(model, parts.held_out.contexts, parts.training.contexts, settings, seed, **how), started)
    if not influence_functions.is_installed():
        say(influence_functions.LEFT_OUT)
        return found, seconds
    started = time.process_time()
    module = influence_functions.load(options.model)
    influence_functions.check_same(module, model, torch.as_tensor(contexts))
    dampings = {"ekfac": None, "ekfac_damped_by_time": 1 / duration}
    documents = parts.held_out.contexts, parts.training.contexts
    of_dampings = influence_functions.responses(module, *documents, dampings, seed=options.seed)
    done("ekfac", of_dampings["ekfac"], started)  # the seconds are those of both dampings
    return found | of_dampings, seconds


def cosines(a: torch.Tensor, b: torch.Tensor) -> np.ndarray:
    return (torch.nn.functional.normalize(a) @ torch.nn.functional.normalize(b).T).double().numpy()


def sampled(
    model: Decoder,
    held_out: np.ndarray,
    training: np.ndarray,
    settings: SamplingSettings,
    seed: np.random.SeedSequence,
    *,
    n_draws: int,
    n_contexts: int,
) -> np.ndarray:
    """-n_beta Cov[l_i, l_j - L] / n over draws of the posterior, of held-out documents i and n training documents j.

    A draw is (localization + n_beta H)^-1 times noise whose covariance is that matrix (Papandreou and Yuille 2010), the Fisher
    matrix for H in the noise: the posterior to second order, without burn-in.

    Args:
        model: at w*.
        held_out: contexts, of shape (documents, contexts, positions).
        training: the same.
        settings: of the posterior.
        seed: of the noise and of the labels.
        n_draws: independent ones.
        n_contexts: read for a product with the Hessian, and for the noise of a draw.
    """
    generator, population = seeds.generator(seed, model.device), Population((np.concatenate(list(training)),))
    noise = torch.randn(n_draws, components.n_parameters(model, ALL_WEIGHTS), generator=generator, device=model.device)
    noise *= settings.localization**0.5
    for number, row in enumerate(noise):
        batch = observables.inputs(model, ALL_WEIGHTS, population.fresh(number * n_contexts, n_contexts))
        (score,) = derivatives.scores(model, ALL_WEIGHTS, batch, torch.zeros_like(row)[None], generator)
        row += settings.n_beta**0.5 * score
    deltas = precision.divided(model, ALL_WEIGHTS, settings, population, noise, n_contexts=n_contexts)
    losses = []
    for documents in (held_out, training):
        ids = torch.as_tensor(documents).flatten(0, 1)
        inputs = perturbation.prepare_tokens(model, ALL_WEIGHTS, ids)
        with torch.no_grad():
            rows = [perturbation.losses(model, ALL_WEIGHTS, inputs, delta[None])[0] for delta in deltas]
        found = torch.stack(rows).double().mean(dim=2).unflatten(1, documents.shape[:2]).mean(dim=2).numpy()
        losses.append(found - found.mean(axis=0))
    of_held_out, of_training = losses
    excess = of_training - of_training.mean(axis=1, keepdims=True)
    return -settings.n_beta * of_held_out.T @ excess / (n_draws - 1) / len(training)


def scores(
    model: Decoder,
    parts: Parts,
    found: dict[str, np.ndarray],
    options: argparse.Namespace,
    say: Callable[[str], None],
) -> dict:
    """Score of every method, with its interval: `options.subsets` fine-tunings on random halves of the training documents."""
    rng = np.random.default_rng(options.seed + 1)
    n_documents = len(parts.training.names)
    subsets = np.zeros((options.subsets, n_documents), dtype=bool)
    for row in subsets:
        row[rng.choice(n_documents, n_documents // 2, replace=False)] = True
    how = {"n_epochs": options.epochs, "learning_rate": options.learning_rate, "seed": 0}
    measured = []
    for number, subset in enumerate(subsets):
        # Twice the weight: half of the steps, of the same total length.
        tuned = fine_tuning.fine_tuned(model, parts.training, 2.0 * subset, **how)
        measured.append(fine_tuning.losses(tuned, parts.held_out))
        say(f"subset {number}")
    spread = found["cosine"] - found["cosine"].mean(axis=1, keepdims=True)
    content: dict = {"subsets": options.subsets, "targets": len(parts.held_out.names), "lds": {}}
    content["cosine_spread"] = float(np.sqrt((spread**2).mean()))  # what `sampled` must tell from its error
    for name, values in found.items():
        predicted = datamodeling.predicted(values, subsets)
        content["lds"][name] = datamodeling.score(predicted, np.array(measured), rng)._asdict()
    return content
