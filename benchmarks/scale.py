"""What a large experiment takes: the prices of susc_pipeline/price.py at sizes that we have not run, and what it reads of others.

`python -m benchmarks.scale` prints the tables of docs/scale.md. Nothing here was measured on a GPU: times of a GPU are
operations over a rate that is assumed. The formula of linear response is held against measured seconds in benchmarks/truth.py.
"""

import functools
from pathlib import Path

from resources import price_table as reports
from susc_pipeline import price
from susc_pipeline.config import ExperimentConfig
from susc_pipeline.model import checkpoint, components
from susc_pipeline.model.pretrained import ModelSettings
from susc_pipeline.plan import Plan
from susc_pipeline.sampling.posterior import SamplingSettings
from susc_pipeline.susceptibility.directions import DirectionSettings
from susc_pipeline.tokens import TokenSettings

SEARCH_TOKENS_A_SECOND = 3_590  # 100,584 tokens in 28.0 s: clusters and how often they are found again, 2 cores (tiny)
GRAPH_TOKENS_A_SECOND = 9_800  # 100,584 tokens in 10.3 s, 22 dimensions, 2 cores (tiny)
POSITIONS = 256
ASSUMED_TERAFLOPS = 400
NEOX = {"model_type": "gpt_neox", "vocab_size": 50304, "max_position_embeddings": 2048, "hidden_act": "gelu"}


def of(layers: int, hidden: int, heads: int, *, sampled: int, n_tokens: int, shard: int) -> Plan:
    """An experiment on a GPT-NeoX with an MLP four times as wide as the residual stream, chains as `tiny` has them."""
    sizes = {"num_hidden_layers": layers, "hidden_size": hidden, "num_attention_heads": heads}
    model = checkpoint.shaped(NEOX | sizes | {"intermediate_size": 4 * hidden}, Path("a plan"), dtype="bfloat16")
    tokens = TokenSettings(
        context_length=POSITIONS,
        contexts_per_shard=-(-shard // (POSITIONS - 1)),
        n_shards=-(-n_tokens // shard),
        n_ground_truth_shards=max(2, -(-sampled // shard)),
    )
    experiment = ExperimentConfig(
        name="plan",
        model=ModelSettings(device="cpu"),
        tokens=tokens,
        sampling=SamplingSettings(step_size=2.0, draw_batch_size=4),
        directions=DirectionSettings(max_contexts=8_192),
    )
    return Plan(model, components.enumerate_components(model), experiment)


@functools.cache
def plans() -> dict[str, Plan]:
    """By name."""
    pythia = functools.partial(of, 24, 2048, 16, n_tokens=46_000_000, shard=100_000)
    return {
        "1.4B": pythia(sampled=100_000),
        "1.4B, 4.25M sampled": pythia(sampled=4_250_000),
        "70B": of(80, 8192, 64, sampled=100_000, n_tokens=1_000_000_000, shard=1_000_000),
    }


def response_operations(plan: Plan) -> dict[str, float]:
    """Operations of the measured part of the pipeline: directions, linear response, and gauss_newton to judge it."""
    return {
        "gradients at w*": price.at_rest(plan),
        "directions, by chains": price.before_chains(plan) + price.by_chains(plan),
        "linear_response": plan.n_tokens * price.linear_response(plan),
        "sgld_samples": plan.experiment.tokens.n_ground_truth_shards * sum(price.sampling_operations(plan)),
    }


def response_table() -> str:
    """Operations and GPU-hours of Pythia-1.4B, at the rate that is assumed."""
    plan = plans()["1.4B"]
    found = response_operations(plan)
    rows = {name: f"{count:.2g} operations, {hours(count, ASSUMED_TERAFLOPS):.1f} h" for name, count in found.items()}
    head = f"Pythia-1.4B, {plan.n_tokens / 1e6:.0f}M tokens, at {ASSUMED_TERAFLOPS} TFLOP/s (assumed)"
    return "\n".join([head, *(f"  {name:24s} {text}" for name, text in rows.items())])


def read_bytes(plan: Plan) -> dict[str, float]:
    """Bytes that each asset reads of others: over a network where the store is behind one."""
    stored = {name: one.disk for name, one in price.prices(plan).items()}
    truth, scores = stored["ground_truth_susceptibilities"], stored["whitened_susceptibilities"]
    response, active = stored["linear_response"], stored["activations"]
    of_shard = stored["language_model"] + stored["response_directions"]
    graphs = "knn_graph, half_a_knn_graph, half_b_knn_graph"
    return {
        "linear_response": plan.experiment.tokens.n_shards * of_shard,
        "sgld_samples": plan.experiment.tokens.n_ground_truth_shards * of_shard,
        "ground_truth_susceptibilities": stored["sgld_samples"],
        "pca_basis, reliability": 3 / price.COLUMNS * truth,
        "aux_model, aux_correlation": 2 * (truth + active + response / price.RESPONSE_COLUMNS),
        "predict_susceptibilities": active + response,
        "whitening_basis, whitened_susceptibilities": 2 * scores,
        graphs: 3 * scores,
        "clusters": stored[graphs] + scores,
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


def main() -> None:
    for name, plan in plans().items():
        steps, evaluations = price.sampling_operations(plan)
        counts = plan.experiment.tokens
        print(
            f"{name}: {counts.n_ground_truth_shards} ground-truth shards of {counts.n_shards}, {len(plan.chosen)} components, "
            f"{plan.n_weights / 1e9:.1f}e9 weights; steps are {steps / (steps + evaluations):.0%} of sampling"
        )
    print(response_table())
    for rate in (50, 100, 200, 400):
        print(f"hours at {rate} TFLOP/s:", end=" ")
        print(", ".join(f"{n} {hours(sum(response_operations(p).values()), rate):,.3g}" for n, p in plans().items()))
    found = {name: price.prices(plan) for name, plan in plans().items()}
    for field, form in (("operations", lambda count: f"{count:.2g}"), ("disk", reports.size), ("memory", reports.size)):
        columns = {n: {asset: getattr(one, field) for asset, one in rows.items()} for n, rows in found.items()}
        print(table(field, columns, form))
    print(table("read", {n: read_bytes(p) for n, p in plans().items()}, reports.size))
    for name, plan in plans().items():
        search, graph = plan.n_tokens / SEARCH_TOKENS_A_SECOND / 3600, plan.n_tokens / GRAPH_TOKENS_A_SECOND / 3600
        print(f"{name}: search {search:.0f} h, a graph {graph:.1f} h, on 2 cores, if proportional to tokens")


if __name__ == "__main__":
    main()
