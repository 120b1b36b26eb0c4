"""The warehouse: a DuckDB file of views over the stored Parquet files, never a second copy of them.

Views name files by their place below the store, and find the store by the path that DuckDB opened: a store may be copied, moved
or mounted read-only. Where a view cannot know the place it fails; it never reads another store.

The warehouse has a manifest like an artifact's. DuckDB keeps checksums of its own blocks and refuses a file in which one is
wrong; what a query reads of the Parquet files behind a view is checked by `susc-pipeline verify` only.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl

from resources import files, manifest, tables
from resources.files import StoreError
from resources.manifest import Manifest
from resources.storage import Store
from susc_pipeline import schema
from susc_pipeline.model.pretrained import LoadedModel, token_texts

if TYPE_CHECKING:
    import duckdb  # slow to load

TABLES = {
    "contexts": "token_shards",
    "susceptibilities": "ground_truth_susceptibilities",
    "predictions": "predicted_susceptibilities",
    "whitened": "whitened_susceptibilities",
    "linear_response": "linear_response",
    "activations": "activations",
    "observable_responses": "observable_responses",
}
OF_ONE_NAME = ("population_contexts", "reliability", "aux_correlation", "leakage", "clusters", "cluster_members")
OF_ONE_NAME += ("cluster_agreement", "cluster_reproducibility", "cluster_controls", "cluster_control_matches")
OF_ONE_NAME += ("regime", "negative_control", "document_groups", "cluster_labels", "cluster_interventions")
OF_ONE_NAME += ("cluster_profiles", "chain_diagnostics", "wanted_changes", "document_weights")
SINGLE_TABLES = {"components": "component_table", "data_changes": "data_change_susceptibilities"}
SINGLE_TABLES |= {"observables": "observable_susceptibilities"}
SINGLE_TABLES |= {name: name for name in OF_ONE_NAME}
STORAGE = "v1.0.0"  # of the file: what DuckDB 1.1 and every later version reads
VARIABLE = "store"  # of a connection: the folder of the store, where the user knows it and the view cannot
LOST = (
    "this view cannot tell where its store lies; open warehouse.duckdb itself, not attached and under its own name, or give the "
    "folder of the store: set variable store = ''data/tiny''"
)
AMBIGUOUS = (
    "two warehouses are attached, and this view cannot tell which is its own; open each in a connection of its own"
)
# DuckDB has no function for the path of the database. It documents one setting that is made of it: the default of
# temp_directory is that path and `.tmp`. current_setting is constant when a query is bound, as read_parquet's argument must be.
FOLDER = f"""coalesce(rtrim(getvariable('{VARIABLE}'), '/') || '/', case
        when suffix(current_setting('temp_directory'), '/warehouse.duckdb.tmp')
            then left(current_setting('temp_directory'), -length('warehouse.duckdb.tmp'))
        else error('{LOST}') end)"""
LITERAL = rf"regexp_replace({FOLDER}, '([*?\[])', '[\1]', 'g')"  # a folder's name is no pattern
# The setting is of the database that was opened. A view of a second one, attached, would read the files of the first.
GUARD = f"""case when (select count(*) from duckdb_views() where view_name = 'vocabulary' and not temporary) = 1
    then true else error('{AMBIGUOUS}') end"""
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
# Entries of a vector over components count from one in DuckDB, components from zero.
ENTRY = "component + 1"
COMPONENT_VALUES = f"""
create view component_values as
with in_nats as (
    select r.context_id, r.position, r.document_id, r.token_id, t.text as token, r.loss,
        c.component, c.name, c.kind, c.layer, c.head, c.mean, c.standard_deviation,
        s.susceptibility[{ENTRY}]::double as measured, s.standard_error[{ENTRY}]::double as measured_error,
        r.linear_response[{ENTRY}]::double as linear_response,
        abs(r.half_a[{ENTRY}] - r.half_b[{ENTRY}])::double / 2 as linear_response_error,
        list_dot_product(p.prediction::double[], c.loadings) as predicted_z
    from linear_response r
    cross join components c
    left join susceptibilities s using (context_id, position)
    left join predictions p using (context_id, position)
    left join vocabulary t on t.token_id = r.token_id
)
select context_id, position, document_id, token_id, token, loss, component, name, kind, layer, head,
    measured, measured_error, linear_response, linear_response_error,
    mean + standard_deviation * predicted_z as predicted,
    (measured - mean) / standard_deviation as measured_z, measured_error / standard_deviation as measured_error_z,
    (linear_response - mean) / standard_deviation as linear_response_z,
    linear_response_error / standard_deviation as linear_response_error_z, predicted_z
from in_nats
"""
COMPOSED = {  # views made of others, where all of these are there
    MEMBER_CONTEXTS: {"contexts", "cluster_members"},
    COMPONENT_VALUES: {"linear_response", "components", "susceptibilities", "predictions"},
}


def refresh(
    store: Store, loaded: LoadedModel, made: Mapping[str, Sequence[str | None]], *, thorough: bool = False
) -> None:
    """Write the warehouse anew, unless it is of these artifacts: views of their tables, the vocabulary, members in context.

    The file is replaced as a whole, so that readers of the old one and concurrent writers are not disturbed.

    Args:
        store: of the experiment.
        loaded: its language model, for the vocabulary.
        made: shards of each asset that is there; None for an asset without shards.
        thorough: whether to read what is there to find out if it is as it was written.
    """
    inputs = {}
    for asset in ("language_model", *TABLES.values(), *SINGLE_TABLES.values()):
        for shard in made.get(asset, ()):
            found = store.manifest(asset, shard)
            inputs |= {f"{asset}/{shard}" if shard else asset: found.sha256} if found else {}
    statements = _statements(store, made)
    version = hashlib.sha256("\n".join([STORAGE, *statements]).encode()).hexdigest()[:16]
    if _is_current(store, version, inputs, thorough):
        return
    store.checked("language_model")
    with store.lock("warehouse"):
        vocabulary = _write_vocabulary(store, loaded)
        with files.replacing(store.warehouse(), described_by=store.manifest_path("warehouse")) as temporary:
            with _connect(store, temporary, read_only=False) as connection:
                if not store.remote:
                    connection.execute(f"set variable {VARIABLE} = ?", [str(store.root.absolute())])
                for statement in statements:
                    connection.execute(statement)
                _comment(connection)
            recorded = manifest.record(temporary, store.warehouse().name) | vocabulary
        store.publish(Manifest("warehouse", None, version, version, inputs, recorded, None))


def connect(store: Store) -> "duckdb.DuckDBPyConnection":
    """The warehouse, to be read. Views of a store that machines share read its files where they are, by fsspec.

    Raises:
        StoreError: it was never written, or is damaged.
    """
    store.checked("warehouse")
    return _connect(store, store.warehouse(), read_only=True)


def _connect(store: Store, path: Path, *, read_only: bool) -> "duckdb.DuckDBPyConnection":
    import duckdb  # here: it is slow to load

    settings = {} if read_only else {"storage_compatibility_version": STORAGE}
    connection = duckdb.connect(str(path), read_only=read_only, config=settings)
    if store.remote:
        connection.register_filesystem(store.remote.filesystem)
    return connection


def _is_current(store: Store, version: str, inputs: dict[str, str], thorough: bool) -> bool:
    try:
        found = store.checked("warehouse", thorough=thorough)
    except StoreError:  # never written, or damaged: both are made good by writing it
        return False
    return (found.code_version, found.inputs) == (version, inputs)


def _write_vocabulary(store: Store, loaded: LoadedModel) -> dict[str, manifest.FileRecord]:
    texts = token_texts(loaded.tokenizer, loaded.model.vocabulary_size)
    columns = {"token_id": range(len(texts)), "text": texts}
    path = store.table("vocabulary")
    tables.write(pl.DataFrame(columns, schema={"token_id": pl.Int32, "text": pl.String}), path)
    store.share([path])  # views are made on what all machines see
    return manifest.record(path, path.name)


def _statements(store: Store, made: Mapping[str, Sequence[str | None]]) -> list[str]:
    """What makes the views. Shards are listed one by one: a file that is no artifact of this experiment is not looked at."""
    sources = {name: [store.table(asset, shard) for shard in made.get(asset, ())] for name, asset in TABLES.items()}
    sources |= {name: [store.table(asset)] for name, asset in SINGLE_TABLES.items() if asset in made}
    sources = {name: paths for name, paths in sources.items() if paths} | {"vocabulary": [store.table("vocabulary")]}
    statements = [f"create view {name} as {_reading(store, paths)}" for name, paths in sources.items()]
    return statements + [statement for statement, of in COMPOSED.items() if of <= set(sources)]


def _reading(store: Store, paths: list[Path]) -> str:
    """The rows of these tables. What machines share has one address; else a table lies somewhere below the store."""
    if store.remote:
        return f"select * from read_parquet([{_quoted(store.url(path) for path in paths)}])"
    names = _quoted(path.relative_to(store.root).as_posix() for path in paths)
    # A list comprehension, because lambdas are written otherwise in DuckDB 1.1 than in 2.
    return f"select * from read_parquet([{LITERAL} || name for name in [{names}]]) where {GUARD}"


def _quoted(names: Iterable[str]) -> str:
    return ", ".join("'" + name.replace("'", "''") + "'" for name in names)


def _comment(connection: "duckdb.DuckDBPyConnection") -> None:
    """Say of each view and of each of its columns what it means."""
    views = "select table_name, column_name from duckdb_columns() where not internal order by column_index"
    columns = connection.execute(views).fetchall()
    sentences = [(f"view {name}", schema.VIEWS[name].meaning) for name in dict.fromkeys(name for name, _ in columns)]
    sentences += [(f'column {name}."{column}"', schema.VIEWS[name].of(column)) for name, column in columns]
    for what, sentence in sentences:
        quoted = sentence.replace("'", "''")
        connection.execute(f"comment on {what} is '{quoted}'")
