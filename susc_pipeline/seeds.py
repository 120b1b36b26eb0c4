"""Seeds derived from an experiment's seed and the names of what they are for.

Two things with different names get independent streams; reruns, workers and the order of a backfill change nothing.
"""

import hashlib

import numpy as np
import torch


def sequence(seed: int, *names: str) -> np.random.SeedSequence:
    """The seed sequence of what the names say, such as (seed, "sgld_samples", "shard-00003", "L0H1")."""
    content = "\x1f".join((str(seed), *names)).encode()
    return np.random.SeedSequence(int.from_bytes(hashlib.sha256(content).digest(), "big"))


def child(seed: np.random.SeedSequence, number: int) -> np.random.SeedSequence:
    """What `seed.spawn` gives as its child of that number the first time; spawn itself remembers, and gives others later."""
    return np.random.SeedSequence(seed.entropy, spawn_key=(*seed.spawn_key, number))


def generator(seed: np.random.SeedSequence, device: torch.device) -> torch.Generator:
    """A generator of torch on a device."""
    return torch.Generator(device).manual_seed(int(seed.generate_state(1, np.uint64)[0] >> 1))
