"""What the UI shows of a corpus is text: nothing in it is taken for HTML or Markdown."""

import html

import polars as pl

from assets import plots
from susc_pipeline import schema

HOSTILE = "<script>alert('x')</script> **b** [l](http://h) `c` | &amp; \\ \u202e\x1b[31m~!#{}"


def test_hostile_text_is_shown_as_it_is():
    table = pl.DataFrame({"cluster": [0], "size": [1], "conductance": [0.1]})
    members = pl.DataFrame(
        {"cluster": [0], "rank": [0], "shard": ["s"], "context_id": [7], "position": [1]}, schema=schema.MEMBERS
    )
    contexts = pl.DataFrame(
        {"context_id": [7], "document_id": ["d"], "start": [0], "token_ids": [[0, 1, 0]]}, schema=schema.CONTEXTS
    )
    shown = plots.best_clusters(table, members, contexts, ["plain ", HOSTILE]).md_str.splitlines()[2]
    cell = shown.removeprefix("| 0 | 1 | 0.100 | ").removesuffix(" |")
    before, _, rest = cell.partition("**⟦")
    token, _, after = rest.partition("⟧**")
    assert not set("<>|`*[]\\") & set(token)
    expected = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in HOSTILE)
    assert html.unescape(token) == expected and before == after == "plain "
