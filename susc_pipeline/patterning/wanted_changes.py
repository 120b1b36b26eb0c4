"""Wanted changes of components' losses, as an experiment names them, and the weights of its documents that would make them.

What is changed is the population's loss under a component's posterior. How weights are found: reweighting.py.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from jaxtyping import Float, Int, Shaped

from susc_pipeline import schema
from susc_pipeline.messages import require
from susc_pipeline.patterning import document_responses, reweighting
from susc_pipeline.patterning.document_responses import Responses
from susc_pipeline.patterning.reweighting import Reweighting

ASKED, KEPT, FREE = "asked", "kept", "free"


@dataclass(frozen=True)
class WantedChange:
    """Which components' losses are to change and which are to stay; documents get the weights that would do it."""

    name: str
    """By which tables and pages show it."""
    components: tuple[str, ...] = ()
    """Components whose loss is to change, such as L2MLP."""
    changes: tuple[float, ...] = ()
    """Change of each, in nats, of the population's mean loss under the component's posterior; below zero, it is to fall."""
    keep: tuple[str, ...] = ("*",)
    """Patterns of the components whose loss is to stay; each must match one. The others may do what they will."""

    def __post_init__(self) -> None:
        """Check the values."""
        require(len(self.components) > 0, "wanted_changes.components", self.components, "at least one component")
        once = len(set(self.components)) == len(self.components)
        require(once, "wanted_changes.components", self.components, "each named once")
        rule = f"a number for each of the {len(self.components)} components"
        require(len(self.changes) == len(self.components), "wanted_changes.changes", self.changes, rule)
        for change in self.changes:
            require(math.isfinite(change) and change != 0, "wanted_changes.changes", change, "finite and not zero")

    def roles(self, names: Sequence[str]) -> list[str]:
        """Of each component: asked, kept or free."""
        kept = (any(fnmatchcase(name, pattern) for pattern in self.keep) for name in names)
        return [ASKED if n in self.components else KEPT if is_kept else FREE for n, is_kept in zip(names, kept)]


class Documents(NamedTuple):
    """Mean linear responses of documents by either half of the chains, in nats squared."""

    names: list[str]
    n_tokens: Int[np.ndarray, " documents"]
    half_a: Float[np.ndarray, "documents components"]
    half_b: Float[np.ndarray, "documents components"]


class Found(NamedTuple):
    """What was found for all wanted changes."""

    predictions: pl.DataFrame
    """Of schema.WANTED_CHANGES."""
    weights: pl.DataFrame
    """Of schema.DOCUMENT_WEIGHTS."""


def require_known(changes: Sequence[WantedChange], names: Sequence[str]) -> None:
    """Refuse a component that is not measured, and a pattern of `keep` that matches none that is.

    Raises:
        ValueError: names it and those that are.
    """
    listed = ", ".join(names)
    for change in changes:
        for name in change.components:
            rule = f"one of the components that are measured: {listed}"
            require(name in names, f"wanted_changes {change.name!r}: components", name, rule)
        for pattern in change.keep:
            rule = f"patterns that match components that are measured: {listed}"
            is_known = any(fnmatchcase(name, pattern) for name in names)
            require(is_known, f"wanted_changes {change.name!r}: keep", pattern, rule)


def of_shard(tokens: pl.DataFrame) -> Documents:
    """The documents of a shard; no other shard has tokens of them.

    Args:
        tokens: with document_id, half_a and half_b, as linear_response has them.
    """
    names = tokens["document_id"].unique().sort()
    number = tokens["document_id"].rank("dense").cast(pl.Int64).to_numpy() - 1
    halves = (document_responses.document_means(schema.matrix(tokens[half]), number) for half in ("half_a", "half_b"))
    return Documents(names.to_list(), np.bincount(number), *halves)


def joined(parts: Sequence[Documents]) -> Documents:
    """The documents of all shards, in order of name."""
    names = np.array([name for part in parts for name in part.names])
    order = np.argsort(names)
    return Documents(
        names[order].tolist(), *(np.concatenate([part[field] for part in parts])[order] for field in (1, 2, 3))
    )


def find(changes: Sequence[WantedChange], documents: Documents, names: Sequence[str], *, n_beta: float) -> Found:
    """The weights of the documents for each change, and what they are predicted to do to every component.

    Args:
        changes: whose components are among `names`.
        documents: of the whole corpus that was measured.
        names: of the components, in the order of the responses.
        n_beta: of the posterior.

    Raises:
        ValueError: nothing that is asked for rises above the noise; see reweighting.weights.
    """
    every = document_responses.of_document_means(documents.half_a, documents.half_b, n_beta=n_beta)
    apart = n_beta / len(documents.names) * (documents.half_a - documents.half_b).T / 2
    predictions, weights = [], []
    for change in changes:
        roles = np.array(change.roles(names))
        wanted = np.zeros(len(names))
        wanted[[names.index(name) for name in change.components]] = change.changes
        rows = roles != FREE
        try:
            found = reweighting.weights(Responses(*(part[rows] for part in every)), wanted[rows], project=True)
        except ValueError as error:
            raise ValueError(f"wanted change {change.name!r}: {error}") from error
        predictions.append(_predictions(change, names, roles, wanted, every, found, apart))
        columns = {"document_id": documents.names, "n_tokens": documents.n_tokens, "weight": found.weights}
        weights.append(pl.DataFrame({"wanted_change": change.name, **columns, "standard_error": found.standard_errors}))
    return Found(_table(predictions, schema.WANTED_CHANGES), _table(weights, schema.DOCUMENT_WEIGHTS))


def _predictions(
    change: WantedChange,
    names: Sequence[str],
    roles: Shaped[np.ndarray, " components"],
    wanted: Float[np.ndarray, " components"],
    every: Responses,
    found: Reweighting,
    apart: Float[np.ndarray, "components documents"],
) -> pl.DataFrame:
    """Rows of schema.WANTED_CHANGES of a change; `apart` is half the difference of the responses by the two halves.

    Errors of documents count as independent in reweighting.py, but all documents share one response direction. So where the
    halves themselves predict changes that lie further apart, half of that difference is the error.
    """
    excess, is_free = found.weights - 1, roles == FREE
    predicted, errors = every.value @ excess, np.sqrt(every.standard_errors**2 @ excess**2)  # the weights have mean one
    predicted[~is_free], errors[~is_free] = found.predicted, found.predicted_errors
    errors = np.maximum(errors, np.abs(apart @ excess))
    return pl.DataFrame(
        {
            "wanted_change": change.name,
            "component": range(len(names)),
            "name": names,
            "role": roles.tolist(),
            "wanted": [None if free else value for free, value in zip(is_free, wanted.tolist(), strict=True)],
            "predicted": predicted,
            "standard_error": errors,
            "n_documents": len(found.weights),
            "n_clipped": found.n_clipped,
            "reachable_share": found.reachable_share,
            "unclipped_share": found.unclipped_share,
        }
    )


def _table(parts: list[pl.DataFrame], kind: Mapping[str, Any]) -> pl.DataFrame:
    return pl.concat(parts).select(pl.col(name).cast(own) for name, own in kind.items())
