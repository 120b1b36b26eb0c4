"""The stored tables as the warehouse shows them: columns and what they mean."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from susc_pipeline.schema.cluster_tables import (
    AGREEMENT,
    CLUSTER_CONTROL_MATCHES,
    CLUSTER_CONTROLS,
    CLUSTER_INTERVENTIONS,
    CLUSTER_PROFILES,
    CLUSTERS,
    LABELS,
    MEMBERS,
    REPRODUCIBILITY,
)
from susc_pipeline.schema.component_tables import (
    CHAIN_DIAGNOSTICS,
    COMPONENTS,
    CONTROL,
    DATA_CHANGES,
    DOCUMENT_WEIGHTS,
    OBSERVABLES,
    REGIME,
    RELIABILITY,
    WANTED_CHANGES,
)
from susc_pipeline.schema.meanings import MEANINGS
from susc_pipeline.schema.token_tables import ACTIVATIONS, CONTEXTS, DOCUMENT_GROUPS, LOSS, POPULATION, TOKEN_KEY


class View(NamedTuple):
    """A stored table as the warehouse shows it; `meanings` are of columns that mean something else elsewhere."""

    meaning: str
    columns: tuple[str, ...]
    meanings: Mapping[str, str] = MappingProxyType({})

    def of(self, column: str) -> str:
        """What a column of the view means."""
        return self.meanings[column] if column in self.meanings else MEANINGS[column]


OF_COMPONENT = {
    "component": "number of the component, from 0: its place in every vector over components",
    "name": "of the component, such as L2H0, L2KV0, L2MLP, embed; to be shown, not taken apart",
    "kind": "head, key_value (keys and values that heads share), mlp, embed or unembed",
    "layer": "layer of the component, from 0; missing for embed and unembed",
    "head": "number of the head in its layer, or of the group of heads that a key_value serves; missing otherwise",
}
OF_DATA_CHANGE = {
    **OF_COMPONENT,
    "data_change": "name of the data change in the experiment",
    "source": "where its tokens are: documents, cluster or file",
    "n_tokens": "tokens of the data change",
    "n_documents": "documents that they are in",
    "susceptibility": "mean linear response of the tokens: the susceptibility of their distribution; nats squared",
    "standard_error": "of the susceptibility, of the chains and over documents together; nats squared",
    "half_width": "half of the 95 % interval: susceptibility - half_width to susceptibility + half_width",
    "chain_error": "standard error of the chains, by halves that share nothing, pooled over data changes, clusters and "
    "components; nats squared",
    "document_error": "standard error over documents, as a sample of all such; missing for one document; nats squared",
}
OF_WANTED_CHANGE = {"wanted_change": "name of the wanted change in the experiment"}
VIEWS = {
    "contexts": View("The texts in tokens, a row for each context of every shard.", tuple(CONTEXTS)),
    "population_contexts": View("Contexts outside all shards, whose mean loss is the observable.", tuple(POPULATION)),
    "vocabulary": View("The text of each token id.", ("token_id", "text")),
    "susceptibilities": View(
        "How each component responds to each ground-truth token.",
        (*TOKEN_KEY, "susceptibility", "standard_error", "half_a", "half_b"),
    ),
    "linear_response": View(
        "Linear response of every token to each component: measured at the trained weights.",
        (*TOKEN_KEY, *LOSS, "linear_response", "half_a", "half_b"),
    ),
    "activations": View("What the auxiliary model reads of each token.", (*TOKEN_KEY, *ACTIVATIONS)),
    "predictions": View(
        "Scores of every token, by linear response or by the auxiliary model as the experiment says.",
        (*TOKEN_KEY, *LOSS, "prediction"),
    ),
    "whitened": View("Predicted scores after whitening: the points that are clustered.", (*TOKEN_KEY, "whitened")),
    "reliability": View(
        "How well the draws determine each component and each principal component.", tuple(RELIABILITY)
    ),
    "aux_correlation": View(
        "How well the auxiliary model and linear response give each principal component of withheld documents.",
        (
            *("pc", "r", "low", "high", "linear_response_r", "linear_response_low", "linear_response_high"),
            *("ceiling", "null_95", "ridge_r"),
        ),
    ),
    "leakage": View(
        "How much of the activations is in measured and in predicted susceptibilities, layer by layer.",
        (
            *("space", "layer", "cka", "cka_low", "cka_high", "cka_chance", "cka_chance_high"),
            *("jaccard", "jaccard_low", "jaccard_high", "jaccard_chance"),
        ),
    ),
    "components": View(
        "Every component that is shaken: what it is, how well it is measured, and what decides its susceptibilities.",
        tuple(COMPONENTS),
        {
            **OF_COMPONENT,
            "reliability": "of sampled susceptibilities by all draws: squared correlation with what endless chains would give",
            "mean": "mean of the sampled susceptibilities over the tokens of the basis; nats squared",
        },
    ),
    "component_values": View(
        "The response of every token to every component, a row for each pair.",
        (
            *("context_id", "position", "document_id", "token_id", "token", "loss"),
            *("component", "name", "kind", "layer", "head"),
            *("measured", "measured_error", "linear_response", "linear_response_error", "predicted"),
            *("measured_z", "measured_error_z", "linear_response_z", "linear_response_error_z", "predicted_z"),
        ),
        OF_COMPONENT,
    ),
    "negative_control": View(
        "Whether susceptibilities are the derivative of the mean excess loss by n_beta.", tuple(CONTROL)
    ),
    "regime": View("What decides the susceptibilities of each component, the loss or the Gaussian.", tuple(REGIME)),
    "chain_diagnostics": View(
        "Whether the chains of each component can be believed, and its LLC: by shard, and where no shard is named of the chains "
        "that found the response directions.",
        tuple(CHAIN_DIAGNOSTICS),
        {
            "shard": "whose tokens the chains measured; missing for the chains that found the response directions",
            "contexts": "population contexts that the chains read; of response directions alone",
        },
    ),
    "clusters": View("The clusters, by rising conductance.", tuple(CLUSTERS)),
    "cluster_members": View("The tokens of each cluster, most central first.", tuple(MEMBERS)),
    "cluster_profiles": View(
        "How each cluster responds to each component: mean and error, a row for each pair.",
        tuple(CLUSTER_PROFILES),
        {
            **OF_COMPONENT,
            "mean": "mean predicted response of the members; standard deviations over tokens, from the mean token",
            "standard_error": "of the mean, over documents and of the chains together; standard deviations over tokens",
        },
    ),
    "cluster_agreement": View(
        "How alike clusterings of the ground-truth tokens are, two spaces a row; only where `make controls` was run.",
        tuple(AGREEMENT),
    ),
    "cluster_reproducibility": View(
        "How many clusters come again from halves that share nothing, and what chance gives; two clusterings a row.",
        tuple(REPRODUCIBILITY),
    ),
    "cluster_controls": View(
        "How many of the clusters other clusterings of the same tokens find too; only where `make controls` was run.",
        tuple(CLUSTER_CONTROLS),
        {
            "clusters": "number of clusters of the control",
            "clustered_tokens": "tokens in them",
            "tokens": "tokens that the control clusters: all, or those of the ground-truth shards",
            "run_clusters": "clusters of the run with at least clustering.min_size of these tokens: those that it can find",
        },
    ),
    "cluster_control_matches": View(
        "Which control finds which cluster; only where `make controls` was run.",
        tuple(CLUSTER_CONTROL_MATCHES),
        {"jaccard": "largest Jaccard index of the cluster with one of the control; 1/2 or more: the control finds it"},
    ),
    "cluster_interventions": View(
        "What happens to the tokens of a cluster, beside tokens of the same string, when its component is changed; only where "
        "`make controls` was run.",
        tuple(CLUSTER_INTERVENTIONS),
        {"component": "the one to which the cluster's mean response is strongest"},
    ),
    "data_changes": View(
        "How each component responds to each distribution of tokens that the experiment names; only where it names some.",
        tuple(DATA_CHANGES),
        OF_DATA_CHANGE,
    ),
    "observable_responses": View(
        "Linear response of every token by the directions of each observable; only where the experiment names some.",
        (*TOKEN_KEY, "response", "half_a", "half_b"),
        {
            "response": "of each observable to each component, those of the first observable first; nats times its unit",
            "half_a": "the same by even chains; nats times the observable's unit",
            "half_b": "the same by odd chains; nats times the observable's unit",
        },
    ),
    "observables": View(
        "How each observable that the experiment names responds to each data change and each cluster; only where it names some.",
        tuple(OBSERVABLES),
        {
            **OF_DATA_CHANGE,
            "observable": "name of the observable in the experiment",
            "susceptibility": "mean response of the tokens by the directions of the observable; nats times its unit",
            "standard_error": "of it, of the chains and over documents together; nats times the unit",
            "chain_error": "standard error of the chains, by halves that share nothing, pooled over data changes, clusters and "
            "components; nats times the unit",
            "document_error": "standard error over documents, as a sample of all such; missing for one document",
        },
    ),
    "wanted_changes": View(
        "What each wanted change asks of every component's loss, and what the weights of documents are predicted to do to it; "
        "only where the experiment names some.",
        tuple(WANTED_CHANGES),
        {
            **OF_COMPONENT,
            **OF_WANTED_CHANGE,
            "role": "asked: its loss is to change; kept: it is to stay; free: it may do what it will",
            "wanted": "wanted change of the population's mean loss under the component's posterior; missing where free; nats",
            "predicted": "change that the weights are predicted to make, less what was fitted to noise; nats",
            "standard_error": "of the predicted change, from the noise of the responses as if independent by document; at least "
            "half the difference of the changes that the two halves predict; nats",
            "n_documents": "documents that have a weight",
            "n_clipped": "weights that would be below zero and are zero",
            "reachable_share": "share of the wanted change, squared and in units of the noise, that can be reached; 0 to 1",
            "unclipped_share": "largest multiple of the wanted change that needs no weight below zero",
        },
    ),
    "document_weights": View(
        "The weight of every document for each wanted change; only where the experiment names some.",
        tuple(DOCUMENT_WEIGHTS),
        {
            **OF_WANTED_CHANGE,
            "n_tokens": "predicted tokens of the document that were measured",
            "weight": "of the document's loss in training; not negative, mean one",
            "standard_error": "of the weight before clipping, from the noise of the responses as if independent by document",
        },
    ),
    "document_groups": View("Which documents are near duplicates of each other.", tuple(DOCUMENT_GROUPS)),
    "cluster_labels": View(
        "What each cluster is, in words, with the score of the words on documents that they were not learned on.",
        tuple(LABELS),
        {
            "precision": "share of the tokens that the label takes that are members, on the held-out half of the documents",
            "recall": "share of the members that the label takes, on the held-out half of the documents",
            "n_documents": "documents with members in the shards, near duplicates counted as one",
            "token_ids": "numbers of the most frequent tokens of the cluster, at most 20",
        },
    ),
    "member_contexts": View(
        "The tokens of each cluster as text.",
        ("cluster", "rank", "token", "before", "after", "document_id", "context_id", "position", "shard"),
    ),
}
