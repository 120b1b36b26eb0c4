"""The local posterior and how its chains sample it: the settings that every chain reads. The chains are in chains.py."""

import dataclasses
from dataclasses import dataclass

from susc_pipeline.messages import require
from susc_pipeline.sampling.samplers import SAMPLERS


@dataclass(frozen=True)
class SamplingSettings:
    """The local posterior and the chains that sample it (method: Lau et al. 2023; Baker et al. 2025)."""

    sampler: str = "exponential"
    """One of sgld, rmsprop_sgld_paper, rmsprop_sgld_devinterp, exponential."""
    step_size: float = 1.0
    """Step of the sampler; for `exponential` the time h of one step in units of the prior's relaxation time."""
    n_beta: float = 30.0
    """Inverse temperature times number of samples: the weight of the mean loss, per nat."""
    localization: float = 300.0
    """Strength of the Gaussian pull to the trained weights, per squared weight."""
    target_rise: float = 0.0
    """Rise of the mean loss, in nats, that a component's noise shall cause: chooses a localization for each component, beginning
    at `localization`. 0 takes localization as it is, the same for all."""
    largest_noise: float = 0.4
    """Where target_rise is given: the longest that a component's noise may be, relative to its weights."""
    batch_size: int = 2
    """Population contexts of a chain's gradient, fresh at every step."""
    draw_batch_size: int = 0
    """Population contexts of a draw's scores (gauss_newton) or of its gradient (second_order), if more than batch_size."""
    n_reference_contexts: int = 2
    """Further contexts of each draw, on which the population's mean slopes and its loss are measured a second time."""
    n_chains: int = 8
    """Independent chains of a component: each has population documents of its own; even ones make half a, odd ones half b."""
    n_draws: int = 2
    """Draws of a shard's tokens kept from each chain; of a mirrored pair of chains both count."""
    n_burn_in: int = 2
    """Steps discarded before the first draw."""
    n_steps_between_draws: int = 1
    """Steps from one draw to the next."""
    negative_control: bool = False
    """Whether to compare the mean excess losses at n_beta and at zero with n_beta times the susceptibilities."""
    evaluation_batch_size: int = 64
    """Contexts times chains evaluated at once; bounds memory, changes no number beyond rounding."""

    def __post_init__(self) -> None:
        """Check the values."""
        require(self.sampler in SAMPLERS, "sampling.sampler", self.sampler, f"one of {tuple(SAMPLERS)}")
        require(self.step_size > 0, "sampling.step_size", self.step_size, "positive")
        require(self.n_beta >= 0, "sampling.n_beta", self.n_beta, "zero (the negative control) or more")
        require(self.localization > 0, "sampling.localization", self.localization, "positive")
        require(self.target_rise >= 0, "sampling.target_rise", self.target_rise, "zero (localization as given) or more")
        require(self.largest_noise > 0, "sampling.largest_noise", self.largest_noise, "positive")
        rule = (
            "even and at least 4: both halves need two chains, for one chain's mean slope comes from another's contexts"
        )
        require(self.n_chains >= 4 and self.n_chains % 2 == 0, "sampling.n_chains", self.n_chains, rule)
        require(self.draw_batch_size >= 0, "sampling.draw_batch_size", self.draw_batch_size, "zero or more")
        require(self.n_burn_in >= 0, "sampling.n_burn_in", self.n_burn_in, "zero or more")
        for name in (
            "n_draws",
            "batch_size",
            "n_reference_contexts",
            "n_steps_between_draws",
            "evaluation_batch_size",
        ):
            require(getattr(self, name) >= 1, f"sampling.{name}", getattr(self, name), "at least 1")

    def at(self, localization: float) -> "SamplingSettings":
        """The same at the localization that a component's response directions were found at.

        Raises:
            ValueError: it is another than the one given, and none was to be chosen.
        """
        if not self.target_rise and localization != self.localization:
            raise ValueError(
                f"response_directions were found at localization {localization:g}, but sampling.localization is "
                f"{self.localization:g}; materialize response_directions again"
            )
        return dataclasses.replace(self, localization=localization)
