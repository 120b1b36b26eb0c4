"""Every heavy stage on a GPU: share of the card's matrix peak, tokens times components a second, hours of 46M tokens.

`python -m benchmarks.gpu` is sized for eight minutes of one GPU and was not run on one yet; random weights cost what trained ones
do. It prints a JSON line for each measurement:

- matrix products of the card, in bfloat16 and float32;
- at the shape of Pythia-160M and 1.4B: linear response of all components along two directions each, gradients of mirrored chains
  (which the directions take), and losses with tangents at a draw of such chains;
- training of the auxiliary model, and nearest neighbours by comparing all pairs;
- on the embedded model, with directions found on the card: correlation over tokens of each component's linear responses in
  bfloat16 and in float32, with directions of either type.

Operations are those of model/operations.py. `--device cpu --shapes toy` only shows that the script runs.
"""

import argparse
import json
import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

from benchmarks import standard_library
from susc_pipeline import price
from susc_pipeline.clustering import neighbors
from susc_pipeline.config import ExperimentConfig
from susc_pipeline.model import components, derivatives, families, operations, perturbation, pretrained, tangents
from susc_pipeline.model.components import Component
from susc_pipeline.model.decoder import Decoder
from susc_pipeline.plan import Plan
from susc_pipeline.representation import auxiliary_training
from susc_pipeline.representation.auxiliary import AuxSettings
from susc_pipeline.sampling.observables import Population
from susc_pipeline.sampling.posterior import SamplingSettings
from susc_pipeline.susceptibility import direction_task
from susc_pipeline.susceptibility.direction_task import DirectionTask, Rest
from susc_pipeline.susceptibility.directions import DirectionSettings
from susc_pipeline.tokens import TokenSettings

SHAPES = {
    "pythia-160m": {"vocab_size": 50304, "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12},
    "pythia-1.4b": {"vocab_size": 50304, "hidden_size": 2048, "num_hidden_layers": 24, "num_attention_heads": 16},
    "toy": {"vocab_size": 128, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2},
}
TOKENS = 46_000_000
N_CHAINS, BATCH = 8, 4  # mirror images included, as the preset pythia-1.4b; contexts of a draw
BUDGET = DirectionSettings(reliability=0.999, max_contexts=128, n_probe_contexts=4)
CONTEXTS_OF_A_CHAIN = 64
CHAINS = SamplingSettings(step_size=2.0, n_chains=4, batch_size=1)
POINTS = {"cuda": 1 << 19, "cpu": 1 << 11}
ROWS = {"cuda": 1 << 16, "cpu": 1 << 9}


def build(shape: str, device: str, dtype: torch.dtype) -> Decoder:
    """Random weights of a shape."""
    torch.manual_seed(0)
    size = SHAPES[shape]
    config = GPTNeoXConfig(intermediate_size=4 * size["hidden_size"], max_position_embeddings=2048, **size)
    with torch.device(device):
        module = GPTNeoXForCausalLM(config).to(dtype).eval().requires_grad_(False)
    return families.from_module(module)


def seconds(work: Callable[[], object], device: str, n_repeats: int = 3) -> float:
    """Median time of a call after one to warm up."""
    times = []
    for _ in range(n_repeats + 1):
        started = time.perf_counter()
        work()
        if device == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - started)
    return float(np.median(times[1:]))


def peak(device: str, dtype: torch.dtype) -> float:
    """Operations a second of a product of large random matrices."""
    size = 8192 if device == "cuda" else 1024
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    return 2 * size**3 / seconds(lambda: a @ b, device, n_repeats=10)


def of_peak(count: float, taken: float, most: float) -> dict[str, float]:
    """The rate of so many operations, beside the card's."""
    return {"teraflops": count / taken / 1e12, "share_of_peak": count / taken / most}


def plan_of(model: Decoder, n_positions: int) -> Plan:
    """What decides the operations."""
    experiment = ExperimentConfig(name="rate", tokens=TokenSettings(context_length=n_positions))
    return Plan(model, components.enumerate_components(model), experiment)


def random_ids(model: Decoder, n_contexts: int, n_positions: int) -> torch.Tensor:
    """Tokens of so many contexts."""
    return torch.randint(model.vocabulary_size, (n_contexts, n_positions), device=model.device)


def linear_response(model: Decoder, n_contexts: int, n_positions: int, most: float) -> dict[str, float]:
    """Rates of all components along two directions, and the hours of 46M tokens."""
    chosen = components.enumerate_components(model)
    directions = {
        c: torch.randn(price.HALVES, components.n_parameters(model, c), device=model.device).to(model.unembedding.dtype)
        for c in chosen
    }
    ids = random_ids(model, n_contexts, n_positions)
    taken = seconds(lambda: tangents.slopes_at_rest(model, ids, directions), model.device.type)
    rate, count = ids.numel() / taken, ids.numel() * price.linear_response(plan_of(model, n_positions))
    rates = {"contexts": n_contexts, "tokens_a_second": rate, "tokens_x_components_a_second": rate * len(chosen)}
    return rates | of_peak(count, taken, most) | {"hours_of_46M_tokens": TOKENS / rate / 3600}


def chains_of(model: Decoder, component: Component, n_contexts: int, n_positions: int):
    """Chains near the trained weights, and what each reads."""
    prepared = perturbation.prepare_tokens(model, component, random_ids(model, N_CHAINS * n_contexts, n_positions))
    rows = torch.arange(N_CHAINS * n_contexts, device=model.device).view(N_CHAINS, n_contexts)
    deltas = 1e-3 * torch.randn(N_CHAINS, components.n_parameters(model, component), device=model.device)
    return prepared.take(rows), deltas


def gradients(model: Decoder, name: str, n_positions: int, most: float) -> dict:
    """Rate of gradient steps of one component's chains, and the hours of 8,192 contexts, for all components at that rate."""
    component = components.by_name(model, name)
    batch, deltas = chains_of(model, component, BATCH, n_positions)
    taken = seconds(lambda: derivatives.gradients(model, component, batch, deltas), model.device.type)
    count = 3 * N_CHAINS * BATCH * n_positions * operations.above(model, component, n_positions)
    rates = {"component": name, "contexts_a_second": N_CHAINS * BATCH / taken} | of_peak(count, taken, most)
    return rates | {"hours_of_all_directions": price.by_chains(plan_of(model, n_positions)) / (count / taken) / 3600}


def at_a_draw(model: Decoder, name: str, n_positions: int, most: float) -> dict:
    """Rate of losses with the tangent along one direction of each chain."""
    component = components.by_name(model, name)
    batch, deltas = chains_of(model, component, BATCH, n_positions)
    taken = seconds(
        lambda: tangents.losses_and_slopes(model, component, batch, deltas, deltas[None]), model.device.type
    )
    each = operations.above(model, component, n_positions) + operations.tangent(model, component, n_positions)
    count = N_CHAINS * BATCH * n_positions * (each + operations.unembedding(model))
    return {"component": name} | of_peak(count, taken, most)


def of_shape(shape: str, device: str, dtype: torch.dtype, options: argparse.Namespace, most: float) -> None:
    """Print the rates of one shape in one type of number."""
    model, kind = build(shape, device, dtype), str(dtype).removeprefix("torch.")
    said = {"shape": shape, "type": kind}
    if dtype == torch.bfloat16:
        for n_contexts in options.contexts:
            say(said, "linear_response", linear_response(model, n_contexts, options.positions, most))
    middle = (model.n_layers - 1) // 2
    for name in ("embed", f"L{middle}H0", f"L{middle}MLP", "unembed"):
        say(said, "gradients", gradients(model, name, options.positions, most))
        say(said, "losses_and_tangents", at_a_draw(model, name, options.positions, most))
    if device == "cuda":
        say(said, "peak_memory_gigabytes", torch.cuda.max_memory_allocated() / 1e9)
        torch.cuda.reset_peak_memory_stats()


def auxiliary_model(device: str, most: float) -> dict[str, float]:
    """Rate of an epoch of the auxiliary model of Pythia-1.4B, products in bfloat16."""
    rng, rows = np.random.default_rng(0), ROWS[device]
    width, n_pcs, hidden = (5 * 2048, 410, 16 * 2048) if device == "cuda" else (64, 8, 128)
    activations = rng.standard_normal((rows, width), np.float32).astype(np.float16)
    targets = rng.standard_normal((rows, n_pcs), np.float32)
    settings = AuxSettings(max_epochs=1, batch_size=4096)
    taken = seconds(
        lambda: auxiliary_training.train(
            activations,
            targets,
            stopping_activations=activations[:64],
            stopping_targets=targets[:64],
            settings=settings,
            hidden_width=hidden,
            rng=np.random.default_rng(1),
            device=device,
        ),
        device,
        n_repeats=1,
    )
    return {"tokens_a_second": rows / taken} | of_peak(3 * 2 * hidden * (width + n_pcs) * rows, taken, most)


def all_pairs(device: str) -> dict[str, float]:
    """Rate of 45 nearest neighbours in 100 dimensions, the share that float64 finds too, and the hours of 46M points."""
    points = np.random.default_rng(0).standard_normal((POINTS[device], 100), np.float32)
    rows, where = slice(0, min(len(points), 1 << 15)), torch.device(device)
    taken = seconds(lambda: neighbors.exact_by_products(points, rows, 45, where), device, n_repeats=1)
    found, exact = neighbors.exact_by_products(points, slice(0, 64), 45, where).indices, nearest_by_float64(points)
    shared = np.mean([len(set(a) & set(b)) / 45 for a, b in zip(found, exact, strict=True)])
    pairs = rows.stop * len(points) / taken
    rates = {"points": len(points), "pairs_a_second": pairs, "hours_of_46M_points": TOKENS**2 / pairs / 3600}
    return rates | {"found_by_float64_too": float(shared)}


def nearest_by_float64(points: np.ndarray) -> np.ndarray:
    """The 45 nearest other points of the first 64."""
    wide = points.astype(np.float64)
    return ((wide**2).sum(axis=1) - 2 * wide[:64] @ wide.T).argsort(axis=1)[:, 1:46]


def found_directions(model: Decoder, population: Population, probe: np.ndarray, chosen: Sequence[Component]) -> dict:
    """Response directions of both halves of the chains, by the chains of the pipeline, on the model's device."""
    task = DirectionTask(model, model.device.type, CHAINS, BUDGET, population, probe, 1, chosen)
    at_rest, finder = direction_task.rest_finder(task), direction_task.finder(task)
    rests = [at_rest(chain, None)[0] for chain in range(CHAINS.n_chains)]
    found = {}
    for component in chosen:
        each = torch.stack([rest.gradient[component.name].float() for rest in rests]).numpy()
        stored, _ = finder(component, Rest(each, np.zeros((0, 0), np.float32), sum(rest.n_contexts for rest in rests)))
        found[component] = torch.stack([stored.directions[rank::2].mean(dim=0) for rank in (0, 1)]).to(model.device)
    return found


def slopes(model: Decoder, ids: torch.Tensor, directions: Mapping[Component, torch.Tensor]) -> np.ndarray:
    """Of every token along the mean of both halves' directions, (components, tokens)."""
    found = tangents.slopes_at_rest(model, ids, {c: both.to(model.device) for c, both in directions.items()})
    return found.slopes.double().mean(dim=1).flatten(1).cpu().numpy()


def correlations(a: np.ndarray, b: np.ndarray, chosen: Sequence[Component]) -> dict:
    """Over tokens, of each component."""
    found = {c.name: float(np.corrcoef(x, y)[0, 1]) for c, x, y in zip(chosen, a, b, strict=True)}
    return {"least": min(found.values())} | found


def agreement(device: str, names: Sequence[str]) -> dict:
    """Correlation over tokens of linear responses on this device with those of float32 there."""
    exact, rounded, on_cpu = (
        pretrained.load(pretrained.EMBEDDED, dtype=dtype, device=where)
        for dtype, where in (("float32", device), ("bfloat16", device), ("float32", "cpu"))
    )
    tokens = ExperimentConfig(name="gpu").tokens
    shard, population = standard_library.contexts(exact.tokenizer, tokens, n_chains=CHAINS.n_chains)
    population = Population(tuple(part[:CONTEXTS_OF_A_CHAIN] for part in population.parts))
    chosen = [c for c in components.enumerate_components(exact.model) if not names or c.name in names]
    ids, probe = torch.as_tensor(shard[4:].astype(np.int64)), shard[:4]
    of_exact, of_rounded = (found_directions(one.model, population, probe, chosen) for one in (exact, rounded))
    wanted = slopes(exact.model, ids.to(device), of_exact)
    return {
        "tokens": wanted.shape[1],
        "float32_of_a_cpu": correlations(wanted, slopes(on_cpu.model, ids, of_exact), chosen),
        "bfloat16": correlations(wanted, slopes(rounded.model, ids.to(device), of_exact), chosen),
        "bfloat16_with_directions_found_in_it": correlations(
            wanted, slopes(rounded.model, ids.to(device), of_rounded), chosen
        ),
    }


def say(said: dict, name: str, found: object) -> None:
    """A line of what was measured."""
    print(json.dumps(said | {name: found}), flush=True)


def main() -> None:
    """Print one JSON line for each measurement."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="*", choices=sorted(SHAPES), default=["pythia-160m", "pythia-1.4b"])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--contexts", nargs="+", type=int, default=[4, 16], help="of linear response, at once")
    parser.add_argument("--positions", type=int, default=256)
    parser.add_argument("--components", nargs="*", default=[], help="of the embedded model, to compare; default: all")
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("no GPU is here; a figure for one is not made up")
    name = torch.cuda.get_device_name() if options.device == "cuda" else "cpu"
    most = {dtype: peak(options.device, dtype) for dtype in (torch.bfloat16, torch.float32)}
    say({"device": name}, "matrix_peak_teraflops", {str(dtype): rate / 1e12 for dtype, rate in most.items()})
    for shape in options.shapes:
        for dtype, rate in most.items():
            of_shape(shape, options.device, dtype, options, rate)
    say({}, "auxiliary_model", auxiliary_model(options.device, most[torch.bfloat16]))
    say({}, "neighbors", all_pairs(options.device))
    say({}, "correlation_with_float32", agreement(options.device, options.components))


if __name__ == "__main__":
    main()
