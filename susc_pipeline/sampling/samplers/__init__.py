"""Langevin samplers of the local posterior, one file each: where chains begin, one step, the largest step.

The target is p(w) ~ exp(-n_beta L(w) - localization/2 |w - w*|^2) over the weights of one component; positions are
differences from w*, one row a chain. Where gradients and noise come from is in chains.py.
"""

from susc_pipeline.sampling.samplers import exponential, rmsprop, sgld
from susc_pipeline.sampling.samplers.state import Sampler, State

SAMPLERS: dict[str, Sampler] = {
    "sgld": Sampler(sgld.init, sgld.step, sgld.largest_step),
    "rmsprop_sgld_paper": Sampler(rmsprop.init_paper, rmsprop.step_paper, rmsprop.largest_step),
    "rmsprop_sgld_devinterp": Sampler(rmsprop.init_devinterp, rmsprop.step_devinterp, rmsprop.largest_step),
    "exponential": Sampler(exponential.init, exponential.step, exponential.largest_step),
}

__all__ = ["SAMPLERS", "Sampler", "State"]
