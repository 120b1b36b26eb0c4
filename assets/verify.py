"""Checks a whole store against its manifests and the graph: `susc-pipeline verify`. Nothing is written.

Every file is read and its SHA-256 compared: as fast as the disk, or 1.8 GB a second, whichever is less.
"""

import warnings

from susc_pipeline.messages import plain


def verify(experiment: str) -> int:
    """Print what is wrong with the store of the experiment in force, as it is found, and what makes it good; 1 if anything is."""
    warnings.filterwarnings("ignore", module="dagster")  # previews of features that a pinned Dagster cannot withdraw
    from assets import definitions, faults, partitions  # the experiment in force is read when these are imported
    from resources import experiment as experiments

    store = experiments.store(partitions.EXPERIMENT)
    store.refresh()
    found = []
    for finding in faults.of(store, definitions.defs):
        found.append(finding)
        print(f"{finding.kind:9}  {plain(f'{finding.place}: {finding.what}')}", flush=True)
    for line in faults.remedies(found, experiment):
        print(line)
    if not found:
        print(f"{store.root}: every artifact is there, current, and as it was written")
    return 1 if found else 0
