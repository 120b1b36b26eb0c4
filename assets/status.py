"""Says how far an experiment is: `susc-pipeline status`. Sizes of files are compared, not their contents; nothing is written."""

import warnings
from collections import Counter

from susc_pipeline.messages import plain


def status(experiment: str) -> int:
    """Print the state of each computation of the experiment in force, what is next, and what to do; 0 where all is current."""
    warnings.filterwarnings("ignore", module="dagster")  # previews of features that a pinned Dagster cannot withdraw
    from assets import definitions, partitions, states  # the experiment in force is read when these are imported
    from resources import experiment as experiments

    store = experiments.store(partitions.EXPERIMENT)
    store.refresh()
    following, total = None, Counter[str]()
    print(f"{store.root}\n{'what is made together':60} {'shards or wholes':34} last took")
    for line in states.of(store, definitions.defs):
        print(plain(states.written(line)), flush=True)
        total += line.counts
        if following is None and line.counts["stale"] + line.counts["missing"]:
            following = line.name
    if following is None:
        print("nothing is to be made" if not total["being made"] else "the rest is being made")
    else:
        print(f"next: {following}; `susc-pipeline run --experiment {experiment}` makes what is stale or missing")
    return 0 if total["current"] == total.total() else 1
