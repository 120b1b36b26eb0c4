"""Contexts of the standard library, cut and parted as the pipeline does it: what several benchmarks sample on."""

import sysconfig
from pathlib import Path

from susc_pipeline import corpus, schema, tokens
from susc_pipeline.config import TokenSettings
from susc_pipeline.model.gpt_neox import GPTNeoX
from susc_pipeline.sampling import chains
from susc_pipeline.sampling.chains import SamplingContexts


def sampling_contexts(model: GPTNeoX, tokenizer, settings: TokenSettings) -> SamplingContexts:
    """The first shard, the observable and the minibatches, with their residual streams."""
    documents = tokens.tokenize(corpus.python_standard_library(Path(sysconfig.get_path("stdlib"))), tokenizer)
    reserved = tokens.sampling_contexts(documents, settings, 1)
    roles = {role: schema.token_ids(reserved.filter(role=role)) for role in ("observable", "minibatch")}
    shard = schema.token_ids(tokens.contexts_of_shard(documents, settings, 1, "shard-00000"))
    return chains.sampling_contexts(model, shard=shard, **roles)
