"""What settings must be for the model and the number of tokens: known, and so said, before hours of sampling."""

from susc_pipeline.messages import require
from susc_pipeline.model import components
from susc_pipeline.plan import Plan


def check(plan: Plan) -> None:
    """Compare settings of late assets with the sizes of the model and of the corpus's part.

    Raises:
        ValueError: one of them cannot be obeyed; says which, and what would do.
    """
    model, experiment = plan.model, plan.experiment
    length, rule = plan.n_positions, f"at most {model.max_positions}, the positions that the model reads"
    require(length <= model.max_positions, "tokens.context_length", length, rule)
    shape, layers = experiment.representation, experiment.representation.layers
    rule = f"numbers of at most {model.n_layers}, the layers of the model"
    require(max(layers) <= model.n_layers, "representation.layers", list(layers), rule)
    rule = f"at most {len(plan.chosen)}, the number of components"
    require((shape.n_components or 0) <= len(plan.chosen), "representation.n_components", shape.n_components, rule)
    n_neighbors = experiment.knn.n_neighbors
    rule = f"less than the {plan.n_tokens:,} tokens of all shards"
    require(n_neighbors < plan.n_tokens, "knn.n_neighbors", n_neighbors, rule)
    known = {component.name for component in components.enumerate_components(model)}
    swept = experiment.calibration.components if experiment.calibration.enabled else ()
    for key, names in (("regime.components", experiment.regime.components), ("calibration.components", swept)):
        require(set(names) <= known, key, list(names), f"components of the model, such as {min(known)}")
