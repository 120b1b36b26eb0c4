"""A code location with one sharded asset that does nearly nothing, for tests of Dagster's storage and daemon around it."""

import os
import time
from pathlib import Path

import dagster as dg
import polars as pl

from resources import manifest, tables
from resources.manifest import Manifest
from resources.storage import Store

STORE = Store(Path(os.environ["BACKFILL_ROOT"]))
SHARDS = dg.StaticPartitionsDefinition([f"shard-{number:05d}" for number in range(int(os.environ["BACKFILL_SHARDS"]))])


@dg.asset(
    partitions_def=SHARDS,
    code_version="1",
    backfill_policy=dg.BackfillPolicy.multi_run(int(os.environ["BACKFILL_SHARDS_A_RUN"])),
)
def part(context: dg.AssetExecutionContext) -> None:
    """The number of the shard. Stored by hand: the I/O manager's imports would be most of what a run does."""
    for shard in context.partition_keys:
        time.sleep(float(os.environ["BACKFILL_SECONDS"]))
        path = STORE.table("part", shard)
        tables.write(pl.DataFrame({"number": [int(shard[-5:])]}), path)
        STORE.publish(Manifest("part", shard, "1", "", {}, manifest.record(path, path.name), 1))


defs = dg.Definitions(assets=[part], executor=dg.in_process_executor)
