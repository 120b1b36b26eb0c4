"""Documents to shards: split by document, decided by seed and names alone; too little text is named."""

import numpy as np
import pytest

from susc_pipeline import schema, tokens
from susc_pipeline.config import TokenSettings

SETTINGS = TokenSettings(
    context_length=8,
    contexts_per_shard=5,
    max_contexts_per_document=2,
    n_shards=4,
    n_ground_truth_shards=3,
    n_validation_shards=1,
    n_minibatch_contexts=6,
    n_observable_contexts=2,
)


def documents(n=40, length=30):
    rng = np.random.default_rng(0)
    return [
        tokens.TokenizedDocument(f"doc-{i:03d}", rng.integers(0, 99, size=length).astype(np.int32)) for i in range(n)
    ]


def everything(docs, settings=SETTINGS, seed=1):
    frames = {key: tokens.contexts_of_shard(docs, settings, seed, key) for key in tokens.shard_keys(settings)}
    reserved = tokens.sampling_contexts(docs, settings, seed)
    return frames | {role: reserved.filter(role=role).drop("role") for role in ("minibatch", "observable")}


def test_a_document_belongs_to_one_set_only():
    owners = [set(frame["document_id"]) for frame in everything(documents()).values()]
    assert sum(map(len, owners)) == len(set.union(*owners))


def test_context_ids_are_unique_and_texts_are_those_of_the_document():
    docs = documents()
    by_name = {document.document_id: document.token_ids for document in docs}
    seen = []
    for frame in everything(docs).values():
        for row in frame.iter_rows(named=True):
            seen.append(row["context_id"])
            np.testing.assert_array_equal(
                by_name[row["document_id"]][row["start"] : row["start"] + 8], row["token_ids"]
            )
    assert len(seen) == len(set(seen)) == 4 * 5 + 6 + 2


def test_the_seed_decides_and_nothing_else():
    docs = documents()
    a, b = everything(docs), everything(docs)
    assert all(a[key].equals(b[key]) for key in a)
    other = everything(docs, seed=2)
    assert not all(a[key].equals(other[key]) for key in a)


def test_validation_shards_are_withheld_ground_truth_shards():
    ground_truth, training = tokens.ground_truth_keys(SETTINGS), tokens.training_keys(SETTINGS)
    validation = tokens.validation_keys(SETTINGS)
    assert training + validation == ground_truth == tokens.shard_keys(SETTINGS)[:3]


def test_too_few_documents_and_too_short_ones_are_named():
    with pytest.raises(ValueError, match="5 documents of at least 8 tokens.*4 shards.*need 6"):
        everything(documents(5))
    with pytest.raises(ValueError, match="0 documents of at least 8 tokens.*40 shorter ones"):
        everything(documents(40, length=7))
    with pytest.raises(ValueError, match="shard-0000. needs 5 contexts of 8 tokens.*documents give"):
        everything(documents(7))


def test_token_keys_leave_out_the_first_token_of_each_context():
    frame = tokens.contexts_of_shard(documents(), SETTINGS, 1, "shard-00000")
    keys = schema.token_key_frame(frame)
    assert keys.height == 5 * 7 and keys["position"].min() == 1
    np.testing.assert_array_equal(keys["token_id"].to_numpy().reshape(5, 7), schema.token_ids(frame)[:, 1:])


def test_vectors_that_are_not_finite_are_refused():
    keys = schema.token_key_frame(tokens.contexts_of_shard(documents(), SETTINGS, 1, "shard-00000"))
    values = np.ones((keys.height, 3))
    assert schema.with_vectors(keys, susceptibility=values)["susceptibility"].dtype.shape == (3,)
    values[2, 1] = np.nan
    with pytest.raises(ValueError, match="1 tokens with nan"):
        schema.with_vectors(keys, susceptibility=values)
    with pytest.raises(ValueError, match="one row for each of 35 tokens, got 2"):
        schema.with_vectors(keys, susceptibility=values[:2])
