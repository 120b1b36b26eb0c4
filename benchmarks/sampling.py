"""Sampling beside the reference library (devinterp 2.0.1): equal work by time, and equal reliability by time.

`make bench-sampling` runs both parts in one process, interleaved, on the same model, tokens, components, threads and
float32, and writes benchmarks/results/sampling.json.

Part A, equal work: both make the same number of SGLD steps and draws of the same chains' lengths and record the same
token losses. Ours is timed with everything it needs, the residual streams included. Beside it stands the arithmetic
that no exact method can leave out (matrix products of the component, of the layers above it and of the unembedding,
forward for an evaluation, forward and by the inputs backward for a step) at the machine's matrix-product peak; and the time
of the same layers as PyTorch's operators take it, products, attention, norms, GELU and softmax, measured alone on the same
batch: what is beyond that is the engine's own (the component, the noise, the update, the bookkeeping).

Part B, equal reliability: of a column of susceptibilities, reliability(n) = S / (S + E / n), with S the variance over tokens of
the posterior's own covariances and E the error variance of one draw (Spearman-Brown is this formula). S comes from a
long chain, as the covariance over tokens of its two halves; E from each method's own draws, as n times the variance over
tokens of its estimate less S. The draws that a reliability R asks for are n = E R / (S (1 - R)), so the ratio of times is
(E x seconds per draw) of one to that of the other, whatever R. Both are the plain sample covariance, -Cov[phi, l - L],
recomputed from stored traces.
"""

import argparse
import functools
import json
import platform
import resource
import statistics
import subprocess
import sys
import sysconfig
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import peer
import torch
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

from susc_pipeline import corpus, schema, seeds, tokens
from susc_pipeline.config import SamplingSettings, TokenSettings
from susc_pipeline.model import components, gpt_neox, pretrained, token_loss
from susc_pipeline.model.components import Component
from susc_pipeline.model.gpt_neox import GPTNeoX
from susc_pipeline.sampling import chains, stability
from susc_pipeline.susceptibility import estimators

RESULTS = Path(__file__).parent / "results" / "sampling.json"
EQUAL_WORK = SamplingSettings(
    sampler="sgld",
    step_size=1e-4,
    n_chains=4,
    n_draws=4,
    n_burn_in=0,
    n_steps_between_draws=4,
    batch_size=8,
    slopes=False,
)
PUBLISHED = replace(
    EQUAL_WORK, sampler="rmsprop_sgld_devinterp", step_size=1e-5, n_burn_in=160, n_steps_between_draws=160, n_draws=4
)
OURS = replace(
    EQUAL_WORK, sampler="exponential", step_size=1.0, n_steps_between_draws=2, n_burn_in=4, n_chains=8, batch_size=4
)
LONG = replace(OURS, n_draws=250)
BATCH = 32  # contexts: those of all chains of a step of part A
SAMPLED = ("L1H2", "L2MLP", "unembed")


def embedded() -> tuple[GPTNeoXForCausalLM, peer.Tokens]:
    """The embedded model and contexts of its own corpus."""
    module = GPTNeoXForCausalLM.from_pretrained(pretrained.EMBEDDED, local_files_only=True)
    tokenizer = pretrained.load(pretrained.EMBEDDED).tokenizer
    documents = tokens.tokenize(corpus.python_standard_library(Path(sysconfig.get_path("stdlib"))), tokenizer)
    settings = TokenSettings(contexts_per_shard=16, n_observable_contexts=8)
    reserved = tokens.sampling_contexts(documents, settings, 1)
    shard = tokens.contexts_of_shard(documents, settings, 1, "shard-00000")
    roles = [schema.token_ids(reserved.filter(role=role)) for role in ("observable", "minibatch")]
    return module.eval(), peer.Tokens(schema.token_ids(shard), *roles)


def pythia_14m_shape() -> tuple[GPTNeoXForCausalLM, peer.Tokens]:
    """Random weights in the shape of Pythia-14M: what they cost does not depend on their values."""
    torch.manual_seed(0)
    config = GPTNeoXConfig(
        vocab_size=50304, hidden_size=128, num_hidden_layers=6, num_attention_heads=4, intermediate_size=512
    )
    rng = np.random.default_rng(0)
    ids = [rng.integers(0, 50304, size=(n, 128)) for n in (8, 8, 32)]
    return GPTNeoXForCausalLM(config).eval(), peer.Tokens(*ids)


def ours(model: GPTNeoX, found: list[Component], data: peer.Tokens, settings: SamplingSettings) -> list:
    """All traces of some components, residual streams included."""
    contexts = chains.sampling_contexts(model, **data._asdict())
    return [chains.sample(model, c, settings, contexts, seeds.sequence(0, c.name)) for c in found]


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


def necessary_operations(model: GPTNeoX, component: Component, data: peer.Tokens, settings: SamplingSettings) -> float:
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


def operator_seconds(model: GPTNeoX, component: Component, data: peer.Tokens, settings: SamplingSettings) -> float:
    """Seconds of the layers above a component and of the unembedding alone, for the same evaluations and steps."""
    above = {"embed": model.n_layers, "unembed": 0}.get(component.kind, model.n_layers - 1 - component.layer)
    n_steps = settings.n_burn_in + settings.n_draws * settings.n_steps_between_draws
    evaluated = settings.n_chains * settings.n_draws * (len(data.shard) + len(data.observable))
    stepped = settings.n_chains * n_steps * settings.batch_size
    cost = {key: value / BATCH for key, value in _operator_costs(model, data.shard.shape[1]).items()}
    in_evaluations = evaluated * (above * cost["layer"] + cost["unembedding"])
    return in_evaluations + stepped * (above * cost["layer and back"] + cost["unembedding and back"])


@functools.lru_cache(maxsize=1)
def _operator_costs(model: GPTNeoX, positions: int) -> dict[str, float]:
    """Median seconds of one layer and of the unembedding with its loss, forward and there and back, on BATCH contexts."""
    x = torch.randn(BATCH, positions, model.hidden_size)
    token_ids = torch.randint(model.vocabulary_size, (BATCH, positions))
    work = {
        "layer": lambda stream: gpt_neox.run_layer(stream, model.layers[0], model),
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
    """Part A for one model: interleaved repeats of both, and the share of the peak."""
    model = GPTNeoX.from_module(module)
    found = [c for c in components.enumerate_components(model) if chosen is None or c.name in chosen]
    short = replace(settings, n_draws=2, n_steps_between_draws=1, n_chains=2)
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
        print(f"A {name} {number + 1}/{n_repeats}: " + json.dumps(rows[-1]), flush=True)
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


def _curvatures(model: GPTNeoX, found: list[Component], data: peer.Tokens) -> None:
    """What our chains do before they start and the reference's do not: find the curvature, which bounds the step."""
    contexts = chains.sampling_contexts(model, **data._asdict())
    for component in found:
        stability.largest_curvature(model, component, chains.observable_inputs(model, component, contexts))


def restricted(losses: np.ndarray, observable: np.ndarray) -> np.ndarray:
    """The sample covariance from losses (draws, tokens) and the mean loss of the observable set (draws)."""
    phi = observable - observable.mean()
    return -(phi @ (losses - observable[:, None])) / (len(phi) - 1)


def equal_reliability(module, data: peer.Tokens) -> list[dict]:
    """Part B for each sampled component."""
    model = GPTNeoX.from_module(module)
    contexts = chains.sampling_contexts(model, **data._asdict())
    rows = []
    for name in SAMPLED:
        component = components.by_name(model, name)
        started = time.perf_counter()
        long = chains.sample(model, component, LONG, contexts, seeds.sequence(0, "long", name))
        per_draw_ours = (time.perf_counter() - started) / len(long.mean_loss)
        a, b = estimators.halves(long, kind="restricted")
        signal = float(np.cov(a, b)[0, 1])
        of_long = estimators.restricted(long).value
        n_ours = len(long.mean_loss)
        error_ours = n_ours * max(float(of_long.var()) - signal, 0.0)
        started = time.perf_counter()
        stored = peer.run(module, component, data, PUBLISHED)
        n_peer = PUBLISHED.n_chains * PUBLISHED.n_draws
        per_draw_peer = (time.perf_counter() - started) / n_peer
        losses = stored.shard.reshape(n_peer, -1).astype(np.float64)
        observable = stored.observable.reshape(n_peer, -1).astype(np.float64).mean(axis=1)
        of_peer = restricted(losses, observable)
        error_peer = n_peer * (float(of_peer.var()) - signal)
        order = _order(stored.shard_ids, data.shard)
        aligned = of_long.reshape(len(data.shard), -1)[order].ravel()
        rows.append(
            {
                "component": name,
                "signal_variance": signal,
                "half_correlation_of_long_chain": float(np.corrcoef(a, b)[0, 1]),
                "error_variance_of_a_draw": {"ours": error_ours, "peer": error_peer},
                "seconds_per_draw": {"ours": per_draw_ours, "peer": per_draw_peer},
                "draws": {"ours": n_ours, "peer": n_peer},
                "mean_observable": {
                    "ours": float(long.mean_loss.mean() - long.init_loss),
                    "peer": float(observable.mean() - long.init_loss),
                },
                "slope_of_peer_on_long_chain": float(np.cov(of_peer, aligned)[0, 1] / signal),
                "reliability_of_480_seconds": {
                    who: float(signal / (signal + error / (480 / each)))
                    for who, error, each in (
                        ("ours", error_ours, per_draw_ours),
                        ("peer", error_peer, per_draw_peer),
                    )
                },
                "speedup": error_peer * per_draw_peer / (error_ours * per_draw_ours),
            }
        )
        print("B " + json.dumps(rows[-1]), flush=True)
    return rows


def _order(stored: np.ndarray, original: np.ndarray) -> list[int]:
    """Where each of the reference's shuffled contexts stands in ours."""
    found = {row.tobytes(): number for number, row in enumerate(np.ascontiguousarray(original, np.int64))}
    return [found[row.tobytes()] for row in np.ascontiguousarray(stored, np.int64)]


def peak_memory(who: str) -> int:
    """Largest resident size, in MiB, of a process that samples one MLP of the Pythia-14M shape by one of the two."""
    module, data = pythia_14m_shape()
    component = Component("mlp", 3)
    settings = replace(EQUAL_WORK, n_chains=2, n_draws=2)
    if who == "ours":
        ours(GPTNeoX.from_module(module), [component], data, settings)
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
    """Part A."""
    large, large_data = pythia_14m_shape()
    chosen = ["embed", "L0H0", "L3H1", "L5MLP", "unembed"]
    small = replace(EQUAL_WORK, n_chains=2, n_draws=2)
    return [
        equal_work("embedded", *embedded(), None, EQUAL_WORK, n_repeats),
        equal_work("Pythia-14M's shape", large, large_data, chosen, small, n_repeats),
    ]


PARTS = {
    "peak_memory_mib": lambda n_repeats: peak_memories(),
    "equal_work": both_models,
    "equal_reliability": lambda n_repeats: equal_reliability(*embedded()),
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
    print(f"reliability_speedup={statistics.median(row['speedup'] for row in content['equal_reliability']):.0f}")


if __name__ == "__main__":
    main()
