"""What an experiment of a given size takes: operations, disk, network and memory of each asset, by stated formulas.

`python benchmarks/scale.py` prints the tables of docs/scale.md. Rates come from benchmarks/results and from the run that
the README describes; nothing here was measured on a GPU, so times of a GPU are operations over a rate that is assumed.
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
LAYERS_READ = 4  # whose residual streams the auxiliary model reads, beside one loss gradient
EPOCHS = 40


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


class Chains(NamedTuple):
    """Settings of the chains, of which every ground-truth shard has its own."""

    name: str
    chains: int
    draws: int
    burn_in: int
    between: int
    batch: int
    slopes: bool
    observable: int = 16

    @property
    def steps(self) -> int:
        """Gradient steps of a chain."""
        return self.burn_in + self.draws * self.between


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
PUBLISHED = Chains("published", chains=4, draws=100, burn_in=160, between=160, batch=16, slopes=False)
TINY = Chains("as tiny", chains=4, draws=4, burn_in=1, between=1, batch=2, slopes=True)
PLANS = {
    "1.4B, published": Plan(PYTHIA, PUBLISHED, 4_250_000, 46_000_000, 102_000, pcs=410),
    "1.4B, published, large shards": Plan(PYTHIA, PUBLISHED, 4_250_000, 46_000_000, 1_062_500, pcs=410),
    "1.4B, chains as tiny": Plan(PYTHIA, TINY, 4_250_000, 46_000_000, 102_000, pcs=410),
    "70B, published": Plan(LARGE, PUBLISHED, 4_250_000, 1_000_000_000, 102_000, pcs=5_202),
    "70B, chains as tiny": Plan(LARGE, TINY, 4_250_000, 1_000_000_000, 102_000, pcs=5_202),
}


def sampling_operations(plan: Plan) -> tuple[float, float]:
    """Operations of all gradient steps, and of all evaluations, of one ground-truth shard.

    A step goes forward and back through what lies above; with slopes every chain is run twice and measured twice.
    """
    chains, twice = plan.chains, 1 + plan.chains.slopes
    per_token = plan.shape.above(plan.positions) * chains.chains * twice
    stepped = 2 * chains.steps * chains.batch * plan.positions
    stepped += 2 * chains.slopes * chains.draws * chains.observable * plan.positions  # the direction of the slopes
    evaluated = chains.draws * (plan.shard + chains.observable * plan.positions)
    return per_token * stepped, per_token * evaluated


def operations(plan: Plan) -> dict[str, float]:
    """Operations of each asset that multiplies matrices, all shards together."""
    features = (LAYERS_READ + 1) * plan.shape.hidden
    auxiliary = 2 * 16 * plan.shape.hidden * (features + plan.pcs)
    forward = plan.shape.forward(plan.positions) + plan.shape.unembedding  # the loss's gradient is one product more
    trained = 3 * auxiliary * plan.truth * EPOCHS
    return {
        "sgld_samples": plan.truth_shards * sum(sampling_operations(plan)),
        "activations": plan.truth * forward,
        "aux_model, half_chain_aux_model": 2 * trained,
        "predicted_susceptibilities, half_chain_predictions": plan.tokens * (forward + 2 * auxiliary),
    }


def disk(plan: Plan) -> dict[str, float]:
    """Bytes that each asset's files take."""
    features = (LAYERS_READ + 1) * plan.shape.hidden
    values = plan.chains.chains * plan.chains.draws * plan.shape.components * (1 + plan.chains.slopes)
    scores = plan.tokens * (4 * plan.pcs * PACKED + 8)
    return {
        "token_shards": plan.tokens * BYTES_A_SHARD_TOKEN,
        "sgld_samples": plan.truth * values * BYTES_A_TRACE_VALUE,
        "ground_truth_susceptibilities": plan.truth * 4 * COLUMNS * plan.shape.components * PACKED,
        "activations": plan.truth * 2 * features * PACKED,
        "aux_model, half_chain_aux_model": 2 * 4 * 16 * plan.shape.hidden * (features + plan.pcs),
        "predicted_susceptibilities, half_chain_predictions": 2 * scores,
        "whitened_susceptibilities": scores,
        "knn_graph, half_chain_knn_graph": 2 * plan.tokens * BYTES_A_GRAPH_TOKEN,
    }


def read_bytes(plan: Plan) -> dict[str, float]:
    """Bytes that each asset reads of others: over a network where the store is behind one."""
    stored = disk(plan)
    truth, active = stored["ground_truth_susceptibilities"], stored["activations"]
    scores = stored["whitened_susceptibilities"]
    return {
        "ground_truth_susceptibilities": stored["sgld_samples"],
        "pca_basis, reliability": 3 / COLUMNS * truth + 2 / COLUMNS * truth,
        "aux_model, half_chain_aux_model, aux_correlation": 3 * (truth + active),
        "predicted_susceptibilities, half_chain_predictions": plan.shards * 2 * plan.shape.weights,
        "whitening_basis, whitened_susceptibilities": 2 * scores,
        "knn_graph, half_chain_knn_graph": 3 * scores,
        "clusters": stored["knn_graph, half_chain_knn_graph"] + scores,
    }


def memory(plan: Plan) -> dict[str, float]:
    """Bytes that must be in the memory of one machine or GPU at once."""
    shape, chains, positions = plan.shape, plan.chains, plan.positions
    streams = (shape.layers + 1) * (plan.shard * positions / (positions - 1) + chains.observable * positions)
    of_layer = 12 * shape.hidden + 2 * 4 * shape.hidden
    step = chains.chains * chains.batch * positions * ((shape.layers - 1) * of_layer + 3 * shape.hidden) * 2
    return {
        "GPU: weights, bfloat16": 2 * shape.weights,
        "GPU: residual streams of a shard, all depths": 2 * shape.hidden * streams,
        "GPU: a gradient step of a head of layer 0": step,
        "GPU: eight arrays of the unembedding's chains": 8 * chains.chains * shape.vocabulary * shape.hidden * 4,
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
    print(table("operations", {n: operations(p) for n, p in PLANS.items()}, lambda count: f"{count:.2g}"))
    for rate in (50, 100, 200, 400):
        print(f"hours of sampling at {rate} TFLOP/s:", end=" ")
        print(", ".join(f"{n} {hours(operations(p)['sgld_samples'], rate):,.3g}" for n, p in PLANS.items()))
    published = operations(PLANS["1.4B, published, large shards"])["sgld_samples"]
    print(f"4,800 hours for the operations of large shards: {published / 4800 / 3600 / 1e12:.0f} TFLOP/s")
    for title, count in (("disk", disk), ("read", read_bytes), ("memory", memory)):
        print(table(title, {n: count(p) for n, p in PLANS.items()}, shown_bytes))
    for name in ("1.4B, published", "70B, published"):
        tokens = PLANS[name].tokens
        search, graph = tokens / SEARCH_TOKENS_A_SECOND / 3600, tokens / GRAPH_TOKENS_A_SECOND / 3600
        print(f"{name}: search {search:.0f} h, a graph {graph:.1f} h, on 2 cores, if proportional to tokens")


if __name__ == "__main__":
    main()
