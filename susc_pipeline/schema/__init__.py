"""The Polars schema of every stored table: the only place where column names are spelled.

Tables stand by stage in the files beside this one, which hands on their names. Paths are in resources/storage.py. A token is
keyed by its context and its position there; its loss and its susceptibility are those of predicting it from the tokens before
it. Losses are in nats.
"""

from susc_pipeline.schema.cluster_tables import (
    AGREEMENT,
    CLUSTER_CONTROL_MATCHES,
    CLUSTER_CONTROLS,
    CLUSTER_INTERVENTIONS,
    CLUSTER_PROFILES,
    CLUSTERS,
    LABELS,
    LAYOUT,
    MEMBERS,
    NOT_MADE,
    REPRODUCIBILITY,
)
from susc_pipeline.schema.component_tables import (
    CALIBRATION,
    CHAIN_DIAGNOSTICS,
    CHAIN_PRODUCTS,
    COMPONENTS,
    CONTROL,
    DATA_CHANGES,
    DOCUMENT_WEIGHTS,
    OBSERVABLES,
    REGIME,
    RELIABILITY,
    WANTED_CHANGES,
)
from susc_pipeline.schema.frames import (
    StackedTokens,
    check,
    matrix,
    part_of,
    stack,
    token_ids,
    token_key_frame,
    with_token_before,
    with_vectors,
)
from susc_pipeline.schema.meanings import MEANINGS
from susc_pipeline.schema.token_tables import (
    ACTIVATIONS,
    CONTEXTS,
    DOCUMENT_GROUPS,
    DOCUMENTS,
    LOSS,
    POPULATION,
    TOKEN_KEY,
    TRACE_SCALARS,
    loss_traces,
)
from susc_pipeline.schema.views import OF_COMPONENT, VIEWS, View

__all__ = [
    "ACTIVATIONS",
    "AGREEMENT",
    "CALIBRATION",
    "CHAIN_DIAGNOSTICS",
    "CHAIN_PRODUCTS",
    "CLUSTERS",
    "CLUSTER_CONTROLS",
    "CLUSTER_CONTROL_MATCHES",
    "CLUSTER_INTERVENTIONS",
    "CLUSTER_PROFILES",
    "COMPONENTS",
    "CONTEXTS",
    "CONTROL",
    "DATA_CHANGES",
    "DOCUMENTS",
    "DOCUMENT_GROUPS",
    "DOCUMENT_WEIGHTS",
    "LABELS",
    "LAYOUT",
    "LOSS",
    "MEANINGS",
    "MEMBERS",
    "NOT_MADE",
    "OBSERVABLES",
    "OF_COMPONENT",
    "POPULATION",
    "REGIME",
    "RELIABILITY",
    "REPRODUCIBILITY",
    "TOKEN_KEY",
    "TRACE_SCALARS",
    "VIEWS",
    "WANTED_CHANGES",
    "StackedTokens",
    "View",
    "check",
    "loss_traces",
    "matrix",
    "part_of",
    "stack",
    "token_ids",
    "token_key_frame",
    "with_token_before",
    "with_vectors",
]
