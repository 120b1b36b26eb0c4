"""Sampling beside the reference library (devinterp 2.0.1): equal work by time. Equal reliability is in reliable_time.py.

`make bench-sampling` runs both in one process, interleaved, on the same model, tokens, components, threads and
float32, and writes benchmarks/results/sampling.json.

Both make the same number of SGLD steps and draws of the same chains' lengths and record the same
token losses. Ours is timed with everything it needs, the residual streams included. Beside it stands the arithmetic
that no exact method can leave out (matrix products of the component, of the layers above it and of the unembedding,
forward for an evaluation, forward and by the inputs backward for a step) at the machine's matrix-product peak; and the time
of the same layers as PyTorch's operators take it, products, attention, norms, GELU and softmax, measured alone on the same
batch: what is beyond that is the engine's own (the component, the noise, the update, the bookkeeping).
"""

import argparse
import functools
import json
import platform
import resource
import statistics
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import peer
import standard_library
import torch
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

from susc_pipeline import seeds
from susc_pipeline.model import components, decoder, families, perturbation, pretrained, token_loss
from susc_pipeline.model.components import Component
from susc_pipeline.model.decoder import Decoder
from susc_pipeline.sampling import curvature, token_draws
from susc_pipeline.sampling.observables import Population
from susc_pipeline.sampling.posterior import SamplingSettings
from susc_pipeline.tokens import TokenSettings

RESULTS = Path(__file__).parent / "results" / "sampling.json"
EQUAL_WORK = SamplingSettings(
    sampler="sgld",
    step_size=1e-4,
    n_chains=4,
    n_draws=4,
    n_burn_in=0,
    n_steps_between_draws=4,
    batch_size=8,
)
BATCH = 32  # contexts: those of all chains of a step


def embedded() -> tuple[GPTNeoXForCausalLM, peer.Tokens]:
    """The embedded model and contexts of its own corpus."""
    module = GPTNeoXForCausalLM.from_pretrained(pretrained.EMBEDDED, local_files_only=True)
    tokenizer = pretrained.load(pretrained.EMBEDDED).tokenizer
    shard, population = standard_library.contexts(tokenizer, TokenSettings(contexts_per_shard=16), n_chains=4)
    return module.eval(), peer.Tokens(shard, population.parts[0][:8], population.parts[1][:64])


def pythia_14m_shape() -> tuple[GPTNeoXForCausalLM, peer.Tokens]:
    """Random weights in the shape of Pythia-14M: what they cost does not depend on their values."""
    torch.manual_seed(0)
    config = GPTNeoXConfig(
        vocab_size=50304, hidden_size=128, num_hidden_layers=6, num_attention_heads=4, intermediate_size=512
    )
    rng = np.random.default_rng(0)
    ids = [rng.integers(0, 50304, size=(n, 128)) for n in (8, 8, 64)]
    return GPTNeoXForCausalLM(config).eval(), peer.Tokens(*ids)


def ours(model: Decoder, found: list[Component], data: peer.Tokens, settings: SamplingSettings) -> list:
    """All traces of some components, residual streams included; the population is what the reference's minibatches are."""
    everything = Population(tuple(data.minibatch.reshape(settings.n_chains, -1, data.minibatch.shape[1])))
    return [token_draws.sample(model, c, settings, data.shard, everything, seeds.sequence(0, c.name)) for c in found]


def theirs(module: GPTNeoXForCausalLM, found: list[Component], data: peer.Tokens, settings: SamplingSettings) -> list:
    """The same by the reference library."""
    return [peer.run(module, component, data, settings) for component in found]


def seconds(work, *arguments) -> float:
    """Wall time of one call."""
    return both_seconds(work, *arguments)[0]


def both_seconds(work, *arguments) -> tuple[float, float]:
    """Wall time of one call, and processor time of all its threads: what shared cores distort less."""
    started, used = time.perf_counter(), time.process_time()
    work(*arguments)
    return time.perf_counter() - started, time.process_time() - used


def matrix_product_peak() -> float:
    """Floating-point operations a second of a float32 matrix product that fits the cache well."""
    a = torch.randn(2048, 2048)
    times = sorted(seconds(torch.mm, a, a) for _ in range(9))
    return 2 * 2048**3 / times[len(times) // 2]


def necessary_operations(model: Decoder, component: Component, data: peer.Tokens, settings: SamplingSettings) -> float:
    """Operations of matrix products that an exact method needs for all chains of a component."""
    hidden, positions = model.hidden_size, data.shard.shape[1]
    up = model.layers[0].up.shape[0]
    attention = 2 * hidden * positions  # query x key and probability x value, causal: half of 4 x hidden x positions
    layer = 2 * (4 * hidden * hidden + 2 * hidden * up) + attention
    unembed = 2 * hidden * model.vocabulary_size
    own = 2 * components.n_parameters(model, component) if component.kind in ("head", "mlp") else 0
    above = {"embed": model.n_layers, "unembed": 0}.get(component.kind, model.n_layers - 1 - component.layer)
    forward = own + above * layer + unembed
    n_steps = settings.n_burn_in + settings.n_draws * settings.n_steps_between_draws
    evaluated = settings.n_draws * (len(data.shard) + len(data.observable))
    contexts = evaluated + 2 * n_steps * settings.batch_size  # a step goes forward and back
    return settings.n_chains * contexts * positions * forward


def operator_seconds(model: Decoder, component: Component, data: peer.Tokens, settings: SamplingSettings) -> float:
    """Seconds of the layers above a component and of the unembedding alone, for the same evaluations and steps."""
    above = {"embed": model.n_layers, "unembed": 0}.get(component.kind, model.n_layers - 1 - component.layer)
    n_steps = settings.n_burn_in + settings.n_draws * settings.n_steps_between_draws
    evaluated = settings.n_chains * settings.n_draws * (len(data.shard) + len(data.observable))
    stepped = settings.n_chains * n_steps * settings.batch_size
    cost = {key: value / BATCH for key, value in _operator_costs(model, data.shard.shape[1]).items()}
    in_evaluations = evaluated * (above * cost["layer"] + cost["unembedding"])
    return in_evaluations + stepped * (above * cost["layer and back"] + cost["unembedding and back"])


@functools.lru_cache(maxsize=1)
def _operator_costs(model: Decoder, positions: int) -> dict[str, float]:
    """Median seconds of one layer and of the unembedding with its loss, forward and there and back, on BATCH contexts."""
    x = torch.randn(BATCH, positions, model.hidden_size)
    token_ids = torch.randint(model.vocabulary_size, (BATCH, positions))
    work = {
        "layer": lambda stream: decoder.run_layer(stream, model.layers[0], model),
        "unembedding": lambda stream: token_loss.cross_entropy(stream, token_ids, model.unembedding),
    }

    def back(apply) -> None:
        leaf = x.clone().requires_grad_()
        torch.autograd.grad(apply(leaf).sum(), leaf)

    costs = {}
    for key, apply in work.items():
        with torch.no_grad():
            costs[key] = statistics.median(seconds(apply, x) for _ in range(9))
        costs[f"{key} and back"] = statistics.median(seconds(back, apply) for _ in range(9))
    return costs


def equal_work(name: str, module, data: peer.Tokens, chosen: list[str] | None, settings, n_repeats: int) -> dict:
    """One model: interleaved repeats of both, and the share of the peak."""
    model = families.from_module(module)
    found = [c for c in components.enumerate_components(model) if chosen is None or c.name in chosen]
    short = replace(settings, n_draws=2, n_steps_between_draws=1, n_chains=4)
    ours(model, found[:1], data, short), theirs(module, found[:1], data, short)
    rows = []
    for number in range(n_repeats):
        of_peer, of_ours = (
            both_seconds(theirs, module, found, data, settings),
            both_seconds(ours, model, found, data, settings),
        )
        rows.append(
            {
                "peer": of_peer[0],
                "ours": of_ours[0],
                "peer_processor": of_peer[1],
                "ours_processor": of_ours[1],
                "peak": matrix_product_peak(),
            }
        )
        print(f"{name} {number + 1}/{n_repeats}: " + json.dumps(rows[-1]), flush=True)
    ratios = [row["peer"] / row["ours"] for row in rows]
    curvatures = seconds(_curvatures, model, found, data)
    operations = sum(necessary_operations(model, c, data, settings) for c in found)
    peak = statistics.median(row["peak"] for row in rows)
    floor = operations / peak
    operators = sum(operator_seconds(model, c, data, settings) for c in found)
    return {
        "model": name,
        "components": [c.name for c in found],
        "repeats": rows,
        "speedup": statistics.median(ratios),
        "speedup_range": [min(ratios), max(ratios)],
        "speedup_in_processor_time": statistics.median(row["peer_processor"] / row["ours_processor"] for row in rows),
        "seconds_of_curvatures": curvatures,
        "necessary_operations": operations,
        "seconds_at_peak": floor,
        "seconds_of_operators": operators,
        "share_of_peak_ours": floor / statistics.median(row["ours"] for row in rows),
        "largest_possible_speedup": statistics.median(row["peer"] for row in rows) / floor,
        "largest_speedup_with_these_operators": statistics.median(row["peer"] for row in rows) / operators,
    }


def _curvatures(model: Decoder, found: list[Component], data: peer.Tokens) -> None:
    """What our chains do before they start and the reference's do not: find the curvature, which bounds the step."""
    ids = torch.as_tensor(data.minibatch[: curvature.MAX_CONTEXTS].astype(np.int64))
    for component in found:
        curvature.largest_curvature(model, component, perturbation.prepare_tokens(model, component, ids))


def peak_memory(who: str) -> int:
    """Largest resident size, in MiB, of a process that samples one MLP of the Pythia-14M shape by one of the two."""
    module, data = pythia_14m_shape()
    component = Component("mlp", 3)
    settings = replace(EQUAL_WORK, n_chains=4, n_draws=2)
    if who == "ours":
        ours(families.from_module(module), [component], data, settings)
    else:
        theirs(module, [component], data, settings)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def peak_memories() -> dict[str, int]:
    """Peak of each side in a process of its own, in MiB."""
    command = [sys.executable, __file__, "--peak-memory"]
    return {
        who: int(subprocess.run([*command, who], check=True, capture_output=True).stdout) for who in ("ours", "peer")
    }


def both_models(n_repeats: int) -> list[dict]:
    """The embedded model, and a shape of which the vocabulary is most of the work."""
    large, large_data = pythia_14m_shape()
    chosen = ["embed", "L0H0", "L3H1", "L5MLP", "unembed"]
    small = replace(EQUAL_WORK, n_chains=4, n_draws=2)
    return [
        equal_work("embedded", *embedded(), None, EQUAL_WORK, n_repeats),
        equal_work("Pythia-14M's shape", large, large_data, chosen, small, n_repeats),
    ]


PARTS = {
    "peak_memory_mib": lambda n_repeats: peak_memories(),
    "equal_work": both_models,
}


def main() -> None:
    """The parts asked for, or the memory of one side in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peak-memory", choices=["ours", "peer"])
    parser.add_argument(
        "--part", choices=PARTS, action="append", help="only this part, keeping the results of the others"
    )
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    if options.peak_memory:
        print(peak_memory(options.peak_memory))
        return
    content = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}
    content |= {"machine": platform.processor() or platform.machine(), "threads": torch.get_num_threads()}
    for part in options.part or PARTS:
        content[part] = PARTS[part](options.repeats)
        RESULTS.parent.mkdir(exist_ok=True)
        RESULTS.write_text(json.dumps(content, indent=1) + "\n")
    print(f"speedup={content['equal_work'][0]['speedup']:.2f}")


if __name__ == "__main__":
    main()
