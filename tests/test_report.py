"""The report of a run: its figures are those of the tables, and a figure that is out of date is named."""

import json
from pathlib import Path

import duckdb
import polars as pl
import pytest

from assets import cli
from resources import experiment, headline, report
from resources.headline import Figure
from resources.storage import Store

STORE = report.CHECKOUT / "data" / "tiny"
FIGURES = [Figure("r; ceiling (`make x`)", ".74; .94"), Figure("seconds", "9", varies=True)]
PAGE = """# Title

| figure | value |
|---|---|
| r; [ceiling](a.md#b) (`make x`) | {} |
| seconds | 5 |

| other | value |
|---|---|
| r; ceiling | 3 |
"""


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0.918, ".92"), (-0.031, "−.03"), (1.0, "1.00"), (0.999, "1.00"), (10.05, "10.05"), (0.0, ".00")],
)
def test_a_number_is_shown_without_its_zero(value, shown):
    assert headline.decimal(value) == shown


def test_a_stale_figure_is_named_with_its_present_value():
    assert report.stale(PAGE.format(".74; .94"), FIGURES) == []
    assert report.stale(PAGE.format(".73; .94"), FIGURES) == ["r; ceiling (make x) | .73; .94 | now .74; .94"]
    assert report.stale(PAGE.format("1"), FIGURES[1:]) == ["r; ceiling (make x) | 1 | in no table of the store"]


@pytest.mark.parametrize("before", ["", ".1; .2"])
def test_a_renewed_page_has_the_values_of_the_store_and_else_its_own_words(before):
    page = report.renewed(PAGE.format(before), FIGURES)
    assert page == PAGE.format(".74; .94").replace("| seconds | 5 |", "| seconds | 9 |")
    assert report.stale(page, FIGURES) == []


def test_results_of_benchmarks_become_tables_in_which_nothing_is_markup(tmp_path):
    hostile = {
        "speed": 1.23456,
        "rows": [{"name": "<b>|*_", "r": 0.5}, {"name": "x", "list": [1]}],
        "deep": {"rows": [{"n": 1}]},
    }
    (tmp_path / "made.json").write_text(json.dumps(hostile))
    (heading, single, rows, deep) = report._benchmarks(tmp_path)
    assert heading.endswith("From `benchmarks/results/made.json`.")  # no script has a name like it
    assert single.splitlines()[-1] == "| speed | 1.23 |"
    assert rows.splitlines()[-2:] == [r"| \<b\>\|\*\_ | 0.5 |", "| x |  |"]
    assert deep.startswith("`deep.rows`:")


def test_like_mappings_become_one_table_and_what_is_below_them_stays(tmp_path):
    interval = {"estimate": 0.5, "low": 0.25}
    made = {
        "lds": {"first": interval, "second": interval | {"deep": {"r": 1.0}}},
        "other": {"a": {"x": 1}, "b": {"y": 2}},
    }
    (tmp_path / "patterning_short.json").write_text(json.dumps(made))
    (heading, lds, deep, a, b) = report._benchmarks(tmp_path)
    assert "`benchmarks/results/patterning_short.json`, which `benchmarks/patterning.py` writes." in heading
    assert lds.splitlines() == [
        "`lds`:", "", "| name | estimate | low |", "|---|---|---|", "| first | 0.5 | 0.25 |", "| second | 0.5 | 0.25 |",
    ]  # fmt: skip
    assert deep.startswith("`lds.second.deep`:") and a.startswith("`other.a`:") and b.startswith("`other.b`:")


def test_a_store_that_holds_no_run_is_refused_in_a_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("SUSC_STORE", str(tmp_path))
    assert cli.main(["report", "--experiment", "tiny", "--check"]) == 1
    said = capsys.readouterr().err
    assert said.startswith("error: linear_response") and "materialize it first" in said and said.count("\n") == 1


@pytest.fixture(scope="module")
def figures():
    if not (STORE / "cluster_labels.manifest.json").is_file():
        pytest.skip("there is no finished run of tiny")
    found = headline.figures(Store(STORE), experiment.load("tiny"), report.RESULTS)
    return {figure.name: figure.value for figure in found}


@pytest.mark.slow
def test_the_figures_are_what_sql_says_of_the_run(figures):
    with duckdb.connect(str(STORE / "warehouse.duckdb"), read_only=True) as connection:

        def ask(query):
            return pl.DataFrame(connection.sql(query)).row(0)

        n, n_tokens, again = ask(
            "select count(*), sum(size)::bigint, count(*) filter (reproducibility >= .5) from clusters"
        )
        better, scored = ask(
            "select count(*) filter (gain_low > 0), count(gain) from cluster_labels join clusters using (cluster) "
            "where reproducibility >= .5"
        )
        mean, least = ask("select avg(reliability), min(reliability) from reliability where kind = 'component'")
        r, ceiling = ask("select avg(linear_response_r), avg(ceiling) from aux_correlation")
        half_r = ask("select corr(half_a[1], half_b[1]), corr(half_a[22], half_b[22]) from linear_response")
    values = [value for name, value in figures.items() if name.startswith("clusters")]
    assert values[0].startswith(f"{n}; {n_tokens:,}; ") and values[1].endswith(f"{again} of {n}")
    assert f"{scored}; {better}" in figures.values()
    sampled = next(value for name, value in figures.items() if "sampled susceptibilities" in name)
    assert sampled.startswith(f"{headline.decimal(mean)}; {headline.decimal(least)} ")
    by_pc = next(value for name, value in figures.items() if "linear response; its ceiling" in name)
    assert by_pc.startswith(headline.decimal(r)) and by_pc.endswith(f"; {headline.decimal(ceiling)}")
    linear = next(value for name, value in figures.items() if "reliability of linear responses" in name)
    assert all(2 * value / (1 + value) >= float(linear.split("; ")[1]) - 0.005 for value in half_r)


@pytest.mark.slow
def test_the_figures_of_the_readme_are_those_of_the_run(figures):
    known = [Figure(name, value, "seconds" in name) for name, value in figures.items()]
    for page in (report.README, report.DOCUMENT):
        text = Path(page).read_text(encoding="utf-8")
        assert "\n| reliability" in text
        assert report.stale(text, known) == [], "susc-pipeline report writes them anew"


def test_the_report_writes_page_and_readme_and_then_nothing_is_stale(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(report.headline, "figures", lambda *_: FIGURES)
    monkeypatch.setattr(report, "markdown", lambda *_: PAGE.format(".74; .94"))
    for name in ("DOCUMENT", "README"):
        monkeypatch.setattr(report, name, tmp_path / name)
    report.README.write_text(PAGE.format(".1; .2"))
    assert report.report("tiny", check=True) == 1
    assert capsys.readouterr().out == "README: r; ceiling (make x) | .1; .2 | now .74; .94\n"
    assert not report.DOCUMENT.exists(), "--check writes nothing"
    assert report.report("tiny", check=False) == 0
    assert report.report("tiny", check=True) == 0
    assert report.DOCUMENT.read_text() == PAGE.format(".74; .94")


def test_the_report_of_another_experiment_is_printed_and_no_page_is_touched(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(report.headline, "figures", lambda *_: FIGURES)
    monkeypatch.setattr(report, "markdown", lambda *_: "# Results\n")
    for name in ("DOCUMENT", "README"):
        monkeypatch.setattr(report, name, tmp_path / name)
    (tmp_path / "mine.toml").write_text('name = "mine"\n')
    assert report.report(str(tmp_path / "mine.toml"), check=False) == 0
    assert capsys.readouterr().out == "# Results\n" and not report.DOCUMENT.exists() and not report.README.exists()
