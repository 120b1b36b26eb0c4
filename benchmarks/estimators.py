"""Split-half reliability of each estimator on the same draws of the embedded model, component by component.

`make bench` prints one line for each component: the correlation across tokens between the estimates from two disjoint
halves of the chains, the spread over tokens, and the mean standard error.
"""

import sysconfig
import time
from pathlib import Path

import numpy as np

from resources import language_model
from susc_pipeline import corpus, schema, seeds, tokens
from susc_pipeline.config import ModelSettings, SamplingSettings, TokenSettings
from susc_pipeline.model import components
from susc_pipeline.sampling import chains
from susc_pipeline.susceptibility import estimators

NAMES = ("L0H0", "L1H2", "L3H1", "L2MLP", "embed", "unembed")
SETTINGS = SamplingSettings(n_chains=8, n_draws=4, n_steps_between_draws=1, step_size=2.0, n_burn_in=2, batch_size=4)


def main() -> None:
    """Sample each component once and compare the estimators."""
    model, tokenizer = language_model.load(language_model.EMBEDDED, ModelSettings())
    documents = corpus.python_standard_library(Path(sysconfig.get_path("stdlib")))
    tokenized, settings = tokens.tokenize(documents, tokenizer), TokenSettings()
    shard = tokens.contexts_of_shard(tokenized, settings, 1, "shard-00000")
    reserved = tokens.sampling_contexts(tokenized, settings, 1)
    roles = {role: schema.token_ids(reserved.filter(role=role)) for role in ("minibatch", "observable")}
    contexts = chains.sampling_contexts(model, shard=schema.token_ids(shard), **roles)
    for name in NAMES:
        started = time.perf_counter()
        seed = seeds.sequence(1, "benchmark", name)
        traces = chains.sample(model, components.by_name(model, name), SETTINGS, contexts, seed)
        line = f"{name:8s} {time.perf_counter() - started:5.1f} s"
        for kind in ("restricted", "stein", "first_order"):
            a, b = estimators.halves(traces, kind=kind)
            found = estimators.estimate(traces, kind=kind)
            spread, error = found.value.std(), found.standard_error.mean()
            line += f" | {kind} r {np.corrcoef(a, b)[0, 1]:.2f} spread {spread:.1e} error {error:.1e}"
        print(line, flush=True)


if __name__ == "__main__":
    main()
