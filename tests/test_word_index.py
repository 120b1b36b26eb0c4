"""The index of the text: every word is found at its token, in a cluster or not; documents count their members."""

import json
import re

import numpy as np
import polars as pl
import pytest

import sites
from susc_pipeline.explorer import documents, payload, word_index
from susc_pipeline.explorer import site as site_module
from susc_pipeline.explorer.numbering import Tokens

TEXTS = [" im", "port", " os", "\n", "_name", "==", "<b>", "é"]


def tokens(ids, clusters):
    ids = np.array(ids)
    shape = (len(ids), ids.shape[1] - 1)
    return Tokens(ids, np.array(clusters), np.zeros(shape, np.float32), np.zeros((*shape, 1), np.float32))


def index_of(parts, texts=TEXTS):
    index, first = word_index.empty(), 0
    for part in parts:
        index = word_index.updated(index, part, texts, first)
        first += len(part.token_ids)
    return {key: content for key, *content in ((entry.key, *entry.content) for entry in word_index.entries(index))}


def test_a_word_is_found_at_its_first_predicted_token_though_it_spans_several():
    found = index_of([tokens([[3, 0, 1, 2, 4], [0, 1, 5, 6, 7]], [[-1, 2, -1, -1], [0, -1, -1, 1]])])
    assert found["import"] == [2, 1, [0, 4]]  # of the second context only the end is predicted
    assert found["os_name"] == [1, 0, [2]] and found["_name"] == [1, 0, [3]]
    assert found["é"] == [1, 1, [7]] and found["==<"] == [1, 0, [5]]
    assert found["port"] == [2, 2, [1, 4]]


def test_the_index_does_not_depend_on_how_contexts_are_sharded():
    rng = np.random.default_rng(0)
    ids, clusters = rng.integers(0, len(TEXTS), (2000, 6)), rng.integers(-1, 3, (2000, 5))
    whole = index_of([tokens(ids, clusters)])
    parts = index_of([tokens(ids[cut], clusters[cut]) for cut in (slice(0, 7), slice(7, 900), slice(900, None))])
    assert parts == whole
    assert len(whole["port"][2]) == word_index.MAX_PLACES < whole["port"][0]


def test_of_many_places_those_kept_are_spread_over_the_whole_text():
    kept = np.array(index_of([tokens([[0, 1]] * 20_000, [[-1]] * 20_000)])["port"][2])
    quarters = np.histogram(kept, 4, range=(0, 20_000))[0]
    assert len(kept) == word_index.MAX_PLACES and quarters.min() > 0.2 * len(kept)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("words")
    made = sites.site(sites.Shape(), sites.HOSTILE_TEXTS, sites.HOSTILE_DOCUMENTS, folder=folder / "tables")
    site_module.save(made, folder / "explorer")
    return made, folder / "explorer" / "data"


def read(data, name):
    text = (data / f"{name}.js").read_text(encoding="ascii")
    return json.loads(re.fullmatch(r"explorer\.receive\(\"[^\"]*\",(.*)\);\n", text, re.DOTALL)[1])


def test_every_token_of_the_corpus_is_in_the_index(written):
    made, data = written
    entries = [entry for path in sorted((data / "words").glob("*.js")) for entry in read(data, f"words/{path.stem}")]
    counts = {key: count for key, count, *_ in entries}
    ids = np.concatenate([frame.collect()["token_ids"].to_list() for frame in made.shards.contexts.values()])[:, 1:]
    assert counts["the"] >= (ids == made.texts.index("the")).sum() > 0
    assert counts["=1+1"] >= (ids == made.texts.index("=1+1")).sum() > 0


def test_a_document_lists_its_members_by_cluster(written):
    made, data = written
    contexts = pl.concat([frame.collect() for frame in made.shards.contexts.values()])
    joined = made.members.collect().join(contexts.select("context_id", "document_id"), on="context_id")
    entries = [
        entry for path in sorted((data / "documents").glob("*.js")) for entry in read(data, f"documents/{path.stem}")
    ]
    assert sorted(entry[0] for entry in entries) == sorted(contexts["document_id"].unique())
    for name, numbers, n_members, n_clusters, most in entries:
        own = joined.filter(document_id=name)["cluster"].to_list()
        assert n_members == len(own) and n_clusters == len(set(own)) and len(numbers) > 0
        assert len(most) == min(n_clusters, documents.MAX_CLUSTERS)
        assert all(own.count(cluster) == count for cluster, count in most)
        assert [count for _, count in most] == sorted((count for _, count in most), reverse=True)


def test_errors_of_scores_are_half_the_difference_of_the_halves(written):
    made, data = written
    shard = min(made.shards.contexts)
    even, odd = (table[shard].collect()["prediction"].to_numpy() for table in (made.shards.half_a, made.shards.half_b))
    found = payload.unpacked(read(data, "errors/00000")).reshape(-1, even.shape[1])
    rows = min(len(found), len(even))
    np.testing.assert_allclose(found[:rows], (even - odd)[:rows] / 2, atol=np.abs(found).max() / 32767)
