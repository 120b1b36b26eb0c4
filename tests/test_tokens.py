"""Documents to shards: split by document, decided by seed and names alone; too little text is named."""

import dataclasses

import numpy as np
import polars as pl
import pytest

from susc_pipeline import beginnings, schema, tokens
from susc_pipeline.tokens import TokenSettings

SETTINGS = TokenSettings(
    context_length=8,
    contexts_per_shard=5,
    max_contexts_per_document=2,
    n_shards=4,
    n_ground_truth_shards=3,
    n_validation_shards=1,
)
N_CHAINS = 4
PARTS = sorted((role, chain) for role in tokens.ROLE_WEIGHTS for chain in range(N_CHAINS))


def documents(n=60, length=30):
    rng = np.random.default_rng(0)
    return [
        tokens.TokenizedDocument(f"doc-{i:03d}", rng.integers(0, 99, size=length).astype(np.int32)) for i in range(n)
    ]


def unequal_documents(n=120):
    rng = np.random.default_rng(1)
    return [document._replace(token_ids=document.token_ids[: rng.integers(8, 400)]) for document in documents(n, 400)]


def shards(docs, settings=SETTINGS, seed=1, n_chains=N_CHAINS):
    return {
        key: tokens.contexts_of_shard(docs, settings, seed, key, n_chains=n_chains)
        for key in tokens.shard_keys(settings)
    }


def population(docs, settings=SETTINGS, seed=1, n_chains=N_CHAINS):
    frame = tokens.population_contexts(docs, settings, seed, n_chains=n_chains)
    assert frame.schema == pl.Schema(schema.POPULATION)
    return frame


def parts(frame):
    """Contexts of each role and chain of the population."""
    return frame.partition_by("role", "chain", as_dict=True, include_key=False)


def everything(docs, settings=SETTINGS, seed=1):
    return shards(docs, settings, seed) | parts(population(docs, settings, seed))


def test_a_document_belongs_to_one_shard_or_to_one_role_of_one_chain():
    owners = [set(frame["document_id"]) for frame in everything(documents()).values()]
    assert sum(map(len, owners)) == len(set.union(*owners))


def test_exact_copies_of_a_document_stay_in_one_place():
    docs = documents()
    copies = [document._replace(document_id=f"copy-{i}-of-{document.document_id}") for i in (1, 2) for document in docs]
    owners = {name: place for place, frame in everything(docs + copies).items() for name in frame["document_id"]}
    assert len(owners) > len(docs)
    originals = [(name.split("-of-")[-1], place) for name, place in owners.items()]
    assert len(set(originals)) == len({original for original, _ in originals})


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
    assert len(seen) == len(set(seen)) == 4 * 5 + 30 * 3


def test_every_context_begins_as_the_tokenizer_begins_a_text_and_no_token_is_lost():
    docs = unequal_documents()
    begun = beginnings.begun(docs, (77,), SETTINGS.context_length)
    for document, whole in zip(docs, begun, strict=True):
        assert (whole.token_ids[:: SETTINGS.context_length] == 77).all()
        kept = np.arange(len(whole.token_ids)) % SETTINGS.context_length > 0
        np.testing.assert_array_equal(whole.token_ids[kept], document.token_ids)
    for frame in everything(begun).values():
        ids = schema.token_ids(frame)
        assert ids.shape[1] == SETTINGS.context_length and (ids[:, 0] == 77).all()
    assert beginnings.begun(docs, (), SETTINGS.context_length) == docs
    with pytest.raises(ValueError, match="context_length must be at least 3"):
        beginnings.begun(docs, (77, 78), 2)


def test_the_seed_decides_and_nothing_else():
    docs = documents()
    a, b = everything(docs), everything(docs)
    assert all(a[key].equals(b[key]) for key in a)
    other = everything(docs, seed=2)
    assert not any(a[key].equals(other[key]) for key in a)


def test_more_chains_move_no_context_of_a_shard_while_the_share_holds_enough_documents():
    docs = documents()
    few, many, too_many = (shards(docs, n_chains=n) for n in (2, 15, 16))
    assert all(few[key].equals(many[key]) for key in few)
    assert not all(few[key].equals(too_many[key]) for key in few)


@pytest.mark.parametrize("n_documents", [12, 13, 60])
def test_every_chain_has_contexts_for_each_role(n_documents):
    assert list(parts(population(documents(n_documents)))) == PARTS


def test_the_population_has_its_share_of_the_documents_and_all_their_whole_contexts():
    docs = unequal_documents()
    reserved = population(docs, dataclasses.replace(SETTINGS, population_share=0.7))
    names = set(reserved["document_id"])
    assert len(names) == 84
    assert reserved.height == sum(len(document.token_ids) // 8 for document in docs if document.document_id in names)


def test_contexts_are_spread_over_chains_evenly_and_over_roles_by_weight():
    reserved = population(unequal_documents())
    largest = reserved.group_by("document_id").len()["len"].max()
    for (role, _), frame in parts(reserved).items():
        share = tokens.ROLE_WEIGHTS[role] / sum(tokens.ROLE_WEIGHTS.values()) / N_CHAINS
        assert abs(frame.height - share * reserved.height) <= largest


def test_which_chain_has_the_longest_document_depends_on_the_seed():
    docs = [*documents(), tokens.TokenizedDocument("longest", np.arange(80, dtype=np.int32))]
    frames = [population(docs, seed=seed).filter(document_id="longest") for seed in range(20)]
    assert len({frame["chain"][0] for frame in frames if frame.height}) > 1


def test_contexts_of_a_chain_come_in_an_order_that_follows_neither_documents_nor_their_text():
    for frame in parts(population(documents(30, length=400))).values():
        before, after = frame[:-1], frame[1:]
        n_documents = frame["document_id"].n_unique()
        assert frame.height > 20 * n_documents
        same = (before["document_id"] == after["document_id"]).mean()
        assert n_documents == 1 or same < 0.8
        assert (after["start"] > before["start"]).mean() < 0.75


def test_a_smaller_population_is_the_head_of_each_part_of_the_larger():
    docs = unequal_documents()
    larger = parts(population(docs))
    for limit in (1, 50, 200):
        smaller = parts(population(docs, dataclasses.replace(SETTINGS, max_population_contexts=limit)))
        for (role, chain), frame in smaller.items():
            assert frame.height == max(1, limit * tokens.ROLE_WEIGHTS[role] // (6 * len(smaller) // 2))
            head = larger[role, chain][: frame.height]
            assert frame.drop("context_id").equals(head.drop("context_id"))


def test_validation_shards_are_withheld_ground_truth_shards():
    ground_truth, training = tokens.ground_truth_keys(SETTINGS), tokens.training_keys(SETTINGS)
    validation = tokens.validation_keys(SETTINGS)
    assert training + validation == ground_truth == tokens.shard_keys(SETTINGS)[:3]


def test_too_few_documents_and_too_short_ones_are_named():
    few = (
        "11 different documents of at least 8 tokens.*4 shards and 8 parts.*need 12.*sampling.n_chains, tokens.n_shards"
    )
    with pytest.raises(ValueError, match=few):
        shards(documents(11))
    with pytest.raises(ValueError, match=few):
        population(documents(11))
    with pytest.raises(ValueError, match="1 different documents"):
        population([document._replace(token_ids=np.zeros(30, np.int32)) for document in documents()])
    with pytest.raises(ValueError, match="0 different documents of at least 8 tokens.*60 shorter ones"):
        population(documents(60, length=7))
    with pytest.raises(ValueError, match=r"shard-0000. needs 5 contexts of 8 tokens.*tokens.population_share \(0.5\)"):
        shards(documents(13))


@pytest.mark.parametrize(
    "key, value", [("population_share", 0.0), ("population_share", 1.0), ("max_population_contexts", -1)]
)
def test_a_share_or_number_out_of_range_is_refused(key, value):
    with pytest.raises(ValueError, match=f"tokens.{key} must be"):
        dataclasses.replace(SETTINGS, **{key: value})


def test_token_keys_leave_out_the_first_token_of_each_context():
    frame = shards(documents())["shard-00000"]
    keys = schema.token_key_frame(frame)
    assert keys.height == 5 * 7 and keys["position"].min() == 1
    np.testing.assert_array_equal(keys["token_id"].to_numpy().reshape(5, 7), schema.token_ids(frame)[:, 1:])


def test_vectors_that_are_not_finite_are_refused():
    keys = schema.token_key_frame(shards(documents())["shard-00000"])
    values = np.ones((keys.height, 3))
    assert schema.with_vectors(keys, susceptibility=values)["susceptibility"].dtype.shape == (3,)
    values[2, 1] = np.nan
    with pytest.raises(ValueError, match="1 tokens with nan"):
        schema.with_vectors(keys, susceptibility=values)
    with pytest.raises(ValueError, match="one row for each of 35 tokens, got 2"):
        schema.with_vectors(keys, susceptibility=values[:2])
