"""Writes docs/columns.md, what each column of the warehouse means: `python -m resources.columns`. Words are in the schema."""

from pathlib import Path

from susc_pipeline import schema

DOCUMENT = Path(__file__).resolve().parent.parent / "docs" / "columns.md"
HEAD = """# Columns of the warehouse

The views of `data/<experiment>/warehouse.duckdb`, which stand for Parquet files; the same words are comments in it
(`select column_name, comment from duckdb_columns() where table_name = 'clusters'`). A token is keyed by `context_id` and
`position`. Written from `susc_pipeline/schema/` by `python -m resources.columns`.
"""


def markdown() -> str:
    """A section a view, with a table of its columns."""
    sections = []
    for name, view in schema.VIEWS.items():
        rows = [f"| `{column}` | {view.of(column)} |" for column in view.columns]
        sections.append("\n".join([f"## {name}", "", view.meaning, "", "| column | meaning |", "|---|---|", *rows]))
    return "\n\n".join([HEAD.strip(), *sections]) + "\n"


if __name__ == "__main__":
    DOCUMENT.write_text(markdown(), encoding="utf-8")
