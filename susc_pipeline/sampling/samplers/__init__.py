"""Langevin samplers of the local posterior, one file each: where chains begin, one step, the largest step.

The target is p(w) ~ exp(-n_beta L(w) - localization/2 |w - w*|^2) over the weights of one component; positions are
differences from w*, one row a chain. Where gradients and noise come from is in chains.py. A new sampler is a file here with a
dictionary SAMPLERS.
"""

import sys

from susc_pipeline import registry
from susc_pipeline.sampling.samplers.state import Sampler, State

SAMPLERS: dict[str, Sampler] = registry.collected(sys.modules[__name__], "SAMPLERS")

__all__ = ["SAMPLERS", "Sampler", "State"]
