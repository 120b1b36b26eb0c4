"""Text to token ids, documents to contexts, contexts to shards. Documents are read in corpus.py.

A document belongs to one shard or to one chain of the population, and exact copies of it go to the same place. Tokens of
a document share activations and draws, so any finer split would leak. Only the seed and the documents decide who goes where.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import polars as pl
from jaxtyping import Int

from susc_pipeline import schema, seeds
from susc_pipeline.corpus import Document
from susc_pipeline.messages import require

if TYPE_CHECKING:
    import transformers  # slow to load

ROLE_WEIGHTS = {"directions": 5, "draws": 1}  # contexts of a chain's roles, as a ratio


@dataclass(frozen=True)
class TokenSettings:
    """How documents become contexts and contexts become shards."""

    context_length: int = 128
    """Tokens of a context; the loss of every token but the first is measured."""
    contexts_per_shard: int = 32
    """Contexts of a token shard."""
    max_contexts_per_document: int = 8
    """Contexts that a shard takes from one document, at most; keeps one long file from filling a shard."""
    n_shards: int = 26
    """Token shards; every one is predicted and clustered."""
    n_ground_truth_shards: int = 3
    """Leading shards whose susceptibilities are sampled, the withheld ones among them."""
    n_validation_shards: int = 1
    """Last ground-truth shards, withheld from the PCA basis and the auxiliary model's training."""
    population_share: float = 0.5
    """Share of the corpus's documents reserved for the population loss; no shard takes them."""
    max_population_contexts_per_document: int = 64
    """Contexts that the population takes from one document, at most; keeps one long file from being a chain's population."""
    max_population_contexts: int = 0
    """Contexts of the population, at most, over all chains; 0 keeps all that its documents give."""

    def __post_init__(self) -> None:
        """Check the values."""
        require(self.context_length >= 2, "tokens.context_length", self.context_length, "at least 2")
        require(self.contexts_per_shard >= 1, "tokens.contexts_per_shard", self.contexts_per_shard, "at least 1")
        require(1 <= self.n_shards <= 10_000, "tokens.n_shards", self.n_shards, "between 1 and 10000")
        ground_truth, validation = self.n_ground_truth_shards, self.n_validation_shards
        rule = f"between 2 and tokens.n_shards ({self.n_shards})"
        require(2 <= ground_truth <= self.n_shards, "tokens.n_ground_truth_shards", ground_truth, rule)
        rule = f"between 1 and tokens.n_ground_truth_shards - 1 ({ground_truth - 1})"
        require(1 <= validation < ground_truth, "tokens.n_validation_shards", validation, rule)
        per_document, total = self.max_contexts_per_document, self.max_population_contexts
        require(per_document >= 1, "tokens.max_contexts_per_document", per_document, "at least 1")
        per_document = self.max_population_contexts_per_document
        require(per_document >= 1, "tokens.max_population_contexts_per_document", per_document, "at least 1")
        require(0 < self.population_share < 1, "tokens.population_share", self.population_share, "between 0 and 1")
        require(total >= 0, "tokens.max_population_contexts", total, "zero (all of them) or more")


class TokenizedDocument(NamedTuple):
    """A document's name and its token ids."""

    document_id: str
    token_ids: Int[np.ndarray, " tokens"]


_Copies = list[TokenizedDocument]  # documents with the same token ids


class _Assignment(NamedTuple):
    population: list[_Copies]
    shards: list[list[TokenizedDocument]]


class _Place(NamedTuple):
    document: TokenizedDocument
    start: int


def shard_keys(settings: TokenSettings) -> list[str]:
    """Names of all token shards, in order."""
    return [f"shard-{number:05d}" for number in range(settings.n_shards)]


def ground_truth_keys(settings: TokenSettings) -> list[str]:
    """Names of the shards whose susceptibilities are sampled: the leading ones."""
    return shard_keys(settings)[: settings.n_ground_truth_shards]


def training_keys(settings: TokenSettings) -> list[str]:
    """Names of the ground-truth shards that the PCA basis and the auxiliary model are fitted on."""
    return ground_truth_keys(settings)[: -settings.n_validation_shards]


def validation_keys(settings: TokenSettings) -> list[str]:
    """Names of the ground-truth shards withheld from every fit."""
    return ground_truth_keys(settings)[-settings.n_validation_shards :]


def tokenize(
    documents: Iterable[Document], tokenizer: "transformers.PreTrainedTokenizerBase"
) -> list[TokenizedDocument]:
    """Token ids of each document, without special tokens, in order of name.

    Raises:
        ValueError: the tokenizer cannot read a document.
    """
    ordered = sorted(documents)
    texts = [document.text for document in ordered]
    # A list of no texts is an error to the tokenizer, and an empty corpus is reported with more sense further on.
    try:
        encoded = tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"] if texts else []
    except Exception as error:  # the library raises nothing more special
        raise ValueError(
            f"the tokenizer cannot read the corpus ({str(error)[:200]}); use the tokenizer that belongs to the model"
        ) from error
    return [
        TokenizedDocument(document.document_id, np.asarray(ids, dtype=np.int32))
        for document, ids in zip(ordered, encoded, strict=True)
    ]


def check_sizes(documents: list[TokenizedDocument], settings: TokenSettings, seed: int, *, n_chains: int) -> int:
    """Contexts of the smallest part of the population, each part a chain's for one role; that every shard can be cut is checked.

    Raises:
        ValueError: as contexts_of_shard and population_contexts would.
    """
    assigned = _assign(documents, settings, seed, n_chains)
    for shard, members in zip(shard_keys(settings), assigned.shards, strict=True):
        _require_contexts(
            _n_contexts(members, settings, settings.max_contexts_per_document), len(members), shard, settings
        )
    parts, limit = _spread(assigned.population, settings, seed, n_chains), settings.max_population_contexts_per_document
    return min(_n_contexts(members, settings, limit) for members in parts.values())


def contexts_of_shard(
    documents: list[TokenizedDocument], settings: TokenSettings, seed: int, shard: str, *, n_chains: int
) -> pl.DataFrame:
    """The contexts of one shard, as schema.CONTEXTS.

    The number of chains matters only if the documents that it needs exceed tokens.population_share.

    Raises:
        ValueError: too few documents for the shards and the chains, or a shard's documents too short for its contexts.
    """
    number = shard_keys(settings).index(shard)
    assigned = _assign(documents, settings, seed, n_chains).shards[number]
    places = _places_of_shard(assigned, settings, seed)
    _require_contexts(len(places), len(assigned), shard, settings)
    n_contexts = settings.contexts_per_shard
    return _contexts(places[:n_contexts], settings.context_length, number * n_contexts)


def _require_contexts(n_found: int, n_documents: int, shard: str, settings: TokenSettings) -> None:
    if n_found < settings.contexts_per_shard:
        raise ValueError(
            f"{shard} needs {settings.contexts_per_shard} contexts of {settings.context_length} tokens, but its "
            f"{n_documents} documents give {n_found}; lower tokens.contexts_per_shard, tokens.n_shards or "
            f"tokens.population_share ({settings.population_share:g}), raise tokens.max_contexts_per_document "
            f"({settings.max_contexts_per_document}), or add text"
        )


def population_contexts(
    documents: list[TokenizedDocument], settings: TokenSettings, seed: int, *, n_chains: int
) -> pl.DataFrame:
    """The population whose mean loss is the observable, as schema.POPULATION: contexts outside every shard.

    Each chain has its own documents: `directions` estimate its response directions, its draws read `draws`. Rows are sorted
    by role and chain and shuffled within, so a chain that reads them in order reads at random without replacement.

    Raises:
        ValueError: too few documents for the shards and the chains.
    """
    population = _assign(documents, settings, seed, n_chains).population
    first_id = settings.n_shards * settings.contexts_per_shard
    frames = []
    for (role, chain), members in sorted(_spread(population, settings, seed, n_chains).items()):
        limit = settings.max_population_contexts_per_document
        places = [_Place(d, start) for d in members for start in _drawn_starts(d, settings, seed, limit)]
        order = np.random.default_rng(seeds.sequence(seed, "population", role, str(chain))).permutation(len(places))
        kept = order[: _n_kept(role, settings, n_chains)]
        frame = _contexts([places[rank] for rank in kept], settings.context_length, first_id)
        frames.append(frame.with_columns(role=pl.lit(role), chain=pl.lit(chain, pl.Int32)))
        first_id += frame.height
    return pl.concat(frames)


def _assign(documents: list[TokenizedDocument], settings: TokenSettings, seed: int, n_chains: int) -> _Assignment:
    usable = [document for document in documents if len(document.token_ids) >= settings.context_length]
    groups = _copies(usable)
    n_parts = len(ROLE_WEIGHTS) * n_chains
    n_needed = settings.n_shards + n_parts
    if len(groups) < n_needed:
        raise ValueError(
            f"the corpus has {len(groups)} different documents of at least {settings.context_length} tokens "
            f"({len(documents) - len(usable)} shorter ones were left out), but {settings.n_shards} shards and {n_parts} "
            f"parts of the population, {len(ROLE_WEIGHTS)} for each of {n_chains} chains, need {n_needed}; lower "
            f"sampling.n_chains, tokens.n_shards or tokens.context_length, or add documents"
        )
    order = np.random.default_rng(seeds.sequence(seed, "tokens")).permutation(len(groups))
    shuffled = [groups[rank] for rank in order]
    n_before = np.cumsum([0, *map(len, shuffled)])
    n_wanted = int(np.searchsorted(n_before, settings.population_share * len(usable)))
    n_reserved = max(n_parts, min(n_wanted, len(groups) - settings.n_shards))
    rest = shuffled[n_reserved:]
    dealt = [rest[number :: settings.n_shards] for number in range(settings.n_shards)]
    shards = [[document for group in groups_of_shard for document in group] for groups_of_shard in dealt]
    return _Assignment(shuffled[:n_reserved], shards)


def _copies(documents: list[TokenizedDocument]) -> list[_Copies]:
    groups: dict[bytes, _Copies] = {}
    for document in documents:
        groups.setdefault(hashlib.sha256(document.token_ids.tobytes()).digest(), []).append(document)
    return list(groups.values())


def _spread(
    population: list[_Copies], settings: TokenSettings, seed: int, n_chains: int
) -> dict[tuple[str, int], list[TokenizedDocument]]:
    """Documents of each role and chain: the largest come first, and each goes where least is, relative to the weight."""
    # Chains of a role are shuffled, or the first chain would always have the longest document.
    rng = np.random.default_rng(seeds.sequence(seed, "population"))
    members = {(role, int(chain)): [] for role in ROLE_WEIGHTS for chain in rng.permutation(n_chains)}
    n_contexts = dict.fromkeys(members, 0)
    limit = settings.max_population_contexts_per_document
    sizes = [_n_contexts(group, settings, limit) for group in population]
    # The sort is stable and the population is shuffled: documents of one size come in an order drawn from the seed.
    for rank in sorted(range(len(population)), key=lambda rank: -sizes[rank]):
        emptiest = min(members, key=lambda part: n_contexts[part] / ROLE_WEIGHTS[part[0]])
        members[emptiest] += population[rank]
        n_contexts[emptiest] += sizes[rank]
    return members


def _n_kept(role: str, settings: TokenSettings, n_chains: int) -> int | None:
    share = settings.max_population_contexts * ROLE_WEIGHTS[role] // (sum(ROLE_WEIGHTS.values()) * n_chains)
    return max(1, share) if settings.max_population_contexts else None


def _starts(document: TokenizedDocument, settings: TokenSettings) -> range:
    """Where the whole contexts of a document start, in tokens."""
    return range(0, len(document.token_ids) - settings.context_length + 1, settings.context_length)


def _n_contexts(documents: list[TokenizedDocument], settings: TokenSettings, limit: int) -> int:
    return sum(min(len(_starts(document, settings)), limit) for document in documents)


def _places_of_shard(documents: list[TokenizedDocument], settings: TokenSettings, seed: int) -> list[_Place]:
    # Places in a document are drawn, or every context would be a head of a file; and one of each document is taken
    # before a second of any: many documents, little of each.
    turns = [
        (turn, rank, start)
        for rank, document in enumerate(documents)
        for turn, start in enumerate(_drawn_starts(document, settings, seed, settings.max_contexts_per_document))
    ]
    return [_Place(documents[rank], start) for _, rank, start in sorted(turns)]


def _drawn_starts(document: TokenizedDocument, settings: TokenSettings, seed: int, limit: int) -> list[int]:
    rng = np.random.default_rng(seeds.sequence(seed, "places", document.document_id))
    starts = _starts(document, settings)
    return [starts[rank] for rank in rng.permutation(len(starts))[:limit]]


def _contexts(places: list[_Place], length: int, first_id: int) -> pl.DataFrame:
    rows = [
        (first_id + number, document.document_id, start, document.token_ids[start : start + length].tolist())
        for number, (document, start) in enumerate(places)
    ]
    return pl.DataFrame(rows, schema=schema.CONTEXTS, orient="row")
