"""Influence functions by EK-FAC (Grosse et al. 2023), of kronfluence 1.0.1, on the same model and the same documents.

kronfluence reads the gradients of `torch.nn.Linear`, so transformers' module of the model stands for ours; their token losses
are compared first. Embedding and norms, which it cannot read, count as held still. A sample is a context with the sum of its
token losses, and the Fisher matrix is that of labels that the model predicts, as in kronfluence's examples of language models.

`make .venv/.influence` installs kronfluence without torchvision, which it asks for and never imports.
"""

import importlib.util
import logging
import tempfile
import warnings
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from transformers import GPTNeoXForCausalLM

from susc_pipeline.model import decoder
from susc_pipeline.model.decoder import Decoder

LEFT_OUT = "EK-FAC is left out, for kronfluence is not installed: make .venv/.influence installs it"
TOLERANCE = 1e-4  # nats, between the token losses of the two forms of the model
CONTEXTS_AT_ONCE = 36


def is_installed() -> bool:
    return importlib.util.find_spec("kronfluence") is not None


def load(folder: Path) -> GPTNeoXForCausalLM:
    """Transformers' module of the model in a folder, from its safetensors; nothing is downloaded."""
    how = {"local_files_only": True, "use_safetensors": True, "trust_remote_code": False, "dtype": torch.float32}
    return GPTNeoXForCausalLM.from_pretrained(folder, **how).eval().requires_grad_(False)


def token_losses(module: GPTNeoXForCausalLM, ids: Tensor, *, predicted: bool = False) -> Tensor:
    """Loss of each token but the first, in nats, of shape (contexts, predicted); or of labels that the module predicts."""
    logits = module(ids[:, :-1]).logits.flatten(0, 1)
    labels = ids[:, 1:].flatten()
    if predicted:
        labels = torch.multinomial(logits.detach().softmax(dim=-1), num_samples=1).squeeze(-1)
    return functional.cross_entropy(logits, labels, reduction="none").unflatten(0, (len(ids), -1))


def check_same(module: GPTNeoXForCausalLM, model: Decoder, ids: Tensor) -> None:
    """Refuse a module that is another model than ours.

    Raises:
        ValueError: a token loss differs.
    """
    with torch.no_grad():
        apart = float((token_losses(module, ids) - decoder.token_losses(model, ids)).abs().max())
    if not apart < TOLERANCE:
        raise ValueError(
            f"token losses of the module and of the model differ by {apart:.2g} nats; load both from one folder"
        )


def responses(
    module: GPTNeoXForCausalLM,
    held_out: np.ndarray,
    training: np.ndarray,
    dampings: dict[str, float | None],
    *,
    seed: int,
) -> dict[str, np.ndarray]:
    """Of each damping -g_i (F + damping)^-1 g_j / n, F the EK-FAC of the mean token loss, in nats per unit of a weight.

    Args:
        module: is changed: kronfluence wraps its layers.
        held_out: contexts of each held-out document i, of shape (documents, contexts, positions).
        training: of each of the n training documents j; the Fisher matrix is that of their contexts.
        dampings: in nats per squared weight; without a number, kronfluence's: a tenth of each layer's mean eigenvalue.
        seed: of the labels.
    """
    from kronfluence.analyzer import Analyzer, prepare_model
    from kronfluence.arguments import FactorArguments, ScoreArguments
    from kronfluence.task import Task

    class SummedLoss(Task):
        def compute_train_loss(self, batch: Tensor, model, sample: bool = False) -> Tensor:
            return token_losses(model, batch, predicted=sample).sum()

        def compute_measurement(self, batch: Tensor, model) -> Tensor:
            return token_losses(model, batch).sum()

    task, n_tokens, found = SummedLoss(), training.shape[-1] - 1, {}
    queries, samples = (torch.as_tensor(some).flatten(0, 1) for some in (held_out, training))
    with tempfile.TemporaryDirectory() as folder, torch.random.fork_rng(), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of torch, about names that kronfluence calls
        torch.manual_seed(seed)
        how = {"output_dir": folder, "cpu": True, "disable_tqdm": True, "log_level": logging.WARNING}
        analyzer = Analyzer("patterning", prepare_model(module, task), task, **how)
        factors = {"per_device_batch_size": CONTEXTS_AT_ONCE, "factor_args": FactorArguments(strategy="ekfac")}
        analyzer.fit_all_factors("factors", samples, **factors)
        sizes = {f"per_device_{name}_batch_size": CONTEXTS_AT_ONCE for name in ("query", "train")}
        for name, damping in dampings.items():
            # Sums over tokens have gradients n_tokens times as long, and by independent labels n_tokens times the Fisher matrix.
            arguments = ScoreArguments(damping_factor=None if damping is None else n_tokens * damping)
            analyzer.compute_pairwise_scores(name, "factors", queries, samples, score_args=arguments, **sizes)
            scores = analyzer.load_pairwise_scores(name)["all_modules"]
            by_document = scores.double().unflatten(0, held_out.shape[:2]).unflatten(2, training.shape[:2])
            found[name] = -by_document.mean(dim=(1, 3)).numpy() / n_tokens / len(training)
    return found
