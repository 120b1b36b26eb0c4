"""Sampling on a GPU at the shape of Pythia-1.4B: rates, share of the card's matrix peak, agreement of bfloat16 with float32.

`python benchmarks/gpu_sampling.py` needs a GPU; random weights cost what trained ones do. `--shape toy --device cpu` only
shows that the script runs. The projection is seconds per token of an evaluation and of a step, measured, times the
published 4 chains x 100 draws and 160 steps of 16 contexts between draws, over 410 components by kind and layer; layers
between the measured ones are interpolated.
"""

import argparse
import json
import time

import numpy as np
import torch
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

from susc_pipeline import seeds
from susc_pipeline.config import SamplingSettings
from susc_pipeline.model import components, gpt_neox, perturbation
from susc_pipeline.model.gpt_neox import GPTNeoX
from susc_pipeline.sampling import chains
from susc_pipeline.susceptibility import estimators

SHAPES = {
    "pythia-1.4b": {"vocab_size": 50304, "hidden_size": 2048, "num_hidden_layers": 24, "num_attention_heads": 16},
    "toy": {"vocab_size": 128, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2},
}
PUBLISHED_VECTORS, PUBLISHED_CHAINS, PUBLISHED_DRAWS, PUBLISHED_STEPS, PUBLISHED_BATCH = 4.25e6, 4, 100, 160, 16


def build(shape: str, device: str, dtype: torch.dtype) -> GPTNeoX:
    """Random weights of a shape."""
    torch.manual_seed(0)
    size = SHAPES[shape]
    config = GPTNeoXConfig(intermediate_size=4 * size["hidden_size"], max_position_embeddings=2048, **size)
    with torch.device(device):
        module = GPTNeoXForCausalLM(config).to(dtype).eval().requires_grad_(False)
    return GPTNeoX.from_module(module)


def seconds(work, device: str, n_repeats: int = 5) -> float:
    """Median time of a call after one to warm up."""
    times = []
    for _ in range(n_repeats + 1):
        started = time.perf_counter()
        work()
        if device == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - started)
    return float(np.median(times[1:]))


def matrix_peak(device: str, dtype: torch.dtype) -> float:
    """Operations a second of a large matrix product."""
    size = 8192 if device == "cuda" else 512
    a = torch.randn(size, size, device=device, dtype=dtype)
    return 2 * size**3 / seconds(lambda: a @ a, device)


def operations_per_token(model: GPTNeoX, component: components.Component, positions: int) -> float:
    """Matrix products of one evaluation of one token: the component, the layers above, the unembedding."""
    hidden = model.hidden_size
    layer = 24 * hidden**2 + 2 * hidden * positions
    above = {"embed": model.n_layers, "unembed": 0}.get(component.kind, model.n_layers - 1 - component.layer)
    own = 2 * components.n_parameters(model, component) if component.kind in ("head", "mlp") else 0
    return own + above * layer + 2 * hidden * model.vocabulary_size


def measure(
    model: GPTNeoX, name: str, device: str, peak: float, *, n_chains: int, n_contexts: int, positions: int
) -> dict:
    """Rates of evaluation and of steps for one component."""
    component = components.by_name(model, name)
    generator = np.random.default_rng(0)
    ids = torch.as_tensor(generator.integers(0, model.vocabulary_size, (n_contexts, positions)), device=device)
    inputs = perturbation.prepare(model, component, ids, gpt_neox.residual_stream(model, ids))
    deltas = 1e-3 * torch.randn(n_chains, components.n_parameters(model, component), device=device)
    with torch.no_grad():
        evaluation = seconds(lambda: perturbation.losses(model, component, inputs, deltas), device)
    rows = torch.randint(n_contexts, (n_chains, min(n_contexts, PUBLISHED_BATCH)), device=device)
    batch = inputs.take(rows)
    step = seconds(lambda: perturbation.gradients(model, component, batch, deltas), device)
    n_tokens = n_chains * n_contexts * positions
    operations = operations_per_token(model, component, positions)
    return {
        "component": name,
        "tokens_times_draws_per_second": n_tokens / evaluation,
        "chain_steps_per_second": n_chains / step,
        "teraflops": operations * n_tokens / evaluation / 1e12,
        "share_of_peak": operations * n_tokens / evaluation / peak,
    }


def agreement(shape: str, device: str, name: str) -> float:
    """Correlation over tokens of the susceptibilities of a component in bfloat16 and in float32, from the same chains."""
    found = []
    for dtype in (torch.float32, torch.bfloat16):
        model = build(shape, device, dtype)
        generator = np.random.default_rng(1)
        parts = {
            role: generator.integers(0, model.vocabulary_size, (n, 64))
            for role, n in (("shard", 8), ("observable", 4), ("minibatch", 16))
        }
        settings = SamplingSettings(n_chains=4, n_draws=8, n_burn_in=2)
        contexts = chains.sampling_contexts(model, **parts)
        traces = chains.sample(model, components.by_name(model, name), settings, contexts, seeds.sequence(0, name))
        found.append(estimators.first_order(traces).value)
        del model, contexts
    return float(np.corrcoef(*found)[0, 1])


def projected_hours(rows: list[dict], model: GPTNeoX) -> float:
    """GPU-hours of the published run from the measured rates."""
    by_name = {row["component"]: row for row in rows}
    heads = sorted((components.by_name(model, name).layer, row) for name, row in by_name.items() if "H" in name)
    layers = [layer for layer, _ in heads]
    total = 0.0
    for component in components.enumerate_components(model):
        if component.kind in ("embed", "unembed"):
            rates = [
                by_name[component.name][key] for key in ("tokens_times_draws_per_second", "chain_steps_per_second")
            ]
        else:
            rates = [
                1 / np.interp(component.layer, layers, [1 / row[key] for _, row in heads])
                for key in ("tokens_times_draws_per_second", "chain_steps_per_second")
            ]
        n_draws = PUBLISHED_CHAINS * PUBLISHED_DRAWS
        total += PUBLISHED_VECTORS * n_draws / rates[0] + n_draws * PUBLISHED_STEPS / rates[1]
    return total / 3600


def main() -> None:
    """Print one JSON line for each component, the agreement, and the projection."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=sorted(SHAPES), default="pythia-1.4b")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--contexts", type=int, default=32)
    parser.add_argument("--positions", type=int, default=512)
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("no GPU is here; a figure for one is not made up")
    dtype = torch.bfloat16 if options.device == "cuda" else torch.float32
    peak = matrix_peak(options.device, dtype)
    print(json.dumps({"matrix_peak_teraflops": peak / 1e12}))
    model = build(options.shape, options.device, dtype)
    last = model.n_layers - 1
    names = ["embed", "L0H0", f"L{last // 2}H0", f"L{last}H0", f"L{last // 2}MLP", "unembed"]
    size = {"n_chains": PUBLISHED_CHAINS, "n_contexts": options.contexts, "positions": options.positions}
    rows = [measure(model, name, options.device, peak, **size) for name in names]
    for row in rows:
        print(json.dumps(row))
    if options.shape == "pythia-1.4b":
        print(json.dumps({"projected_gpu_hours_of_the_published_run": projected_hours(rows, model)}))
    del model
    print(json.dumps({"bfloat16_float32_correlation": agreement(options.shape, options.device, names[2])}))


if __name__ == "__main__":
    main()
