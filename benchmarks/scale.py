"""What an experiment of a given size takes: operations, disk, network and memory of each asset, by stated formulas.

`python -m benchmarks.scale` prints the tables of docs/scale.md. Rates come from benchmarks/results and from the run that
the README describes; nothing here was measured on a GPU, so times of a GPU are operations over a rate that is assumed.
The formula of linear response is held against measured seconds in benchmarks/truth.py.
"""

from typing import NamedTuple

BYTES_A_TRACE_VALUE = 3.75  # float32 in zstd: 44.2 MB for 16,764 tokens x 22 components x 16 draws x 2 (tiny)
PACKED = (
    0.93  # of float32 and float16 columns in zstd: 5.45 of 5.90 MB susceptibilities, 19.97 of 21.5 activations (tiny)
)
BYTES_A_GRAPH_TOKEN = 833  # 83.8 MB for 100,584 tokens at 45 neighbours (tiny)
BYTES_A_SHARD_TOKEN = 1.9  # 191 kB for 100,584 tokens of token_shards (tiny)
SEARCH_TOKENS_A_SECOND = 3_590  # 100,584 tokens in 28.0 s: clusters and how often they are found again, 2 cores (tiny)
GRAPH_TOKENS_A_SECOND = 9_800  # 100,584 tokens in 10.3 s, 22 dimensions, 2 cores (tiny)
COLUMNS = 4  # of ground_truth_susceptibilities: value, error and two halves
RESPONSE_COLUMNS = 3  # of linear_response: value and two halves
STORED_VECTORS = 3  # of response_directions: direction, gradient and score at w* of each chain
PREDICTIONS = 4  # tables of predict_susceptibilities: the vectors, both halves, the auxiliary model's
LAYERS_READ = 4  # whose residual streams the auxiliary model reads, beside one loss gradient
EPOCHS = 8
HALVES = 2
ASSUMED_TERAFLOPS = 400


class Shape(NamedTuple):
    """A GPT-NeoX with an MLP four times as wide as the residual stream."""

    name: str
    layers: int
    hidden: int
    heads: int
    vocabulary: int = 50_304

    @property
    def components(self) -> int:
        """Heads, MLPs, embedding and unembedding."""
        return self.layers * (self.heads + 1) + 2

    @property
    def weights(self) -> int:
        """Weights in matrices."""
        return 12 * self.layers * self.hidden**2 + 2 * self.vocabulary * self.hidden

    def layer(self, positions: int) -> float:
        """Operations of one layer for one token: matrix products, and causal attention in a context of `positions`."""
        return 24 * self.hidden**2 + 2 * self.hidden * positions

    @property
    def unembedding(self) -> float:
        """Operations from the last residual stream to the losses of one token."""
        return 2 * self.hidden * self.vocabulary

    def forward(self, positions: int) -> float:
        """Operations of a whole forward pass for one token."""
        return self.layers * self.layer(positions) + self.unembedding

    def above(self, positions: int) -> float:
        """Operations for one token of what lies in and above a component, summed over all components.

        As benchmarks/sampling.py counts: the component itself, the layers above it, the unembedding.
        """
        head, mlp = 8 * self.hidden**2 / self.heads, 16 * self.hidden**2
        below = sum(self.layers - 1 - number for number in range(self.layers)) * self.layer(positions)
        heads_and_mlps = (self.heads + 1) * below + self.layers * (self.heads * head + mlp)
        ends = self.layers * self.layer(positions)  # of the embedding; the unembedding has nothing above it
        return heads_and_mlps + ends + self.components * self.unembedding

    def tangents(self, positions: int) -> float:
        """Operations that one tangent of every component adds for one token: no product with the vocabulary but unembed's.

        In a layer attention has four products for two, each with the whole context; the last layer is passed by keys and
        values alone. A tangent begins in its component: along the direction, and through the weights.
        """
        hidden, size = self.hidden, self.hidden // self.heads
        layer = 24 * hidden**2 + 8 * hidden * positions
        last = 4 * hidden**2 + 4 * hidden * positions
        head, mlp = 10 * hidden * size + 8 * size * positions, 24 * hidden**2
        between = sum(max(0, self.layers - 2 - number) for number in range(self.layers))
        heads_and_mlps = (self.heads + 1) * (between * layer + (self.layers - 1) * last)
        own = self.layers * (self.heads * head + mlp) + self.unembedding
        return heads_and_mlps + own + (self.layers - 1) * layer + last  # the last two are the embedding's


class Chains(NamedTuple):
    """Settings of a component's chains; each has a mirror image, and counts of contexts are those of a chain and its image."""

    name: str
    contexts: int = 8_192
    """Population contexts of a component's directions, all chains together: the budget, not what was needed."""
    rest_contexts: int = 100_000
    """Population contexts of the gradient at w*, once for all components."""
    chains: int = 8
    draws: int = 2
    burn_in: int = 2
    between: int = 1
    batch: int = 2
    reference: int = 2
    scored: int = 4
    """Contexts of a draw's score; an image has its own."""

    @property
    def steps(self) -> int:
        """Gradient steps of a chain of a shard."""
        return self.burn_in + self.draws * self.between

    @property
    def all_draws(self) -> int:
        """Draws at each token of the ground truth, images included."""
        return 2 * self.chains * self.draws


class Plan(NamedTuple):
    """An experiment."""

    shape: Shape
    chains: Chains
    truth: int
    tokens: int
    shard: int
    pcs: int
    positions: int = 256

    @property
    def truth_shards(self) -> int:
        """Ground-truth shards."""
        return -(-self.truth // self.shard)

    @property
    def shards(self) -> int:
        """All token shards."""
        return -(-self.tokens // self.shard)


PYTHIA = Shape("Pythia-1.4B", layers=24, hidden=2048, heads=16)
LARGE = Shape("70B", layers=80, hidden=8192, heads=64)
TINY = Chains("as tiny")
RESPONSE = Plan(PYTHIA, TINY, 100_000, 46_000_000, 100_000, pcs=410)
PLANS = {
    "1.4B": RESPONSE,
    "1.4B, 4.25M sampled": RESPONSE._replace(truth=4_250_000),
    "70B": Plan(LARGE, TINY, 100_000, 1_000_000_000, 1_000_000, pcs=5_202),
}


def linear_response(shape: Shape, positions: int, n_directions: int) -> float:
    """Operations of the linear response of one token: a forward pass, the last layer back, and all tangents."""
    primal = shape.forward(positions) + shape.unembedding + 2 * shape.layer(positions)
    return primal + n_directions * shape.tangents(positions)


def sampling_operations(plan: Plan) -> tuple[float, float]:
    """Operations of all gradient steps, and of all evaluations, of one ground-truth shard.

    A step and a score go forward and back through what lies above. At a draw tokens are passed forward with one tangent,
    and twice more on either side along a score.
    """
    shape, chains, positions = plan.shape, plan.chains, plan.positions
    above = shape.above(positions)
    measured = 3 * above + shape.components * shape.unembedding + shape.tangents(positions)  # the loss's gradient
    contexts = 2 * chains.chains * (chains.steps * chains.batch + chains.draws * chains.scored)
    stepped = 3 * above * contexts * positions
    return stepped, measured * chains.all_draws * (plan.shard + chains.reference * positions)


def response_operations(plan: Plan) -> dict[str, float]:
    """Operations of the measured part of the pipeline: directions, linear response, and gauss_newton to judge it."""
    shape, chains, positions = plan.shape, plan.chains, plan.positions
    return {
        "gradients at w*": 3 * shape.forward(positions) * chains.rest_contexts * positions,
        "directions, by chains": 3 * 3 * shape.above(positions) * chains.contexts * positions,
        "linear_response": plan.tokens * linear_response(shape, positions, HALVES),
        "sgld_samples": plan.truth_shards * sum(sampling_operations(plan)),
    }


def response_table() -> str:
    """Operations and GPU-hours of Pythia-1.4B, at the rate that is assumed."""
    found = response_operations(RESPONSE)
    rows = {name: f"{count:.2g} operations, {hours(count, ASSUMED_TERAFLOPS):.1f} h" for name, count in found.items()}
    head = f"{RESPONSE.shape.name}, {RESPONSE.tokens / 1e6:.0f}M tokens, at {ASSUMED_TERAFLOPS} TFLOP/s (assumed)"
    return "\n".join([head, *(f"  {name:24s} {text}" for name, text in rows.items())])


def operations(plan: Plan) -> dict[str, float]:
    """Operations of each asset that multiplies matrices, all shards together."""
    features = (LAYERS_READ + 1) * plan.shape.hidden
    auxiliary = 2 * 16 * plan.shape.hidden * (features + plan.pcs)
    forward = plan.shape.forward(plan.positions) + plan.shape.unembedding  # the loss's gradient is one product more
    measured = response_operations(plan)
    return {
        "response_directions": measured["gradients at w*"] + measured["directions, by chains"],
        "linear_response": measured["linear_response"],
        "sgld_samples": measured["sgld_samples"],
        "activations": plan.tokens * forward,
        "aux_model": 3 * auxiliary * plan.tokens * EPOCHS,
        "predict_susceptibilities": plan.tokens * (auxiliary + 3 * 2 * plan.shape.components * plan.pcs),
    }


def disk(plan: Plan) -> dict[str, float]:
    """Bytes that each asset's files take."""
    features = (LAYERS_READ + 1) * plan.shape.hidden
    values = plan.chains.all_draws * plan.shape.components * 3  # loss, slope and curvature
    scores = plan.tokens * (4 * plan.pcs * PACKED + 8)
    return {
        "token_shards": plan.tokens * BYTES_A_SHARD_TOKEN,
        "response_directions": STORED_VECTORS * plan.chains.chains * 4 * plan.shape.weights,
        "linear_response": plan.tokens * 4 * RESPONSE_COLUMNS * plan.shape.components * PACKED,
        "sgld_samples": plan.truth * values * BYTES_A_TRACE_VALUE,
        "ground_truth_susceptibilities": plan.truth * 4 * COLUMNS * plan.shape.components * PACKED,
        "activations": plan.tokens * 2 * features * PACKED,
        "aux_model": 4 * 16 * plan.shape.hidden * (features + plan.pcs),
        "predict_susceptibilities": PREDICTIONS * scores,
        "whitened_susceptibilities": scores,
        "knn_graph, half_a_knn_graph, half_b_knn_graph": 3 * plan.tokens * BYTES_A_GRAPH_TOKEN,
    }


def read_bytes(plan: Plan) -> dict[str, float]:
    """Bytes that each asset reads of others: over a network where the store is behind one."""
    stored = disk(plan)
    truth, scores = stored["ground_truth_susceptibilities"], stored["whitened_susceptibilities"]
    response, active = stored["linear_response"], stored["activations"]
    return {
        "linear_response": plan.shards * (2 * plan.shape.weights + stored["response_directions"] / STORED_VECTORS),
        "sgld_samples": plan.truth_shards * (2 * plan.shape.weights + stored["response_directions"] / STORED_VECTORS),
        "ground_truth_susceptibilities": stored["sgld_samples"],
        "pca_basis, reliability": 3 / COLUMNS * truth,
        "aux_model, aux_correlation": 2 * (truth + active + response / RESPONSE_COLUMNS),
        "predict_susceptibilities": active + response,
        "whitening_basis, whitened_susceptibilities": 2 * scores,
        "knn_graph, half_a_knn_graph, half_b_knn_graph": 3 * scores,
        "clusters": stored["knn_graph, half_a_knn_graph, half_b_knn_graph"] + scores,
    }


def memory(plan: Plan, *, contexts_at_once: int = 4) -> dict[str, float]:
    """Bytes that must be in the memory of one machine or GPU at once."""
    shape, chains, positions = plan.shape, plan.chains, plan.positions
    images = 2 * chains.chains
    of_layer = 12 * shape.hidden + 2 * 4 * shape.hidden
    step = images * chains.batch * positions * ((shape.layers - 1) * of_layer + 3 * shape.hidden) * 2
    n_tangents = HALVES * ((shape.layers - 1) * (shape.heads + 1) + 1)
    tangents = 2 * n_tangents * contexts_at_once * positions * shape.hidden * 2
    return {
        "GPU: weights, bfloat16": 2 * shape.weights,
        "GPU: directions of both halves, float32": HALVES * 4 * shape.weights,
        "GPU: tangents of linear response, before and after a layer": tangents,
        "GPU: a gradient step of a head of layer 0": step,
        "GPU: eight arrays of the unembedding's chains": 8 * images * shape.vocabulary * shape.hidden * 4,
        "CPU: points of the k-NN graph, float32": 4 * plan.tokens * plan.pcs,
        "CPU: k-NN graph of the search (a memory map)": plan.tokens * BYTES_A_GRAPH_TOKEN,
        "CPU: moments of the components, float64": 8 * shape.components**2,
    }


def hours(count: float, teraflops: float) -> float:
    """Hours of one GPU that achieves so many TFLOP/s."""
    return count / (teraflops * 1e12) / 3600


def table(title: str, columns: dict[str, dict[str, float]], form) -> str:
    """A Markdown table: a row for each entry, a column for each plan."""
    lines = [f"| {title} | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
    for name in next(iter(columns.values())):
        lines.append(f"| {name} | {' | '.join(form(column[name]) for column in columns.values())} |")
    return "\n".join(lines)


def shown_bytes(n: float) -> str:
    """Bytes in three digits."""
    unit = next((u for u, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)) if n >= size), "kB")
    return f"{n / {'TB': 1e12, 'GB': 1e9, 'MB': 1e6, 'kB': 1e3}[unit]:.3g} {unit}"


def main() -> None:
    for name, plan in PLANS.items():
        steps, evaluations = sampling_operations(plan)
        print(
            f"{name}: {plan.truth_shards} ground-truth shards of {plan.shards}, {plan.shape.components} components, ",
            end="",
        )
        print(f"{plan.shape.weights / 1e9:.1f}e9 weights; steps are {steps / (steps + evaluations):.0%} of sampling")
    print(response_table())
    print(table("operations", {n: operations(p) for n, p in PLANS.items()}, lambda count: f"{count:.2g}"))
    for rate in (50, 100, 200, 400):
        print(f"hours at {rate} TFLOP/s:", end=" ")
        print(", ".join(f"{n} {hours(sum(response_operations(p).values()), rate):,.3g}" for n, p in PLANS.items()))
    for title, count in (("disk", disk), ("read", read_bytes), ("memory", memory)):
        print(table(title, {n: count(p) for n, p in PLANS.items()}, shown_bytes))
    for name, plan in PLANS.items():
        search, graph = plan.tokens / SEARCH_TOKENS_A_SECOND / 3600, plan.tokens / GRAPH_TOKENS_A_SECOND / 3600
        print(f"{name}: search {search:.0f} h, a graph {graph:.1f} h, on 2 cores, if proportional to tokens")


if __name__ == "__main__":
    main()
