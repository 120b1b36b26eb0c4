"""Labels: planted rules come back in words and hold on other documents; random clusters gain nothing over the token."""

import itertools

import numpy as np
import polars as pl
import pytest

from susc_pipeline import schema
from susc_pipeline.labels import drawn_tokens, features, rules, scores, table, words
from susc_pipeline.labels.features import FEATURES
from susc_pipeline.labels.rules import Rows

TEXTS = [" a", " b", "c", " D", "Ef", ":", "\n", "(", ")", " return", " 12", "\u202e`<b>"]
A, B, C, D, EF, COLON, BREAK, OPEN, CLOSE, RETURN, DIGITS, HOSTILE = range(len(TEXTS))
LENGTH, PER_SHARD, N_SHARDS, N_DOCUMENTS = 64, 60, 3, 60


def corpus(seed=0):
    """Contexts of random tokens, in shards, of documents in three folders."""
    rng, shards = np.random.default_rng(seed), {}
    for number in range(N_SHARDS):
        ids = rng.choice(len(TEXTS), (PER_SHARD, LENGTH), p=[0.12] * 4 + [0.1, 0.1, 0.12, 0.05, 0.05, 0.05, 0.04, 0.01])
        first = number * PER_SHARD
        names = [f"kind{d % 3}/{d:03d}" for d in (first + np.arange(PER_SHARD)) % N_DOCUMENTS]
        columns = {
            "context_id": first + np.arange(PER_SHARD),
            "document_id": names,
            "start": 64,
            "token_ids": ids.tolist(),
        }
        shards[f"shard-{number:05d}"] = pl.DataFrame(columns, schema=schema.CONTEXTS).lazy()
    return shards


def groups(shards, *, merged=1):
    names = sorted(set(pl.concat(shards.values()).collect()["document_id"]))
    return pl.DataFrame(
        {"document_id": names, "document_group": np.arange(len(names)) // merged}, schema=schema.DOCUMENT_GROUPS
    )


def everything(shards):
    """Keys and features of all tokens, in order of shard."""
    facts = features.token_facts(TEXTS)
    keys, found = [], []
    for shard in sorted(shards):
        contexts = shards[shard].collect()
        keys.append(schema.token_key_frame(contexts).with_columns(shard=pl.lit(shard)))
        kinds = np.array([int(name[4]) for name in contexts["document_id"]])
        found.append(features.features(schema.token_ids(contexts), contexts["start"].to_numpy(), kinds, facts))
    return pl.concat(keys), np.concatenate(found)


def members(keys, labels):
    inside = np.flatnonzero(labels >= 0)
    frame = (
        keys[inside.tolist()]
        .with_columns(cluster=pl.Series(labels[inside], dtype=pl.Int32))
        .sort("cluster", maintain_order=True)
    )
    ranked = frame.with_columns(rank=pl.int_range(pl.len(), dtype=pl.Int32).over("cluster"))
    return ranked.select(pl.col(name).cast(kind) for name, kind in schema.MEMBERS.items())


def column(found, name):
    return found[:, FEATURES.index(name)]


def planted_rules(found):
    """Clusters by rules, a tenth of their tokens missing and as many others among them, with the words that must come back."""
    token, previous = column(found, "token"), column(found, "previous")
    return [
        ((token == BREAK) & (previous == COLON), ["`⏎`", "after `:`"]),
        (np.isin(token, [A, B]) & (column(found, "following") == OPEN), ["`·a`", "`·b`", "before `(`"]),
        ((token == RETURN) & (column(found, "is_first_in_line") == 1), ["`·return`", "first in its line"]),
        ((token == C) & (column(found, "bracket_depth") >= 2), ["`c`", "at least 2 brackets deep"]),
        ((token == DIGITS) & (column(found, "document_kind") == 1), ["`·12`", "in documents of `kind1`"]),
        ((token == D) & (column(found, "is_repeated_pair") == 1), ["`·D`", "where the same two tokens came earlier"]),
    ]  # fmt: skip


@pytest.fixture(scope="module")
def world():
    shards = corpus()
    keys, found = everything(shards)
    return shards, keys, found


@pytest.fixture(scope="module")
def labelled(world):
    shards, keys, found = world
    rng, labels = np.random.default_rng(1), np.full(len(found), -1)
    for cluster, (holds, _) in enumerate(planted_rules(found)):
        kept = holds & (rng.random(len(holds)) < 0.9)
        labels[kept] = cluster
    return table.label_clusters(shards, members(keys, labels), groups(shards), TEXTS, seed=0), labels


def test_planted_rules_come_back_in_words_and_hold_on_the_other_half(world, labelled):
    for row, (_, said) in zip(labelled[0].iter_rows(named=True), planted_rules(world[2]), strict=True):
        assert all(part in row["label"] for part in said), (row["label"], said)
        assert row["precision"] > 0.8 and row["recall"] > 0.95, row
        assert row["gain_low"] > 0 and row["gain"] == pytest.approx(row["f1"] - row["token_f1"])
        assert row["heading"].split(", ", 1)[1] and row["token_label"] != row["label"]


def test_a_cluster_that_is_a_token_gains_nothing(world):
    shards, keys, found = world
    labels = np.where(column(found, "token") == RETURN, 0, -1)
    row = table.label_clusters(shards, members(keys, labels), groups(shards), TEXTS, seed=0).row(0, named=True)
    assert (row["label"], row["gain"], row["precision"], row["recall"]) == ("`·return`", 0, 1, 1)
    n = int((labels == 0).sum())
    assert row["heading"] == f"`·return` {n:,} of {n:,}"


@pytest.mark.parametrize("within_token", [False, True])
def test_random_clusters_gain_nothing(world, within_token):
    """The control: members drawn at random among all tokens, or among the occurrences of one token each."""
    shards, keys, found = world
    rng, labels, n_clusters = np.random.default_rng(2), np.full(len(found), -1), 12
    for cluster in range(n_clusters):
        free = np.flatnonzero((labels < 0) & ((column(found, "token") == cluster % 6) | (not within_token)))
        labels[rng.choice(free, 100, replace=False)] = cluster
    result = table.label_clusters(shards, members(keys, labels), groups(shards), TEXTS, seed=0)
    gain = result["gain"].to_numpy()
    assert -0.05 < gain.mean() < 0.01 and gain.max() < 0.05  # what is fitted to noise costs a little
    assert (result["gain_low"] > 0).sum() <= 1  # of twelve intervals of 95 %


def test_counts_of_tokens_and_documents_are_those_of_the_shards(world, labelled):
    _, keys, found = world
    result, labels = labelled
    token = column(found, "token")
    for row in result.iter_rows(named=True):
        own = labels == row["cluster"]
        expected = {t: (int((own & (token == t)).sum()), int((token == t).sum())) for t in set(token[own].tolist())}
        found_counts = zip(row["token_members"], row["token_occurrences"])
        assert dict(zip(row["token_ids"], found_counts)) == expected and row["n_tokens"] == len(expected)
        assert row["n_documents"] == keys.filter(own)["document_id"].n_unique()


def test_near_duplicates_count_once_and_stay_on_one_side(world):
    shards, keys, found = world
    labels = np.where(column(found, "token") == RETURN, 0, -1)
    merged = groups(shards, merged=15)
    row = table.label_clusters(shards, members(keys, labels), merged, TEXTS, seed=0).row(0, named=True)
    assert row["n_documents"] == 4 and row["gain"] is None and "as one: 4;" in row["label"]
    group = np.random.default_rng(0).integers(0, 30, 500)
    half = drawn_tokens.halves(group, np.random.default_rng(0))
    assert set(group[half]).isdisjoint(group[~half]) and len(set(group[half])) == 15


def test_drawn_rows_stand_for_all_tokens(world):
    shards, keys, found = world
    labels = np.where(column(found, "token") == A, 0, -1)
    source = drawn_tokens.Source(shards, members(keys, labels), groups(shards))
    counts = drawn_tokens.count(source, len(TEXTS))
    rows = drawn_tokens.draw(source, counts, features.token_facts(TEXTS), max_rows=3000, seed=0)
    assert len(rows.weight) == pytest.approx(3000, rel=0.1) and rows.weight.min() >= 1
    for token in range(len(TEXTS)):
        stands_for = rows.weight[rows.features[:, 0] == token].sum()
        assert stands_for == pytest.approx(counts.occurrences[token], rel=0.25)  # four standard errors of some 250 rows
    whole = drawn_tokens.draw(source, counts, features.token_facts(TEXTS), max_rows=10**6, seed=0)
    np.testing.assert_array_equal(whole.features, found)
    assert (whole.weight == 1).all() and (whole.cluster == labels).all()


def test_the_limit_leaves_as_many_rows_as_allowed():
    sizes = np.array([5, 0, 700, 40, 3])
    for n_rows in (10, 60, 400, 747):
        limit = drawn_tokens.largest_limit(sizes, n_rows)
        assert np.minimum(sizes, limit).sum() == pytest.approx(n_rows)
    assert drawn_tokens.largest_limit(sizes, 748) == float("inf")


def test_features_equal_the_obvious_loop(world):
    _, _, found = world
    contexts = world[0]["shard-00000"].collect()
    for number in (0, 7):
        ids, line, opener, depth = contexts["token_ids"][number].to_list(), None, None, 0
        pairs, place, said = set(), 0, False
        for position, token in enumerate(ids):
            row = dict(zip(FEATURES, found[number * (LENGTH - 1) + position - 1])) if position else None
            blank = not TEXTS[token].strip()
            is_first = line is not None and not said and not blank
            opener = token if is_first else opener
            if row:
                assert (row["token"], row["previous"]) == (token, ids[position - 1])
                assert row["following"] == (ids[position + 1] if position + 1 < LENGTH else features.MISSING)
                assert (row["place_in_line"], row["is_first_in_line"]) == (place, is_first)
                assert row["line_opener"] == (features.MISSING if opener is None else opener)
                assert (row["bracket_depth"], row["place_in_context"]) == (depth, position)
                assert row["place_in_document"] == 64 + position
                assert row["is_repeated_pair"] == ((ids[position - 1], token) in pairs)
                pairs.add((ids[position - 1], token))
            depth = depth + 1 if token == OPEN else max(0, depth - 1) if token == CLOSE else depth
            said, place = said or not blank, place + 1
            if token == BREAK:
                line, opener, place, said = position, None, 0, False


def test_words_are_whole_or_first_middle_or_last_parts():
    texts = [" sus", "cept", "ible", " it", ".", " "]
    ids = np.array([[4, 0, 1, 2, 3, 4, 5, 2]])
    found = features.features(ids, np.zeros(1, int), np.zeros(1, int), features.token_facts(texts))
    said = [features.WORD_PLACES[place].split(" of")[0] for place in column(found, "word_place")]
    parts = [
        "the first part",
        "a middle part",
        "the last part",
        "a whole word",
        "outside words",
        "outside words",
        "a whole word",
    ]
    assert said == parts


def test_letter_cases_are_those_of_the_letters_alone():
    cases = {" ": 0, " the": 1, "The": 2, "_A": 2, "HTTP2": 3, "iOS": 4, " 42": 5, "()": 6, "⟨e2⟩": 7, "שלום": 7}
    for text, expected in cases.items():
        assert features.letter_case(text) == features.LETTER_CASES[expected], text


def test_a_rule_says_what_it_takes_and_hides_nothing_that_cannot_be_seen():
    named = words.Words(TEXTS, ["kind"], np.arange(len(TEXTS)))
    none, most = np.zeros(0, np.int32), rules.ANY[1]
    rule = (
        rules.Condition(0, np.array([HOSTILE, BREAK], np.int32), *rules.ANY, True),
        rules.Condition(FEATURES.index("previous"), np.arange(9, dtype=np.int32), *rules.ANY, False),
        rules.Condition(FEATURES.index("place_in_line"), none, 3, most, True),
    )
    said = named.rule(rule)
    assert said == "`⟨202e⟩ˋ<b>` or `⏎`, not after `)`, `(`, `⏎`, `:` or 5 others, from token 4 of the line on"
    assert said.isprintable() and named.rule(rule, without_token=True).startswith("not after")
    rows = np.full((1, len(FEATURES)), 0, np.int32)
    rows[0, [0, 1, FEATURES.index("place_in_line")]] = BREAK, RETURN, 3
    assert rules.fulfilled(rule, rows).tolist() == [True]
    for place, value in ((0, A), (1, B), (FEATURES.index("place_in_line"), 2)):
        other = rows.copy()
        other[0, place] = value
        assert rules.fulfilled(rule, other).tolist() == [False]


def test_the_best_limit_of_the_token_is_that_of_all_limits():
    rng = np.random.default_rng(0)
    rate = rng.choice([0.1, 0.2, 0.5, 0.7], 300)
    is_member, weight = rng.random(300) < rate, rng.uniform(1, 5, 300)

    def f1(limit):
        taken = rate > limit
        return 2 * weight[taken & is_member].sum() / (weight[taken].sum() + weight[is_member].sum())

    assert f1(rules.best_token_cut(rate, is_member, weight).limit) == max(map(f1, (0.1, 0.2, 0.5)))


def test_scores_equal_the_obvious_loop_and_the_interval_is_the_jackknife():
    rng = np.random.default_rng(0)
    n = 400
    rows = Rows(
        np.zeros((n, len(FEATURES)), np.int32),
        rng.integers(0, 2, n).astype(np.int32),
        rng.uniform(1, 3, n),
        rng.integers(0, 9, n),
    )
    by_rule, by_token = rng.random(n) < 0.3, rng.random(n) < 0.5
    found = scores.score(rows, 1, by_rule, by_token)

    def f1(taken, kept):
        inside, weight = rows.cluster == 1, rows.weight * kept
        return 2 * weight[taken & inside].sum() / (weight[taken].sum() + weight[inside].sum())

    every = np.ones(n, bool)
    assert found.gain == pytest.approx(f1(by_rule, every) - f1(by_token, every))
    without = np.array([f1(by_rule, rows.document != d) - f1(by_token, rows.document != d) for d in range(9)])
    error = np.sqrt(8 / 9 * np.sum((without - without.mean()) ** 2))
    assert found.gain_high - found.gain == pytest.approx(2.306004 * error, rel=1e-5)  # Student's t of 8 degrees, 97.5 %
    assert found.f1 == pytest.approx(2 / (1 / found.precision + 1 / found.recall))
    assert found.n_members_scored == (rows.cluster == 1).sum() and found.n_documents_scored == 9


def test_no_cluster_gives_no_row_and_a_document_of_no_group_is_refused(world):
    shards, keys, _ = world
    none = members(keys, np.full(keys.height, -1))
    assert table.label_clusters(shards, none, groups(shards), TEXTS, seed=0).height == 0
    some = members(keys, np.where(np.arange(keys.height) < 50, 0, -1))
    with pytest.raises(ValueError, match="no group of"):
        table.label_clusters(shards, some, groups(shards).head(3), TEXTS, seed=0)


def test_the_same_labels_come_whatever_the_order_of_the_shards(world, labelled):
    shards, keys, _ = world
    turned = dict(itertools.chain(reversed(shards.items())))
    again = table.label_clusters(turned, members(keys, labelled[1]), groups(shards), TEXTS, seed=0)
    assert again.equals(labelled[0])
