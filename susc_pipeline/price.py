"""What an experiment takes before any of it runs: operations, disk and memory of each asset, by formula.

Operations are of matrix products and attention (model/operations.py); hours follow from a rate, measured or given. Sizes on disk
are those of the columns, packed as measured on `tiny`. Memory is what one process holds at its peak, beside the interpreter.
"""

import math
from typing import NamedTuple

from susc_pipeline.clustering.knn import BYTES_OF_A_NEIGHBOR
from susc_pipeline.model import components, decoder_weights, operations, pretrained
from susc_pipeline.plan import Plan
from susc_pipeline.sampling import curvature, localization, memory
from susc_pipeline.susceptibility import directions, estimators

PACKED = 0.93  # of float columns in zstd: 5.45 of 5.90 MB susceptibilities, 19.97 of 21.5 activations (tiny)
BYTES_A_TRACE_VALUE = 3.75  # float32 in zstd: 44.2 MB for 16,764 tokens x 22 components x 16 draws x 2 (tiny)
BYTES_A_GRAPH_TOKEN = 833  # 83.8 MB for 100,584 tokens at 45 neighbours (tiny)
BYTES_A_SHARD_TOKEN = 1.9  # 191 kB for 100,584 tokens of token_shards (tiny)
BYTES_A_SEARCH_VERTEX = 72  # of each thread of the search, beside its map of the graph
COLUMNS = 4  # of ground_truth_susceptibilities: value, error and two halves
RESPONSE_COLUMNS = 3  # of linear_response: value and two halves
STORED_VECTORS = 2  # of response_directions: direction and gradient at w* of each chain
PREDICTIONS = 4  # tables of predict_susceptibilities: the vectors, both halves, the auxiliary model's
GRAPHS = 3
HALVES = 2
SECONDS_A_CLUSTERED_TOKEN = (
    3.1e-3  # 314 s of graphs and searches, both halves' too, for 100,584 tokens on two cores (tiny)
)
SECONDS_BESIDE = 120.0  # tables, map, site and the start of processes (tiny)
CONTEXTS_AT_ONCE = 4  # of linear response
GRADIENT = 2  # passes through what lies above a component: forward and back; its weights alone have a gradient
SEARCH_TRIES = 3  # of the localization, about


class Price(NamedTuple):
    """Of one asset, all its shards together."""

    operations: float
    disk: float
    """Bytes."""
    memory: float
    """Bytes at once, of one process."""


def sampling_operations(plan: Plan) -> tuple[float, float]:
    """Operations of all gradient steps, and of all evaluations, of one ground-truth shard.

    A step and a score go forward and back through what lies above; what lies below is passed once for both of a pair. At a
    draw tokens are passed forward with the tangents of slopes, and twice more on either side along a score.
    """
    settings, n = plan.experiment.sampling, plan.n_positions
    estimator = estimators.by_name(plan.experiment.susceptibility.estimator)
    above = plan.of_all(operations.above)
    passes = 1 + 2 * estimator.needs_responses
    tangents = (estimator.needs_slopes + estimator.needs_own_slopes) * plan.of_all(operations.tangent)
    measured = passes * above + len(plan.chosen) * operations.unembedding(plan.model) + tangents
    n_steps = settings.n_burn_in + settings.n_draws * settings.n_steps_between_draws
    of_draw = max(settings.draw_batch_size, settings.batch_size)
    scored = settings.n_draws * of_draw * estimator.needs_responses
    contexts = plan.n_images * settings.n_chains * (n_steps * settings.batch_size + scored)
    read = plan.n_draws * (plan.shard_tokens + settings.n_reference_contexts * n)
    read_once = n_steps * (settings.batch_size + settings.n_reference_contexts)
    read_once += settings.n_draws * (of_draw - settings.batch_size)
    once = settings.n_chains * read_once * n + plan.shard_tokens
    return GRADIENT * above * contexts * n + plan.of_all(operations.below) * once, measured * read


def at_rest(plan: Plan) -> float:
    """Operations of the gradients at w*, which serve all components: forward, back to the lowest, and of their weights."""
    model, n = plan.model, plan.n_positions
    every = decoder_weights.named_weights(model)
    held = [every[name] for name in components.holders(model, plan.chosen)]
    weights = sum(weight.numel() for weight in held if weight is not model.embedding or model.description.tied)
    back = max(operations.above(model, component, n) for component in plan.chosen)
    return (operations.forward(model, n) + back + 2 * weights) * plan.rest_contexts * n


def before_chains(plan: Plan) -> float:
    """Operations of what a component's chains take beside their steps, whatever the budget.

    Those are the Lanczos products of its curvature, the search for its localization, and its slopes on the probe's contexts: at
    w*, each time the chains are judged, and along both parts of the direction. Where the loss is stiff, products with
    the Hessian come on top (sampling/precision.py): how many is not known before.
    """
    settings, wanted = plan.experiment.sampling, plan.experiment.directions
    above, below = plan.of_all(operations.above), plan.of_all(operations.below)
    steep = (GRADIENT * (1 + curvature.N_PRODUCTS) * above + below) * curvature.MAX_CONTEXTS
    tries = SEARCH_TRIES * (1 + 2 * localization.N_PAIRS) * above + below
    search = tries * localization.N_CONTEXTS if settings.target_rise else 0
    n_steps = max(directions.LEAST_STEPS, wanted.max_contexts // (settings.n_chains * settings.batch_size))
    n_looks = 1 + int(math.log2(n_steps / directions.LEAST_STEPS))
    primal = len(plan.chosen) * operations.forward(plan.model, plan.n_positions)
    along = (1 + n_looks + 2) * settings.n_chains * plan.of_all(operations.tangent) + (2 + n_looks) * primal
    return (steep + search + along * wanted.n_probe_contexts) * plan.n_positions


def by_chains(plan: Plan) -> float:
    """Operations of the chains of the directions, whole budget: a pair and w*, each forward and back, on what lies below."""
    settings = plan.experiment.sampling
    contexts = plan.experiment.directions.max_contexts + settings.n_burn_in * settings.n_chains * settings.batch_size
    each = 3 * GRADIENT * plan.of_all(operations.above) + plan.of_all(operations.below)
    return each * contexts * plan.n_positions


def linear_response(plan: Plan) -> float:
    """Operations of the linear response of one token: a forward pass, the last layer back, and all tangents."""
    model, n = plan.model, plan.n_positions
    primal = operations.forward(model, n) + operations.unembedding(model) + 2 * operations.layer(model, n)
    bent = 2 * plan.experiment.linear_response.n_scores * plan.of_all(operations.above)
    return primal + HALVES * plan.of_all(operations.tangent) + bent


def prices(plan: Plan) -> dict[str, Price]:
    """Of each asset that computes or stores much."""
    model, n, settings = plan.model, plan.n_positions, plan.experiment.sampling
    item = model.embedding.element_size()
    resident = plan.n_weights * item
    device = pretrained.torch_device(plan.experiment.model.device).partition(":")[0]
    chains = max(memory.needed_bytes(model, component, settings, n, device=device) for component in plan.chosen)
    scores = plan.n_tokens * (4 * plan.n_pcs * PACKED + 8)
    values = plan.n_draws * len(plan.chosen) * 3  # loss, slope and curvature
    graph = plan.n_tokens * BYTES_A_GRAPH_TOKEN * plan.experiment.knn.n_neighbors / 45
    width, n_contexts = model.hidden_size, plan.experiment.tokens.contexts_per_shard
    tangents = 2 * HALVES * len(plan.chosen) * CONTEXTS_AT_ONCE * n * width * item
    in_graph = plan.n_tokens * (4 * plan.n_pcs + BYTES_OF_A_NEIGHBOR * plan.experiment.knn.n_neighbors)
    truth_shards = plan.experiment.tokens.n_ground_truth_shards
    rows: dict[str, tuple[int | float, ...]] = {
        "language_model": (0, resident, resident),
        "token_shards": (0, plan.n_tokens * BYTES_A_SHARD_TOKEN, 0),
        "response_directions": (
            at_rest(plan) + before_chains(plan) + by_chains(plan),
            STORED_VECTORS * settings.n_chains * 4 * plan.n_parameters,
            resident + max(chains, 8 * plan.n_parameters),
        ),
        "linear_response": (
            plan.n_tokens * linear_response(plan),
            plan.n_tokens * 4 * RESPONSE_COLUMNS * len(plan.chosen) * PACKED,
            resident + HALVES * 4 * plan.n_parameters + tangents,
        ),
        "sgld_samples": (
            truth_shards * sum(sampling_operations(plan)),
            plan.n_sampled * values * BYTES_A_TRACE_VALUE,
            resident + chains + 3 * n_contexts * n * width * item,
        ),
        "ground_truth_susceptibilities": (
            0,
            plan.n_sampled * 4 * COLUMNS * len(plan.chosen) * PACKED,
            2 * plan.shard_tokens * 4 * COLUMNS * len(plan.chosen),
        ),
        **_auxiliary(plan, resident, scores),
        "whitened_susceptibilities": (0, scores, 0),
        "knn_graph, half_a_knn_graph, half_b_knn_graph": (0, GRAPHS * graph, in_graph),
        "clusters": (0, 0, graph + BYTES_A_SEARCH_VERTEX * plan.n_tokens),
    }
    rows |= _observables(plan, resident) if plan.experiment.observables else {}
    return {name: Price(*row) for name, row in rows.items()}


def _observables(plan: Plan, resident: int | float) -> dict[str, tuple[int | float, ...]]:
    """Rows of the observables that the experiment names: the chains again, a gradient each, and a response of every token."""
    n_observables, n_chains = len(plan.experiment.observables), plan.experiment.sampling.n_chains
    weights = 4 * n_observables * plan.n_parameters
    response = n_observables * plan.n_tokens
    return {
        "observable_directions": (
            (1 + n_observables) * by_chains(plan),
            HALVES * weights,
            resident + n_chains * weights,
        ),
        "observable_responses": (
            response * linear_response(plan),
            response * 4 * RESPONSE_COLUMNS * len(plan.chosen) * PACKED,
            resident + HALVES * weights,
        ),
    }


def _auxiliary(plan: Plan, resident: int | float, scores: int | float) -> dict[str, tuple[int | float, ...]]:
    """Rows of the auxiliary model: what it reads, its training, its predictions."""
    features, pcs, hidden = plan.n_features, plan.n_pcs, plan.n_hidden
    auxiliary = 2 * hidden * (features + pcs)
    reading = operations.forward(plan.model, plan.n_positions) + operations.unembedding(plan.model)
    predicting = auxiliary + 3 * 2 * len(plan.chosen) * pcs
    return {
        "activations": (plan.n_tokens * reading, plan.n_tokens * 2 * features * PACKED, resident),
        "aux_model": (
            3 * auxiliary * plan.n_tokens * plan.experiment.aux.max_epochs,
            4 * hidden * (features + pcs),
            4 * 4 * hidden * (features + pcs),
        ),
        "predict_susceptibilities": (plan.n_tokens * predicting, PREDICTIONS * scores, 4 * hidden * (features + pcs)),
    }


def seconds_beside(plan: Plan) -> float:
    """Seconds of what is no matrix product, as on two cores: neighbours, clusters, tables and the site."""
    return SECONDS_BESIDE + plan.n_tokens * SECONDS_A_CLUSTERED_TOKEN


def total(found: dict[str, Price]) -> Price:
    """Operations and disk of all assets together, and the largest memory."""
    return Price(
        sum(one.operations for one in found.values()),
        sum(one.disk for one in found.values()),
        max(one.memory for one in found.values()),
    )
