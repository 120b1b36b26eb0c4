"""A code location with one sharded asset that does nearly nothing, for tests of Dagster's storage and daemon around it."""

import os
import time
from pathlib import Path

import dagster as dg
import polars as pl

from resources.storage import ArtifactIOManager, Store

ROOT = Path(os.environ["BACKFILL_ROOT"])
SHARDS = dg.StaticPartitionsDefinition([f"shard-{number:05d}" for number in range(int(os.environ["BACKFILL_SHARDS"]))])


@dg.asset(partitions_def=SHARDS, code_version="1")
def part(context: dg.AssetExecutionContext) -> pl.DataFrame:
    """The number of the shard."""
    time.sleep(float(os.environ["BACKFILL_SECONDS"]))
    return pl.DataFrame({"number": [int(context.partition_key[-5:])]})


defs = dg.Definitions(
    assets=[part], resources={"io_manager": ArtifactIOManager(Store(ROOT))}, executor=dg.in_process_executor
)
