"""What the UI shows of a corpus is text on one line, in the cells of a table, which Dagster never interprets."""

import base64
import io
import json

import dagster as dg
import numpy as np
import polars as pl
from matplotlib import image

from assets import plots
from susc_pipeline import schema

HOSTILE = "<script>alert('x')</script> **b** [l](http://h) `c` | &amp; \\ \u202e\x1b[31m~!#{}"


def test_hostile_text_is_a_cell_of_a_table_without_characters_that_are_not_seen():
    table = pl.DataFrame({"cluster": [0], "size": [1], "conductance": [0.1]})
    members = pl.DataFrame(
        {"cluster": [0], "rank": [0], "shard": ["s"], "context_id": [7], "position": [1]}, schema=schema.MEMBERS
    )
    contexts = pl.DataFrame(
        {"context_id": [7], "document_id": ["d"], "start": [0], "token_ids": [[0, 1, 0]]}, schema=schema.CONTEXTS
    )
    shown = plots.best_clusters(table, members, contexts, ["plain\n", HOSTILE])
    assert isinstance(shown, dg.TableMetadataValue)
    expected = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in HOSTILE)
    cells = {"cluster": 0, "size": 1, "conductance": 0.1, "token in context": f"plain⏎⟦{expected}⟧plain⏎"}
    assert [record.data for record in shown.records] == [cells]


def test_clusters_that_are_not_there_make_an_empty_table():
    none = pl.DataFrame({"cluster": [], "size": [], "conductance": []})
    assert plots.best_clusters(none, pl.DataFrame(), pl.DataFrame(), []).records == []


def test_a_table_has_three_digits_no_nan_and_no_more_rows_than_can_be_read():
    frame = pl.DataFrame({"name": ["a", None], "r": [0.123456, float("nan")], "n": [12345678, 2], "is": [True, False]})
    shown = plots.table(frame)
    assert [column.type for column in shown.schema.columns] == ["string", "float", "float", "string"]
    assert [record.data for record in shown.records] == [
        {"name": "a", "r": 0.123, "n": 12345678, "is": True},
        {"name": None, "r": None, "n": 2, "is": False},
    ]
    json.dumps([record.data for record in shown.records], allow_nan=False)
    assert len(plots.table(pl.concat([frame] * plots.N_ROWS)).records) == plots.N_ROWS


def test_a_glance_is_short_enough_to_be_shown_in_its_place_and_its_bars_are_as_high_as_the_values():
    values = np.random.default_rng(0).random(200)
    shown = plots.glance(values).md_str or ""
    assert len(shown) < 1000  # as the UI has it
    pixels = image.imread(io.BytesIO(base64.b64decode(shown.partition("base64,")[2].rstrip(")"))), format="png")
    heights = (pixels[..., 0] < 0.5).sum(axis=0)[:: plots.BAR_WIDTH] / plots.GLANCE_HEIGHT
    assert np.abs(heights - values[: plots.N_BARS]).max() <= 1 / plots.GLANCE_HEIGHT
    assert (plots.glance(np.array([np.nan, -1.0, 2.0])).md_str or "").startswith("![")
