"""Directions and linear response on a GPU at the shape of Pythia-1.4B: rates, and shares of the card's matrix peak.

`python -m benchmarks.gpu_sampling` needs a GPU; random weights cost what trained ones do. `--shape toy --device cpu` only shows
that the script runs. Linear response is timed for all components along two directions each, operations by the formula of
price.py; a step of the directions is the gradients of mirrored chains, for components of three depths. Last stands how far
slopes in bfloat16 are from those in float32.
"""

import argparse
import json
import time

import numpy as np
import torch
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

from resources.price_table import matrix_rate
from susc_pipeline import price
from susc_pipeline.config import ExperimentConfig
from susc_pipeline.model import components, derivatives, families, operations, perturbation, tangents
from susc_pipeline.model.decoder import Decoder
from susc_pipeline.price import Plan
from susc_pipeline.tokens import TokenSettings

SHAPES = {
    "pythia-1.4b": {"vocab_size": 50304, "hidden_size": 2048, "num_hidden_layers": 24, "num_attention_heads": 16},
    "toy": {"vocab_size": 128, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2},
}
N_CHAINS, BATCH = 16, 2  # mirror images included, as the defaults


def build(shape: str, device: str, dtype: torch.dtype) -> Decoder:
    """Random weights of a shape."""
    torch.manual_seed(0)
    size = SHAPES[shape]
    config = GPTNeoXConfig(intermediate_size=4 * size["hidden_size"], max_position_embeddings=2048, **size)
    with torch.device(device):
        module = GPTNeoXForCausalLM(config).to(dtype).eval().requires_grad_(False)
    return families.from_module(module)


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


def plan_of(model: Decoder, n_positions: int) -> Plan:
    """What decides the operations."""
    experiment = ExperimentConfig(name="rate", tokens=TokenSettings(context_length=n_positions))
    return Plan(model, components.enumerate_components(model), experiment)


def along(model: Decoder, device: str, n_directions: int) -> dict[components.Component, torch.Tensor]:
    """Directions of every component, in the type of the weights."""
    dtype = model.unembedding.dtype
    sizes = {c: components.n_parameters(model, c) for c in components.enumerate_components(model)}
    return {c: torch.randn(n_directions, size, device=device, dtype=dtype) for c, size in sizes.items()}


def linear_response(model: Decoder, device: str, peak: float, ids: torch.Tensor) -> dict[str, float]:
    """Rate of tokens, all components along two directions."""
    directions = along(model, device, price.HALVES)
    taken = seconds(lambda: tangents.slopes_at_rest(model, ids, directions), device)
    count = ids.numel() * price.linear_response(plan_of(model, ids.shape[1]))
    rates = {"tokens_a_second": ids.numel() / taken, "teraflops": count / taken / 1e12}
    return rates | {"share_of_peak": count / taken / peak}


def steps(model: Decoder, name: str, device: str, peak: float, positions: int) -> dict:
    """Rate of gradient steps of one component's chains."""
    component = components.by_name(model, name)
    ids = torch.randint(model.vocabulary_size, (N_CHAINS * BATCH, positions), device=device)
    prepared = perturbation.prepare_tokens(model, component, ids)
    batch = prepared.take(torch.arange(N_CHAINS * BATCH, device=device).view(N_CHAINS, BATCH))
    deltas = 1e-3 * torch.randn(N_CHAINS, components.n_parameters(model, component), device=device)
    taken = seconds(lambda: derivatives.gradients(model, component, batch, deltas), device)
    count = 3 * ids.numel() * operations.above(model, component, positions)
    rates = {"component": name, "contexts_a_second": len(ids) / taken, "teraflops": count / taken / 1e12}
    return rates | {"share_of_peak": count / taken / peak}


def agreement(shape: str, device: str) -> float:
    """Least correlation over tokens of a component's slopes in bfloat16 and in float32."""
    found = []
    for dtype in (torch.float32, torch.bfloat16):
        model = build(shape, device, dtype)
        generator = torch.Generator(device).manual_seed(1)
        ids = torch.randint(model.vocabulary_size, (4, 64), generator=generator, device=device)
        names = components.enumerate_components(model)
        pieces = {
            c: torch.randn(1, components.n_parameters(model, c), generator=generator, device=device) for c in names
        }
        found.append(tangents.slopes_at_rest(model, ids, pieces).slopes.float().flatten(1).cpu().numpy())
        del model, pieces
    return min(float(np.corrcoef(a, b)[0, 1]) for a, b in zip(*found, strict=True))


def main() -> None:
    """Print one JSON line for each measurement."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=sorted(SHAPES), default="pythia-1.4b")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--contexts", type=int, default=4)
    parser.add_argument("--positions", type=int, default=256)
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("no GPU is here; a figure for one is not made up")
    dtype = torch.bfloat16 if options.device == "cuda" else torch.float32
    peak = matrix_rate(options.device, dtype)
    print(json.dumps({"matrix_peak_teraflops": peak / 1e12}), flush=True)
    model = build(options.shape, options.device, dtype)
    ids = torch.randint(model.vocabulary_size, (options.contexts, options.positions), device=options.device)
    print(json.dumps({"linear_response": linear_response(model, options.device, peak, ids)}), flush=True)
    last = model.n_layers - 1
    for name in ("L0H0", f"L{last // 2}H0", f"L{last // 2}MLP", "unembed"):
        print(json.dumps({"step": steps(model, name, options.device, peak, options.positions)}), flush=True)
    del model
    print(json.dumps({"least_correlation_of_bfloat16_and_float32": agreement(options.shape, options.device)}))


if __name__ == "__main__":
    main()
