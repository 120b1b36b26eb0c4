"""An experiment written for a text: that it can be read back, that the corpus fills it, and what is refused."""

import itertools
import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from assets import cli
from resources import language_model, tokenized_corpus
from susc_pipeline import corpus as corpora
from susc_pipeline import sizes, tokens
from susc_pipeline.config import ExperimentConfig
from susc_pipeline.corpus import CorpusSettings, Document
from susc_pipeline.sampling.posterior import SamplingSettings

WORDS = "the shaken weights of one component move and every token of this line answers with its loss".split()


def prose(n_characters):
    """Lines and paragraphs that do not repeat as a whole."""
    turns = (
        " ".join([*WORDS[shift % 17 :], str(shift)]) + ("\n\n" if shift % 5 == 4 else "\n")
        for shift in itertools.count()
    )
    text = ""
    while len(text) < n_characters:
        text += next(turns)
    return text[:n_characters]


@given(st.text(alphabet="ab \n\U0001f600", max_size=300), st.integers(1, 40))
def test_pieces_hold_the_whole_text_and_none_is_longer_than_asked_for(text, longest):
    pieces = list(corpora.split(Document("book", text), longest))
    assert "".join(piece.text for piece in pieces) == text
    assert all(len(piece.text) <= longest for piece in pieces)
    assert len({piece.document_id for piece in pieces}) == len(pieces)
    assert [piece.document_id for piece in pieces] == sorted(piece.document_id for piece in pieces)


def test_a_piece_ends_at_a_blank_line_where_there_is_one_and_else_at_a_line():
    paragraphs = Document("book", "one\ntwo\n\nthree\n\nfour five six\nseven")
    assert [piece.text for piece in corpora.split(paragraphs, 17)] == [
        "one\ntwo\n\nthree\n\n",
        "four five six\n",
        "seven",
    ]
    assert list(corpora.split(paragraphs, 0)) == [paragraphs]


def test_a_key_that_came_later_counts_only_where_it_is_given():
    plain, split = (
        ExperimentConfig(name="a", corpus=CorpusSettings(kind="files", path="b", max_document_characters=longest))
        for longest in (0, 500)
    )
    assert plain.digest("corpus") != split.digest("corpus") and plain.digest("tokens") == split.digest("tokens")


@pytest.mark.parametrize("name", ["my notes.txt", 'quo"ted [x] \\ \U0001f600.txt'])
def test_what_is_written_is_read_back_and_the_corpus_fills_it(tmp_path, capsys, name):
    (tmp_path / name).write_text(prose(150_000), encoding="utf-8")
    out = tmp_path / "mine.toml"
    assert cli.main(["init", "--corpus", str(tmp_path / name), "--output", str(out)]) == 0
    said = capsys.readouterr().out
    experiment = ExperimentConfig.from_toml(out)
    assert experiment.corpus.path == str(tmp_path / name) and f"--experiment {out}" in said
    assert {"max_document_characters", "path"} <= set(tomllib.loads(out.read_text())["corpus"])
    assert experiment.sampling.localization == SamplingSettings().localization  # the embedded model's
    documents = tokens.tokenize(
        tokenized_corpus.documents(experiment.corpus),
        language_model.load(language_model.locate(experiment.model), experiment.model).tokenizer,
    )
    assert f"{len(documents):,} documents" in said
    settings, n_chains = experiment.tokens, experiment.sampling.n_chains
    population = tokens.population_contexts(documents, settings, experiment.seed, n_chains=n_chains)
    cut = [
        tokens.contexts_of_shard(documents, settings, experiment.seed, shard, n_chains=n_chains)
        for shard in tokens.shard_keys(settings)
    ]
    least = tokens.check_sizes(documents, settings, experiment.seed, n_chains=n_chains)
    counted = population.group_by("role", "chain").len()["len"]
    assert len(counted) == 2 * n_chains and counted.min() == least >= sizes.LEAST_OF_A_PART
    assert {frame.height for frame in cut} == {settings.contexts_per_shard}
    assert cli.main(["init", "--corpus", str(tmp_path / name), "--output", str(out)]) == 2
    assert "is there already" in capsys.readouterr().err


def test_a_folder_with_one_text_needs_no_option(tmp_path, capsys, monkeypatch):
    (tmp_path / "my book").mkdir()
    (tmp_path / "my book" / "text.txt").write_text(prose(150_000), encoding="utf-8")
    monkeypatch.chdir(tmp_path / "my book")
    assert cli.main(["init", "--license", "CC0-1.0"]) == 0
    assert "next: susc-pipeline run --experiment my-book.toml" in capsys.readouterr().out
    written = ExperimentConfig.from_toml(tmp_path / "my book" / "my-book.toml")
    assert written.name == "my-book" and written.corpus.license == "CC0-1.0"
    assert (
        next(document.document_id.partition("#")[0] for document in tokenized_corpus.documents(written.corpus))
        == "text.txt"
    )


def test_fewer_hours_make_a_smaller_experiment_and_too_few_are_refused():
    loaded = language_model.load(
        language_model.locate(ExperimentConfig(name="a").model), ExperimentConfig(name="a").model
    )
    pieces = corpora.split(Document("book", prose(600_000)), 2_000)
    documents, base = tokens.tokenize(pieces, loaded.tokenizer), ExperimentConfig(name="a")

    def hours_of(one):
        return (
            one.tokens.n_shards
            * one.tokens.contexts_per_shard
            * one.sampling.n_chains
            * one.sampling.n_draws
            * one.directions.max_contexts
            / 1e6
        )

    found = [sizes.fitted(documents, base, hours_of=hours_of, hours=hours) for hours in (float("inf"), 1.0, 0.2, 0.02)]
    taken = [hours_of(one) for one in found]
    assert taken == sorted(taken, reverse=True) and taken[0] > 1 >= taken[1] > 0.2 >= taken[2] > 0.02 >= taken[3]
    # Tokens and draws go before chains, chains before the directions.
    assert [one.sampling.n_chains for one in found] == [8, 8, 8, 4]
    assert [one.directions.max_contexts for one in found] == [512, 256, 256, 128]
    assert {one.tokens.max_population_contexts // one.directions.max_contexts for one in found} == {16}
    with pytest.raises(ValueError, match="the smallest experiment takes about 0.012 hours, more than 0.001"):
        sizes.fitted(documents, base, hours_of=hours_of, hours=0.001)
    least = sizes.fitted(documents, base, hours_of=hours_of, hours=0.001, is_limit=False)
    assert hours_of(least) == pytest.approx(0.012, abs=0.0005)


@pytest.mark.parametrize(
    ("content", "arguments", "said"),
    [
        (prose(3_000), [], "the corpus is too small for any experiment"),
        ("", [], "is empty"),
        (prose(100_000), ["--components", "L9H9"], "no component matches 'L9H9'"),
        (prose(100_000), ["--hours", "0.00001"], "the smallest experiment takes about"),
        (prose(100_000), ["--model", "no such model"], "neither `embedded` nor a local folder"),
        (prose(100_000), ["--name", "../x"], "name must be letters"),
        (prose(100_000), ["--context-length", "1"], "tokens.context_length must be"),
    ],
)
def test_what_cannot_be_written_is_said_in_a_line(tmp_path, capsys, content, arguments, said):
    (tmp_path / "text.txt").write_text(content)
    out = tmp_path / "mine.toml"
    assert cli.main(["init", "--corpus", str(tmp_path / "text.txt"), "--output", str(out), *arguments]) == 2
    assert said in capsys.readouterr().err and not out.exists()
