"""The card of an exported run: README.md with the front matter that data hubs read. The tables are written in bundle.py."""

from pathlib import Path
from typing import Any

import polars as pl
from huggingface_hub import DatasetCardData

from susc_pipeline import schema
from susc_pipeline.messages import plain

TABLES = {  # pattern of each table's files, and the view that says what its columns mean
    "clusters": ("clusters.parquet", "clusters"),
    "cluster_labels": ("cluster_labels.parquet", "cluster_labels"),
    "cluster_members": ("cluster_members.parquet", "member_contexts"),
    "components": ("component_table.parquet", "components"),
    "linear_response": ("linear_response/*.parquet", "linear_response"),
    "susceptibilities": ("ground_truth_susceptibilities/*.parquet", "susceptibilities"),
    "whitened": ("whitened_susceptibilities/*.parquet", "whitened"),
    "contexts": ("token_shards/*.parquet", "contexts"),
    "vocabulary": ("vocabulary.parquet", "vocabulary"),
}
# Licences that hubs know by their own short names; of others they want `other` and the name.
KNOWN_LICENSES = (
    *("apache-2.0", "mit", "bsd-3-clause", "cc0-1.0", "cc-by-3.0", "cc-by-4.0", "cc-by-sa-3.0", "cc-by-sa-4.0"),
    *("cc-by-nc-4.0", "cc-by-nc-sa-4.0", "odc-by", "gpl-3.0", "unlicense"),
)
BODY = """# Token clusters by susceptibility: {name}

How the loss of {tokens:,} tokens responds when the weights of each of {components} components of a trained language model are
shaken, and {clusters:,} clusters of tokens that respond alike. Written by susc-pipeline {version}.

| what | which | SHA-256 |
|---|---|---|
| model | `{model}` | `{model_sha256}` |
| text | `{corpus}`, {documents:,} documents | `{corpus_sha256}` |
| settings | `export.json` | `{digest}` (first 16 digits) |

{license}

## Read it

```python
from susc_pipeline.store import Store

store = Store.open("this folder")
print(store.clusters(), store.members(0), store.vectors(), store.nearest(0, 1))
```

Every table is Parquet, so any reader of Parquet will do. A vector has a place for each component, in the order of
`component_table.parquet`. {rounding}

- A susceptibility is -Cov(loss of the population, excess loss of the token) over draws, in nats squared. A linear response is its
  first term, measured at the trained weights.
- `half_a` and `half_b` share no chain, no document and no draw: compare them to see the whole error.
- Believe a cluster that both halves find again: `reproducibility` of at least 0.5.
- Compare numbers within one set of weights only.

## Columns

{columns}
"""


def text(content: dict[str, Any], folder: Path) -> str:
    """README.md of a bundle.

    Args:
        content: of its export.json.
        folder: that holds its tables.
    """
    settings = content["settings"]
    words = content | {
        "name": settings["name"],
        "model": _named(settings["model"]["source"], settings["model"]["revision"]),
        "corpus": _named(settings["corpus"]["path"] or settings["corpus"]["kind"]),
        "rounding": _rounding(content),
        "license": _license(settings["corpus"]["license"]),
        "columns": "\n\n".join(_columns(folder, table) for table in TABLES),
    }
    return f"---\n{front_matter(content)}\n---\n\n{BODY.format(**words)}"


def front_matter(content: dict[str, Any]) -> str:
    """YAML that names each table, the licence of the text where it is stated, and tags."""
    configs = [{"config_name": table, "data_files": pattern} for table, (pattern, _) in TABLES.items()]
    stated = content["settings"]["corpus"]["license"]
    is_known = stated.lower() in KNOWN_LICENSES
    license = {"license": stated.lower() if is_known else "other"} if stated else {}
    license |= {"license_name": stated} if stated and not is_known else {}
    name = f"Susceptibilities of {content['settings']['name']}"
    tags = ["interpretability", "susceptibilities", "language-model"]
    return DatasetCardData(**license, pretty_name=name, tags=tags, configs=configs).to_yaml()


def _named(name: str, revision: str = "main") -> str:
    """A name of outside data, as Markdown shows it between backticks."""
    shown = plain(f"{name} {revision}" if revision != "main" else name)
    return " ".join(shown.replace("`", "'").replace("|", "/").split())[:200]


def _rounding(content: dict[str, Any]) -> str:
    if content["precision"] == "float32":
        return "Linear responses are float32, as they were measured."
    error = f"{content['largest_rounding_error']:.1g} standard deviations of its component"
    return f"Linear responses are rounded to {content['precision']}: by at most {error}."


def _license(stated: str) -> str:
    if stated:
        return f"The tables hold the text, which is under {stated}, as the experiment states."
    return "The tables hold the text. **The experiment does not state its licence**: find it before you hand this folder on."


def _columns(folder: Path, table: str) -> str:
    pattern, name = TABLES[table]
    view, first = schema.VIEWS[name], next(folder.glob(pattern))
    rows = [f"| `{column}` | {view.of(column)} |" for column in pl.read_parquet_schema(first)]
    return "\n".join([f"`{pattern}` ({table}): {view.meaning}", "", "| column | meaning |", "|---|---|", *rows])
