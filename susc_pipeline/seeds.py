"""Seeds derived from an experiment's seed and the names of what they are for.

Two things with different names get independent streams; reruns, workers and the order of a backfill change nothing.
"""

import hashlib

import numpy as np


def sequence(seed: int, *names: str) -> np.random.SeedSequence:
    """The seed sequence of what the names say, such as (seed, "sgld_samples", "shard-00003", "L0H1")."""
    content = "\x1f".join((str(seed), *names)).encode()
    return np.random.SeedSequence(int.from_bytes(hashlib.sha256(content).digest(), "big"))
