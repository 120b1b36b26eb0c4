"""Artifacts between assets: shards in order, one shard like many, mixed origins refused, damage named."""

import dagster as dg
import polars as pl

from resources.io_manager import ArtifactIOManager
from resources.storage import Store

SHARDS = dg.StaticPartitionsDefinition(["shard-00000", "shard-00001", "shard-00002"])


def graph(tmp_path, shards, *, version="1", column=pl.Int64):
    """A sharded asset, and one that reads all its shards; what the reader saw is appended to `seen`."""
    seen = []

    @dg.asset(partitions_def=shards, code_version=version)
    def part(context: dg.AssetExecutionContext) -> pl.DataFrame:
        return pl.DataFrame({"x": [int(context.partition_key[-1])]}, schema={"x": column})

    @dg.asset(ins={"part": dg.AssetIn(partition_mapping=dg.AllPartitionMapping())}, code_version="1")
    def whole(part: dict[str, pl.LazyFrame]) -> pl.DataFrame:
        seen.append(list(part))
        return pl.concat([frame.collect() for frame in part.values()])

    store = Store(tmp_path)
    resources = {"io_manager": ArtifactIOManager(store)}

    def make(asset, shard=None):
        return dg.materialize(
            [part, whole],
            selection=[asset],
            partition_key=shard,
            resources=resources,
            instance=dg.DagsterInstance.ephemeral(),
            raise_on_error=False,
        )

    return part, whole, make, seen, store


def message(result):
    errors = [event.event_specific_data.error for event in result.all_events if event.is_step_failure]
    return str(errors[0])


def test_shards_are_handed_over_in_order_whatever_the_order_they_were_made_in(tmp_path):
    part, whole, make, seen, store = graph(tmp_path, SHARDS)
    for shard in reversed(SHARDS.get_partition_keys()):
        assert make(part, shard).success
    assert make(whole).success
    assert seen == [SHARDS.get_partition_keys()]
    assert pl.read_parquet(store.table("whole"))["x"].to_list() == [0, 1, 2]


def test_a_single_shard_is_handed_over_like_many(tmp_path):
    part, whole, make, seen, _ = graph(tmp_path, dg.StaticPartitionsDefinition(["shard-00000"]))
    assert make(part, "shard-00000").success and make(whole).success
    assert seen == [["shard-00000"]]


def test_a_missing_shard_is_named(tmp_path):
    part, whole, make, _, _ = graph(tmp_path, SHARDS)
    for shard in ("shard-00000", "shard-00002"):
        assert make(part, shard).success
    assert "part shard-00001 has not been materialized" in message(make(whole))


def test_shards_made_by_different_versions_are_refused_by_name(tmp_path):
    part, _, make, _, _ = graph(tmp_path, SHARDS)
    for shard in SHARDS.get_partition_keys():
        assert make(part, shard).success
    part, whole, make, _, _ = graph(tmp_path, SHARDS, version="2")
    assert make(part, "shard-00001").success
    refused = message(make(whole))
    assert "part mixes shards made with different settings" in refused
    assert "materialize again: part/shard-00000, part/shard-00002" in refused


def test_a_truncated_shard_is_named_with_the_remedy(tmp_path):
    part, whole, make, _, store = graph(tmp_path, SHARDS)
    for shard in SHARDS.get_partition_keys():
        assert make(part, shard).success
    path = store.table("part", "shard-00001")
    path.write_bytes(path.read_bytes()[:-20])
    refused = message(make(whole))
    assert "shard-00001.parquet has" in refused and "materialize part shard-00001 again" in refused


def test_the_manifest_says_from_what_an_artifact_was_made(tmp_path):
    part, whole, make, _, store = graph(tmp_path, SHARDS)
    for shard in SHARDS.get_partition_keys():
        make(part, shard)
    make(whole)
    manifest = store.manifest("whole")
    assert manifest.inputs == {f"part/{s}": store.manifest("part", s).sha256 for s in SHARDS.get_partition_keys()}
    assert manifest.rows == 3 and manifest.code_version == "1"


def test_every_output_of_one_step_says_from_what_it_was_made(tmp_path):
    part, _, make, _, store = graph(tmp_path, dg.StaticPartitionsDefinition(["shard-00000"]))

    @dg.multi_asset(
        ins={"part": dg.AssetIn(partition_mapping=dg.AllPartitionMapping())},
        outs={"a": dg.AssetOut(), "b": dg.AssetOut()},
    )
    def both(part: dict[str, pl.LazyFrame]):
        yield dg.Output(pl.DataFrame({"x": [1]}), "a")
        yield dg.Output(pl.DataFrame({"x": [2]}), "b")

    assert make(part, "shard-00000").success
    resources = {"io_manager": ArtifactIOManager(store)}
    dg.materialize([part, both], selection=[both], resources=resources, instance=dg.DagsterInstance.ephemeral())
    expected = {"part/shard-00000": store.manifest("part", "shard-00000").sha256}
    assert [store.manifest(name).inputs for name in ("a", "b")] == [expected, expected]


def test_what_a_reader_can_do_without_is_none_until_it_is_made_and_again_once_it_is_out_of_date(tmp_path):
    seen = []

    @dg.asset(code_version="1")
    def source(context: dg.AssetExecutionContext) -> pl.DataFrame:
        return pl.DataFrame({"x": [len(seen)]})

    @dg.asset(code_version="1")
    def extra(source: pl.DataFrame) -> pl.DataFrame:
        return source

    @dg.asset(code_version="1")
    def reader(source: pl.DataFrame, extra: pl.DataFrame | None) -> pl.DataFrame:
        seen.append(None if extra is None else extra["x"][0])
        return source

    store, instance = Store(tmp_path), dg.DagsterInstance.ephemeral()
    manager = {"io_manager": ArtifactIOManager(store)}

    def made(asset):
        assert dg.materialize([source, extra, reader], selection=[asset], resources=manager, instance=instance).success
        found = store.manifest("reader")
        return found and found.inputs["extra?"]

    def is_current():
        return all(store.checksum(name) == recorded for name, recorded in store.manifest("reader").inputs.items())

    made(source)
    assert made(reader) == "" and is_current()
    made(extra)
    assert not is_current()
    assert made(reader) == store.manifest("extra").sha256 and is_current()
    made(source)  # with other content, for the reader has been made twice
    assert made(reader) == "" and is_current()
    made(extra)
    made(reader)
    assert seen == [None, 0, None, 2]
