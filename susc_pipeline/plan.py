"""An experiment on a model of which only the sizes need be there: what its price and its bounds are made of."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from susc_pipeline import tokens
from susc_pipeline.config import ExperimentConfig
from susc_pipeline.model import components, decoder_weights
from susc_pipeline.model.components import Component
from susc_pipeline.model.decoder import Decoder
from susc_pipeline.susceptibility import estimators

POPULATION = 100_000  # contexts of the gradient at w*, where tokens.max_population_contexts sets no bound


class Plan(NamedTuple):
    """An experiment on a model, of which sizes are enough: its weights may lie on torch's device `meta`."""

    model: Decoder
    chosen: Sequence[Component]
    experiment: ExperimentConfig

    @property
    def n_positions(self) -> int:
        """Tokens of a context."""
        return self.experiment.tokens.context_length

    @property
    def shard_tokens(self) -> int:
        """Predicted tokens of a shard."""
        return self.experiment.tokens.contexts_per_shard * (self.n_positions - 1)

    @property
    def n_tokens(self) -> int:
        """Predicted tokens of all shards."""
        return self.shard_tokens * self.experiment.tokens.n_shards

    @property
    def n_sampled(self) -> int:
        """Predicted tokens of the ground truth."""
        return self.shard_tokens * self.experiment.tokens.n_ground_truth_shards

    @property
    def n_pcs(self) -> int:
        """Principal components considered."""
        return self.experiment.representation.n_components or len(self.chosen)

    @property
    def n_weights(self) -> int:
        """Weights of the model."""
        return sum(weight.numel() for weight in decoder_weights.named_weights(self.model).values())

    @property
    def n_parameters(self) -> int:
        """Weights of the chosen components together."""
        return sum(components.n_parameters(self.model, component) for component in self.chosen)

    @property
    def n_features(self) -> int:
        """Inputs of the auxiliary model: residual streams and one loss gradient."""
        return (len(self.experiment.representation.layers) + 1) * self.model.hidden_size

    @property
    def n_hidden(self) -> int:
        """Hidden units of the auxiliary model."""
        return self.experiment.aux.hidden_multiplier * self.model.hidden_size

    @property
    def n_images(self) -> int:
        """A chain and, where the estimator needs it, its mirror image."""
        estimator = estimators.by_name(self.experiment.susceptibility.estimator)
        return 1 + (estimator.needs_own_slopes or estimator.needs_responses)

    @property
    def n_draws(self) -> int:
        """Draws at each token of the ground truth, mirror images included."""
        return self.n_images * self.experiment.sampling.n_chains * self.experiment.sampling.n_draws

    @property
    def rest_contexts(self) -> int:
        """Population contexts of the gradient at w*: those of the directions."""
        bound, weights = self.experiment.tokens.max_population_contexts, tokens.ROLE_WEIGHTS
        return bound * weights["directions"] // sum(weights.values()) if bound else POPULATION

    def of_all(self, count: Callable[[Decoder, Component, int], float]) -> float:
        """Operations of a token, those of all chosen components together."""
        return sum(count(self.model, component, self.n_positions) for component in self.chosen)
