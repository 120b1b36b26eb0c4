"""Would chains given to components by their need beat as many for all? `make bench-allocation`, half an hour.

Every component of the embedded model is sampled by 40 chains with tiny's settings, on every third context of tiny's
first shard. Allocations are then replayed on these chains, in 200 random orders, and judged by chains that none of
them took: the squared correlation over tokens with those chains' mean, divided by that mean's own reliability, is the
reliability of what an allocation kept. What chains have been sampled is kept in build/allocation, so that an
interrupted run goes on; the table goes to benchmarks/results/allocation.json too.

Susceptibilities are first_order's, which are a mean over chains, so that covariances between single chains say
everything about any set of them. Seconds are of one core's work, which other work on the machine changes little.
"""

import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import standard_library
import torch

from susc_pipeline import seeds
from susc_pipeline.config import SamplingSettings, TokenSettings
from susc_pipeline.model import components, gpt_neox, pretrained
from susc_pipeline.model.gpt_neox import GPTNeoX
from susc_pipeline.sampling import chains, loss_traces
from susc_pipeline.sampling.chains import SamplingContexts
from susc_pipeline.susceptibility import estimators

RESULTS = Path(__file__).parent / "results" / "allocation.json"
POOL = Path(__file__).parent.parent / "build" / "allocation"
TOKENS = TokenSettings(contexts_per_shard=44, n_shards=18, n_observable_contexts=6)
SETTINGS = SamplingSettings(step_size=2.0, n_chains=4, n_draws=4, n_burn_in=1, n_steps_between_draws=1, batch_size=2)
N_CONTEXTS, N_BATCHES = 15, 10
MAX_CHAINS, N_ORDERS = 24, 200
PRESENT = 4  # chains of a component in tiny
Allocation = Callable[["Subject", np.ndarray], int]


class Subject(NamedTuple):
    """A component: covariances over tokens between the susceptibilities that single chains give, and a chain's price."""

    name: str
    covariance: np.ndarray
    seconds: float

    def single(self, chosen: np.ndarray | slice = slice(None)) -> float:
        """Reliability of one chain, from some of them: covariance of two chains over variance of one."""
        part = self.covariance[chosen][:, chosen]
        n = len(part)
        return float((part.sum() - np.trace(part)) / (n - 1) / np.trace(part))

    def judged(self, kept: np.ndarray, others: np.ndarray) -> float:
        """Reliability of the mean over the chains kept, as the others' mean judges it."""
        between = self.covariance[np.ix_(kept, others)].mean() ** 2
        within = np.prod([self.covariance[np.ix_(part, part)].mean() for part in (kept, others)])
        return float(between / within / lengthened(self.single(), len(others)))


def lengthened(single: float, n_chains: int) -> float:
    """Reliability of a mean over chains (Spearman-Brown)."""
    return n_chains * single / (1 + (n_chains - 1) * single)


def asked(single: float, target: float) -> float:
    """Number of chains that reach the target, by the same formula; without end where chains do not agree at all."""
    return target / (1 - target) * (1 - single) / single if single > 0 else math.inf


def by_need(target: float, first: int) -> Allocation:
    """After `first` chains as many as the target asks for, in batches, at most doubled before they are judged again.

    Judged again, because chains that agree or disagree by chance would stop too early or go on too long.
    """

    def allocate(subject: Subject, order: np.ndarray) -> int:
        n = first
        while n < MAX_CHAINS and lengthened(single := subject.single(order[:n]), n) < target:
            batches = math.ceil((min(asked(single, target), 2 * n) - n) / first)
            n = min(MAX_CHAINS, n + first * max(1, batches))
        return n

    return allocate


def known_need(target: float) -> Allocation:
    """What no rule can know while it samples: each component's need as all chains together show it."""
    return lambda subject, order: min(MAX_CHAINS, max(2, round(asked(subject.single(), target))))


def replay(subjects: list[Subject], allocation: Allocation) -> dict[str, float]:
    """Seconds of an allocation and the reliabilities that it leaves, over random orders of the chains."""
    rng = np.random.default_rng(0)
    orders = [rng.permutation(len(subjects[0].covariance)) for _ in range(N_ORDERS)]
    numbers = np.array([[allocation(subject, order) for subject in subjects] for order in orders])
    found = np.array(
        [
            [s.judged(order[:n], order[MAX_CHAINS:]) for s, n in zip(subjects, row, strict=True)]
            for order, row in zip(orders, numbers, strict=True)
        ]
    )
    return {
        "chains": float(numbers.mean()),
        "seconds": float((numbers @ [subject.seconds for subject in subjects]).mean()),
        "mean": float(found.mean()),
        "neediest": float(found.mean(axis=0).min()),
        "least": float(found.min(axis=1).mean()),
    }


def sample_batch(model: GPTNeoX, contexts: SamplingContexts, number: int, path: Path) -> None:
    """Store, for each component, the susceptibilities that each chain of one batch gives, and the seconds of the batch."""
    found, seconds = {}, []
    for component in components.enumerate_components(model):
        started = time.process_time()
        seed = seeds.sequence(7, "pool", str(number), component.name)
        traces = chains.sample(model, component, SETTINGS, contexts, seed)
        seconds.append(time.process_time() - started)
        ones = (loss_traces.take(traces, traces.chain == chain) for chain in range(SETTINGS.n_chains))
        found[component.name] = np.stack([estimators.first_order(one).value for one in ones]).astype(np.float32)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp.npz")
    np.savez(temporary, seconds=np.array(seconds), **found)
    temporary.replace(path)


def pool() -> list[Subject]:
    """The chains of every component, sampled where they are not there yet."""
    model, tokenizer = pretrained.load(pretrained.EMBEDDED)
    paths = [POOL / f"{number:03d}.npz" for number in range(N_BATCHES)]
    if not all(path.exists() for path in paths):
        contexts = fewer(model, standard_library.sampling_contexts(model, tokenizer, TOKENS))
        for number, path in enumerate(paths):
            if not path.exists():
                sample_batch(model, contexts, number, path)
    batches = [np.load(path) for path in paths]
    prices = np.mean([batch["seconds"] for batch in batches], axis=0) / SETTINGS.n_chains
    return [
        Subject(component.name, np.cov(np.concatenate([batch[component.name] for batch in batches])), float(price))
        for component, price in zip(components.enumerate_components(model), prices, strict=True)
    ]


def fewer(model: GPTNeoX, contexts: SamplingContexts) -> SamplingContexts:
    """Every third context of the shard, with the same observable and minibatches."""
    shard, observable = contexts.tokens.split([len(contexts.tokens) - contexts.n_observable, contexts.n_observable])
    tokens = torch.cat([shard[::3][:N_CONTEXTS], observable])
    return contexts._replace(tokens=tokens, stream=gpt_neox.residual_stream(model, tokens))


def components_table(subjects: list[Subject]) -> list[dict[str, float | str]]:
    """Each component's reliability with tiny's number of chains, and how far chance takes an estimate of it from so few."""
    rows = []
    for subject in subjects:
        groups = np.arange(len(subject.covariance)).reshape(-1, PRESENT)
        estimates = [lengthened(subject.single(group), PRESENT) for group in groups]
        row = {"reliability": lengthened(subject.single(), PRESENT), "chains_for_0.9": asked(subject.single(), 0.9)}
        row |= {"least_estimate": min(estimates), "largest_estimate": max(estimates)}
        rows.append({"component": subject.name, **row})
    return rows


def main() -> None:
    """Sample what is missing, replay the allocations, print both tables."""
    subjects = pool()
    allocations: dict[str, Allocation] = {f"{n} for all": lambda s, o, n=n: n for n in (3, 4, 5, 6, 7, 8, 10)}
    for target in (0.82, 0.85, 0.88, 0.9):
        allocations |= {f"by need, from {first}, to {target:g}": by_need(target, first) for first in (2, 4)}
        allocations[f"need known, to {target:g}"] = known_need(target)
    content = {"components": components_table(subjects)}
    content["allocations"] = [{"allocation": name} | replay(subjects, one) for name, one in allocations.items()]
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(content, indent=1) + "\n")
    for rows in content.values():
        print("\n| " + " | ".join(rows[0]) + " |\n|" + "---|" * len(rows[0]))
        for row in sorted(rows, key=lambda row: row.get("seconds", 0)):
            cells = [value if isinstance(value, str) else f"{value:.3g}" for value in row.values()]
            print("| " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
