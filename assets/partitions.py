"""The experiment in force, its token shards as partitions, and the version of each asset's code and settings."""

import dagster as dg

from resources import experiment as experiments
from susc_pipeline import tokens

EXPERIMENT = experiments.load()
SHARDS = dg.StaticPartitionsDefinition(tokens.shard_keys(EXPERIMENT.tokens))
GROUND_TRUTH_SHARDS = dg.StaticPartitionsDefinition(tokens.ground_truth_keys(EXPERIMENT.tokens))
TRAINING = dg.SpecificPartitionsPartitionMapping(tokens.training_keys(EXPERIMENT.tokens))
WITHHELD = dg.SpecificPartitionsPartitionMapping(tokens.validation_keys(EXPERIMENT.tokens))
EVERY_SHARD = dg.AllPartitionMapping()
FACTS = {"experiment": EXPERIMENT.name, "digest": EXPERIMENT.digest()}  # recorded with all that is made
ON_REQUEST = {"susc/on_request": "true"}  # tag of assets that a plain run leaves out


def version(number: int, *sections: str) -> str:
    """Code version of an asset: it changes with its code (bump the number) and with the sections of settings that it reads.

    The seed always counts; `seed` as the only section says that nothing else does. No section at all means every setting.
    Dagster then shows as stale just the assets that a change of the experiment's file concerns.
    """
    return f"{number}-{EXPERIMENT.digest(*sections)}"
