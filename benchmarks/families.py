"""A row for each variant of each family: how far losses and slopes are from those of transformers and of differences.

Models are small and random, of transformers' own classes. `loss` and `perturbed` are the largest differences of a token's
loss, at w* and with a component's weights changed; `slope` is that of a tangent from a central difference in float64, and
relative to the largest slope. A variant is exact where all three are below the bar, a family where its variants are.

    python -m benchmarks.families
"""

from collections import defaultdict

import torch

from susc_pipeline.model import components, decoder, perturbation, tangents
from susc_pipeline.model.components import Component
from susc_pipeline.model.decoder import Decoder
from tests import variants

BAR = 5e-5
STEP = 1e-5


def perturbed_difference(module: torch.nn.Module, model: Decoder, component: Component, ids: torch.Tensor) -> float:
    inputs = perturbation.prepare(model, component, ids, decoder.residual_stream(model, ids))
    delta = 0.1 * torch.randn(1, components.n_parameters(model, component))
    found = perturbation.losses(model, component, inputs, delta)[0]
    return float((found - variants.losses_of_changed(module, model, component, ids, delta[0])).abs().max())


def slope_difference(model: Decoder, component: Component, ids: torch.Tensor) -> float:
    inputs = perturbation.prepare(model, component, ids, decoder.residual_stream(model, ids))
    along = torch.randn(1, 1, components.n_parameters(model, component), dtype=torch.float64)
    delta = 0.1 * torch.randn_like(along[0])
    slopes = tangents.losses_and_slopes(model, component, inputs, delta, along).slopes[0, 0]
    moved = (variants.exact_losses(model, component, ids, delta[0] + sign * STEP * along[0, 0]) for sign in (1, -1))
    above, below = moved
    exact = (above - below) / (2 * STEP)
    return float((slopes - exact).abs().max() / exact.abs().max())


def row(variant: str) -> dict[str, float]:
    module, model = variants.of(variant)
    ids, every = variants.token_ids(), components.enumerate_components(model)
    torch.manual_seed(0)
    exact = variants.in_float64(model)
    return {
        "components": len(every),
        "loss": float((decoder.token_losses(model, ids) - variants.losses(module, ids)).abs().max()),
        "perturbed": max(perturbed_difference(module, model, component, ids) for component in every),
        "slope": max(slope_difference(exact, component, ids) for component in every),
    }


def main() -> None:
    exact = defaultdict(list)
    print(f"{'variant':<34}{'components':>11}{'loss':>10}{'perturbed':>11}{'slope':>10}")
    for variant in variants.VARIANTS:
        found = row(variant)
        exact[variant.split(",")[0]].append(max(found["loss"], found["perturbed"], found["slope"]) < BAR)
        numbers = f"{found['loss']:>10.1e}{found['perturbed']:>11.1e}{found['slope']:>10.1e}"
        print(f"{variant:<34}{found['components']:>11}{numbers}", flush=True)
    print(f"families={sum(all(of_family) for of_family in exact.values())}")


if __name__ == "__main__":
    main()
