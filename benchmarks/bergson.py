"""Per-token scores along the response directions of heads and MLPs, beside bergson 2.5.1 (EleutherAI), on the same model.

`make bench-bergson` installs bergson beside the project, in build/bergson, and compares in one process, interleaved. Its
`token_influence="output"` asks the same question: how fast does the loss of each token change along a query. It answers by
`torch.func.jvp`, one forward pass of the whole model for each query. Ours passes the tangents of all components together,
beside one primal pass, from the component's layer on. A query is one component's direction, zero elsewhere. bergson takes
linear layers of the base model only, so embed and unembed are left out on both sides.
"""

import argparse
import json
import statistics
import time
from pathlib import Path

import numpy as np
import torch
from bergson.config.config import IndexConfig
from bergson.score.output_influence import output_token_influence, query_directions
from transformers import GPTNeoXForCausalLM

from benchmarks import standard_library
from susc_pipeline.model import components, pretrained, tangents
from susc_pipeline.model.components import Component
from susc_pipeline.model.decoder import Decoder
from susc_pipeline.tokens import TokenSettings

RESULTS = Path(__file__).resolve().parent / "results" / "bergson.json"
MATRICES = {
    "attention.query_key_value": ("query_key_value", "query_key_value_bias"),
    "attention.dense": ("output", None),
    "mlp.dense_h_to_4h": ("up", "up_bias"),
    "mlp.dense_4h_to_h": ("down", "down_bias"),
}


def queries(
    module: GPTNeoXForCausalLM, model: Decoder, along: dict[Component, torch.Tensor]
) -> tuple[dict[str, torch.Tensor], dict]:
    """The directions as bergson lays its queries out: [out, in and bias] of each matrix, a column a component."""
    blocks, targets = {}, {}
    for layer in range(model.n_layers):
        for suffix in MATRICES:
            name = f"layers.{layer}.{suffix}"
            linear = module.base_model.get_submodule(name)
            has_bias = linear.bias is not None
            width = linear.in_features + has_bias
            block = torch.zeros(linear.out_features, width, len(along))
            for column, (component, direction) in enumerate(along.items()):
                if component.layer == layer:
                    _fill(block[..., column], model, component, direction, suffix)
            blocks[name] = block.flatten(0, 1)
            targets[name] = (torch.device("cpu"), linear.weight.shape, has_bias)
    return blocks, targets


def _fill(block: torch.Tensor, model: Decoder, component: Component, direction: torch.Tensor, suffix: str) -> None:
    """A component's part of one matrix; the rows of a head's query, key and value stand together (GPT-NeoX)."""
    shapes = {name: weight.shape for name, weight in components.weights(model, component).items()}
    pieces = components.unflatten(direction[None], shapes)
    weight, bias = MATRICES[suffix]
    if weight not in pieces:
        return
    piece, size = pieces[weight][0], model.head_size
    if component.kind == "head" and weight == "output":
        block[:, component.head * size : (component.head + 1) * size] = piece
        return
    first = component.head * 3 * size if component.kind == "head" else 0
    rows = slice(first, first + len(piece))
    block[rows, : piece.shape[1]] = piece
    if bias in pieces:
        block[rows, piece.shape[1]] = pieces[bias][0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--contexts", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    loaded = pretrained.load(pretrained.EMBEDDED)
    model = loaded.model
    # Forward mode is not implemented for PyTorch's fused attention on a CPU.
    how = {"local_files_only": True, "attn_implementation": "eager"}
    module = GPTNeoXForCausalLM.from_pretrained(pretrained.EMBEDDED, **how).eval().requires_grad_(False)
    tokens = TokenSettings(contexts_per_shard=options.contexts)
    shard, _ = standard_library.contexts(loaded.tokenizer, tokens, n_chains=2)
    ids = torch.as_tensor(shard.astype(np.int64))
    found = [c for c in components.enumerate_components(model) if c.kind in ("head", "mlp")]
    generator = torch.Generator().manual_seed(0)
    along = {c: torch.randn(components.n_parameters(model, c), generator=generator) for c in found}
    blocks, targets = queries(module, model, along)
    directions = query_directions(module, blocks, targets)
    config = IndexConfig(run_path="unused", loss_reduction="sum")

    def theirs() -> torch.Tensor:
        return torch.cat([output_token_influence(module, x, x, directions, config)[0] for x in ids.split(4)])

    def ours() -> torch.Tensor:
        mapping = {component: direction[None] for component, direction in along.items()}
        parts = [tangents.slopes_at_rest(model, x, mapping).slopes[:, 0] for x in ids.split(4)]
        return torch.cat(parts, dim=1).permute(1, 2, 0)

    pairs = zip(theirs().flatten(0, 1).T.numpy(), ours().flatten(0, 1).T.numpy(), strict=True)
    agreement = [float(np.corrcoef(a, b)[0, 1]) for a, b in pairs]
    seconds: dict[str, list[float]] = {"bergson": [], "ours": []}
    for _ in range(options.repeats):
        for name, work in (("bergson", theirs), ("ours", ours)):
            started = time.perf_counter()
            work()
            seconds[name].append(time.perf_counter() - started)
    scores = ids[:, 1:].numel() * len(found)
    rates = {name: scores / statistics.median(times) for name, times in seconds.items()}
    ratios = [a / b for a, b in zip(seconds["bergson"], seconds["ours"], strict=True)]
    row = {"components": len(found), "tokens": ids[:, 1:].numel(), "least_r": min(agreement), "scores_a_second": rates}
    row |= {"speedup": statistics.median(ratios), "speedup_range": [min(ratios), max(ratios)]}
    row |= {"threads": torch.get_num_threads()}
    RESULTS.write_text(json.dumps(row, indent=1) + "\n")
    print(json.dumps(row))
    print(f"bergson_r={row['least_r']:.6f}\nbergson_speedup={row['speedup']:.1f}")


if __name__ == "__main__":
    main()
