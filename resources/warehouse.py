"""The warehouse: a DuckDB file of views over the stored Parquet files, never a second copy of them."""

import duckdb
import polars as pl

from resources.storage import Store, replacing, write_table
from susc_pipeline import schema
from susc_pipeline.model.pretrained import LoadedModel, token_texts

TABLES = {
    "contexts": "token_shards",
    "susceptibilities": "ground_truth_susceptibilities",
    "predictions": "predicted_susceptibilities",
    "whitened": "whitened_susceptibilities",
    "activations": "activations",
}
SINGLE_TABLES = ("sampling_contexts", "reliability", "aux_correlation", "leakage", "clusters", "cluster_members")
SINGLE_TABLES += ("cluster_agreement",)
TEXT_OF = """(select coalesce(string_agg(v.text, '' order by w.place), '') from (
        select unnest(c.token_ids[{first}:{last}]) as id, generate_subscripts(c.token_ids[{first}:{last}], 1) as place
    ) w join vocabulary v on v.token_id = w.id)"""
# DuckDB counts list entries from one, positions count from zero.
MEMBER_CONTEXTS = f"""
create view member_contexts as
select m.cluster, m.rank, t.text as token,
    {TEXT_OF.format(first="greatest(1, m.position - 15)", last="m.position")} as before,
    {TEXT_OF.format(first="m.position + 2", last="m.position + 6")} as after,
    c.document_id, m.context_id, m.position, m.shard
from cluster_members m
join contexts c using (context_id)
join vocabulary t on t.token_id = c.token_ids[m.position + 1]
"""


def refresh(store: Store, loaded: LoadedModel) -> None:
    """Write the warehouse anew: a view for each table that exists, the vocabulary, and members in their contexts.

    The file is replaced as a whole, so that readers of the old one and concurrent writers are not disturbed.
    """
    texts = token_texts(loaded.tokenizer, loaded.model.vocabulary_size)
    vocabulary = pl.DataFrame(
        {"token_id": range(len(texts)), "text": texts}, schema={"token_id": pl.Int32, "text": pl.String}
    )
    write_table(vocabulary, store.table("vocabulary"))
    sources = {
        name: store.path(asset) / "*.parquet"
        for name, asset in TABLES.items()
        if any(store.path(asset).glob("*.parquet"))
    }
    singles = (*SINGLE_TABLES, "vocabulary")
    sources |= {name: store.table(name) for name in singles if store.table(name).is_file()}
    with replacing(store.root / "warehouse.duckdb") as temporary, duckdb.connect(str(temporary)) as connection:
        for name, source in sources.items():
            quoted = str(source).replace("'", "''")
            connection.execute(f"create view {name} as select * from read_parquet('{quoted}')")
        if {"contexts", "cluster_members"} <= set(sources):
            connection.execute(MEMBER_CONTEXTS)
        _comment(connection)


def _comment(connection: duckdb.DuckDBPyConnection) -> None:
    """Say of each view and of each of its columns what it means."""
    views = "select table_name, column_name from duckdb_columns() where not internal order by column_index"
    columns = connection.execute(views).fetchall()
    sentences = [(f"view {name}", schema.VIEWS[name].meaning) for name in dict.fromkeys(name for name, _ in columns)]
    sentences += [(f'column {name}."{column}"', schema.MEANINGS[column]) for name, column in columns]
    for what, sentence in sentences:
        quoted = sentence.replace("'", "''")
        connection.execute(f"comment on {what} is '{quoted}'")
