"""Documents of a run parted for patterning, and fine-tuning of the model on weighted documents by plain SGD."""

from typing import NamedTuple

import numpy as np
import polars as pl
import torch

from resources import tables
from resources.storage import Store
from susc_pipeline import schema
from susc_pipeline.model import decoder, decoder_weights
from susc_pipeline.model.decoder import Decoder


class Documents(NamedTuple):
    """Contexts of each document, of shape (documents, contexts, positions), and the number of its package."""

    names: list[str]
    group: np.ndarray
    contexts: np.ndarray


class Parts(NamedTuple):
    """Packages, and their documents in three parts that share no document and no near copy."""

    packages: list[str]
    training: Documents
    asked: Documents
    """The responses are measured on these."""
    held_out: Documents
    """Neither the responses nor the fine-tuning read these."""


def part(
    store: Store, *, n_packages: int, sizes: tuple[int, int, int], n_contexts: int, n_positions: int, seed: int
) -> Parts:
    """The packages with the most documents, a random choice of documents of each, one of each group of near copies."""
    contexts = tables.scan(store.table("population_contexts")).filter(pl.col("role") == "directions").collect()
    groups = tables.scan(store.table("document_groups")).collect()
    package = pl.when(pl.col("document_id").str.contains("/")).then(pl.col("document_id").str.split("/").list.first())
    table = contexts.group_by("document_id").len().filter(pl.col("len") >= n_contexts).join(groups, on="document_id")
    table = table.with_columns(package.otherwise(pl.lit("(top)")).alias("package")).sort("document_id")
    table = table.unique("document_group", keep="first", maintain_order=True)
    counts = table.group_by("package").len().sort(["len", "package"], descending=[True, False])
    packages = counts.filter(pl.col("len") >= sum(sizes))["package"].head(n_packages).to_list()
    if len(packages) < n_packages:
        raise ValueError(f"only {len(packages)} packages have {sum(sizes)} documents; lower --packages or --documents")
    rng = np.random.default_rng(seed)
    chosen: list[list[tuple[str, int]]] = [[], [], []]
    for number, name in enumerate(packages):
        names = rng.permutation(table.filter(pl.col("package") == name)["document_id"].to_numpy())
        for rank, first in enumerate(np.cumsum((0, *sizes[:2]))):
            chosen[rank] += [(str(one), number) for one in names[first : first + sizes[rank]]]

    def read(some: list[tuple[str, int]]) -> Documents:
        rows = [contexts.filter(pl.col("document_id") == name).head(n_contexts) for name, _ in some]
        ids = np.stack([schema.token_ids(each)[:, :n_positions] for each in rows])
        return Documents([name for name, _ in some], np.array([number for _, number in some]), ids.astype(np.int64))

    return Parts(packages, *(read(some) for some in chosen))


def losses(model: Decoder, documents: Documents) -> np.ndarray:
    """Mean loss of each document, in nats."""
    ids = torch.as_tensor(documents.contexts)
    found = decoder.token_losses(model, ids.flatten(0, 1)).double().mean(dim=1)
    return found.unflatten(0, ids.shape[:2]).mean(dim=1).numpy()


def fine_tuned(
    model: Decoder, documents: Documents, weights: np.ndarray, *, n_epochs: int, learning_rate: float, seed: int
) -> Decoder:
    """The model after SGD, one context a step, in an order that depends on the seed alone; zero weights take no step."""
    n_documents, n_contexts, _ = documents.contexts.shape
    rng = np.random.default_rng(seed)
    order = np.concatenate([rng.permutation(n_documents * n_contexts) for _ in range(n_epochs)])
    ids = torch.as_tensor(documents.contexts).flatten(0, 1)
    named = {name: weight.clone().requires_grad_() for name, weight in decoder_weights.named_weights(model).items()}
    moved = decoder_weights.with_weights(model, named)
    for context in order:
        weight = float(weights[context // n_contexts])
        if weight == 0:
            continue
        loss = decoder.differentiable_losses(moved, ids[context : context + 1]).mean()
        gradients = torch.autograd.grad(loss, list(named.values()))
        with torch.no_grad():
            for parameter, gradient in zip(named.values(), gradients, strict=True):
                parameter.sub_(gradient, alpha=learning_rate * weight)
    return decoder_weights.with_weights(model, {name: weight.detach() for name, weight in named.items()})
