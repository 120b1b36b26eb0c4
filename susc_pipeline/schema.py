"""The Polars schema of every stored table: the only place where column names are spelled.

Paths are in resources/storage.py. A token is keyed by its context and its position there; its loss and its
susceptibility are those of predicting it from the tokens before it. Losses are in nats.
"""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
import polars as pl
from jaxtyping import Float, Int

DOCUMENTS = {
    "document_id": pl.String,
    "n_characters": pl.Int64,
    "sha256": pl.String,  # of the text in UTF-8
}
DOCUMENT_GROUPS = {
    "document_id": pl.String,
    "document_group": pl.Int64,  # documents of one number are near duplicates of each other
}
CONTEXTS = {
    "context_id": pl.Int64,  # unique in the experiment
    "document_id": pl.String,
    "start": pl.Int64,  # tokens of the document before the context
    "token_ids": pl.List(pl.Int32),
}
POPULATION = CONTEXTS | {
    "role": pl.String,  # directions or draws
    "chain": pl.Int32,  # the only one that reads the context
}
TOKEN_KEY = {
    "context_id": pl.Int64,
    "position": pl.Int32,  # from 1: the first token of a context is not predicted
    "document_id": pl.String,
    "token_id": pl.Int32,
}
ACTIVATIONS = ("activation", "loss_gradient")
LOSS = {"loss": pl.Float32}  # of the token at the trained weights
CLUSTERS = {
    "cluster": pl.Int32,
    "size": pl.Int64,
    "volume": pl.Float64,
    "conductance": pl.Float64,
    "density": pl.Float64,
    "reproducibility": pl.Float64,  # best Jaccard index with a cluster by half of the chains, the lesser of both halves
    "found_by_members": pl.Float64,  # share of the members asked whose own cut finds the cluster
    "parent_size": pl.Int64,  # of the smallest larger set that holds it; 0 where there is none
    "pairs": "members, at most 200, each with a token outside the cluster that has the same string and the nearest loss",
    "parent_conductance": pl.Float64,
    "seed_context_id": pl.Int64,
    "seed_position": pl.Int32,
}
MEMBERS = {
    "cluster": pl.Int32,
    "rank": pl.Int32,  # 0 is the most central, by PageRank over degree
    "shard": pl.String,
    "context_id": pl.Int64,
    "position": pl.Int32,
}
LABELS = {
    "cluster": pl.Int32,
    "heading": pl.String,  # tokens with their counts, and the rest of the rule
    "label": pl.String,  # the rule in words, or why there is none
    "token_label": pl.String,  # the best rule that knows the token alone
    "precision": pl.Float64,  # on the half of the document groups that the rule was not learned on, as all scores are
    "recall": pl.Float64,
    "f1": pl.Float64,
    "token_f1": pl.Float64,
    "gain": pl.Float64,  # f1 less token_f1
    "gain_low": pl.Float64,  # of its 95 % interval over document groups
    "gain_high": pl.Float64,
    "n_members_scored": pl.Int64,
    "n_documents_scored": pl.Int64,
    "n_documents": pl.Int64,  # with members, near duplicates as one
    "n_tokens": pl.Int64,  # different ones
    "token_ids": pl.List(pl.Int32),  # of at most 20 tokens, by falling number of members
    "token_members": pl.List(pl.Int64),
    "token_occurrences": pl.List(pl.Int64),  # in all shards
}
AGREEMENT = {
    "first": pl.String,  # a clustering, by the space that it was found in
    "second": pl.String,
    "first_clusters": pl.Int64,
    "second_clusters": pl.Int64,
    "adjusted_rand_index": pl.Float64,  # unclustered tokens count as one more cluster of each
    "first_matched": pl.Float64,  # share of the first's clusters that have a match of Jaccard 1/2 in the second
    "second_matched": pl.Float64,
}
REPRODUCIBILITY = {
    "first": pl.String,  # a clustering: by all chains, or by either half
    "second": pl.String,
    "is_chance": pl.Boolean,  # the second's labels permuted among the occurrences of each token
    "first_clusters": pl.Int64,
    "second_clusters": pl.Int64,
    "first_matched": pl.Float64,  # share of the first's clusters that have a match of Jaccard 1/2 in the second
    "second_matched": pl.Float64,
    "adjusted_mutual_information": pl.Float64,  # over all tokens; unclustered ones count as one more cluster
}
CLUSTER_CONTROLS = {
    "control": pl.String,  # a clustering of the same tokens
    "knows": pl.String,  # what its vectors are made of: text, activations, gradients, other weights or susceptibilities
    "clusters": pl.Int64,
    "clustered_tokens": pl.Int64,
    "matched": pl.Float64,  # share of the run's clusters with a cluster of the control of Jaccard index 1/2 or more
    "matched_low": pl.Float64,
    "matched_high": pl.Float64,
    "matched_by_chance": pl.Float64,  # the control's labels permuted among the occurrences of each token
    "matched_beyond": pl.Float64,  # (matched - by chance) / (1 - by chance)
    "matched_beyond_low": pl.Float64,
    "matched_beyond_high": pl.Float64,
    "information": pl.Float64,  # adjusted mutual information over all tokens; unclustered ones count as one more cluster
    "information_low": pl.Float64,
    "information_high": pl.Float64,
    "information_by_chance": pl.Float64,
    "information_beyond": pl.Float64,
    "information_beyond_low": pl.Float64,
    "information_beyond_high": pl.Float64,
}
CLUSTER_CONTROL_MATCHES = {
    "cluster": pl.Int32,
    "control": pl.String,
    "jaccard": pl.Float64,  # the largest with a cluster of the control
    "partner": pl.Int32,  # that cluster's number in the control; -1 where none overlaps
}
CLUSTER_INTERVENTIONS = {
    "cluster": pl.Int32,
    "component": pl.String,  # the one to which the cluster's mean response is strongest
    "intervention": pl.String,
    "pairs": pl.Int64,  # of a member with a token outside of the same string and the nearest loss
    "response_difference": pl.Float64,
    "loss_change_members": pl.Float64,
    "loss_change_outside": pl.Float64,
    "loss_change_difference_z": pl.Float64,
    "loss_change_error_z": pl.Float64,
    "token_correlation": pl.Float64,
    "weight_cosine": pl.Float64,
}
NOT_MADE = {"reason": pl.String}  # the one row of a control that could not be made, in place of its members
LAYOUT = {
    "shard": pl.String,
    "context_id": pl.Int64,
    "position": pl.Int32,
    "x": pl.Float32,  # of no unit: only nearness on the map means something
    "y": pl.Float32,
}
CALIBRATION = {
    "component": pl.String,
    "step_size": pl.Float64,
    "n_beta": pl.Float64,
    "localization": pl.Float64,
    "curvature": pl.Float64,  # largest Hessian eigenvalue at the trained weights, from below
    "max_step_size": pl.Float64,  # what the curvature allows; larger steps are divided
    "r_hat": pl.Float64,  # of the mean loss
    "effective_share": pl.Float64,  # effective sample size over the number of draws
    "rise": pl.Float64,  # of the mean loss over that at the trained weights, in nats
    "llc": pl.Float64,
    "llc_error": pl.Float64,
    "acceptance": pl.Float64,  # of a Metropolis test of the step
    "rise_reliability": pl.Float64,  # of what the chains add to linear responses, on measured tokens, by all chains
    "verdict": pl.String,
    "remedy": pl.String,
}
CONTROL = {
    "component": pl.String,
    "correlation": pl.Float64,  # over tokens, of n_beta times the susceptibility with the change of the mean excess loss
    "reliability": pl.Float64,  # of the susceptibility, same tokens
    "control_reliability": pl.Float64,  # of the change
    "disattenuated": pl.Float64,  # the correlation without sampling noise
    "slope": pl.Float64,  # change over n_beta times susceptibility
    "slope_error": pl.Float64,
}
REGIME = {
    "component": pl.String,
    "n_beta": pl.Float64,  # a row for each one tried
    "localization": pl.Float64,
    "n_weights": pl.Int64,
    "curvature": pl.Float64,  # largest Hessian eigenvalue at the trained weights, from below
    "llc": pl.Float64,
    "llc_error": pl.Float64,
    "controlled_share": pl.Float64,  # 2 llc / n_weights
    "r_hat": pl.Float64,  # of the rise of the loss, over steps of pairs of chains
    "effective_share": pl.Float64,  # effective sample size over the number of steps
    "prior_correlation": pl.Float64,  # of linear responses with those at n_beta = 0, sampling noise taken off
    "prior_slope": pl.Float64,  # linear response over that at n_beta = 0
}
CHAIN_PRODUCTS = {
    "component": pl.String,
    "chain": pl.Int16,
    "other_chain": pl.Int16,
    "product": pl.Float64,  # sum over the shard's tokens of the two chains' estimates, each less its mean
}
RELIABILITY = {
    "kind": pl.String,  # component or pc
    "name": pl.String,
    "half_correlation": pl.Float64,
    "reliability": pl.Float64,  # Spearman-Brown corrected, of all draws
    "low": pl.Float64,  # of the reliability's 95 % interval over chains; missing for principal components
    "high": pl.Float64,
    "ceiling": pl.Float64,  # square root of reliability
}
COMPONENTS = {
    "component": pl.Int32,  # place among the components, and among the entries of every vector over components
    "name": pl.String,  # to be shown; what it is stands in the next three columns
    "kind": pl.String,  # head, key_value, mlp, embed or unembed
    "layer": pl.Int32,  # from 0; missing for embed and unembed
    "head": pl.Int32,  # of a head its number, of a key_value its group's; missing otherwise
    "n_weights": pl.Int64,
    "reliability": pl.Float64,  # of sampled susceptibilities, by all draws
    "reliability_low": pl.Float64,  # of its 95 % interval over chains
    "reliability_high": pl.Float64,
    "llc": pl.Float64,  # missing at n_beta = 0
    "llc_error": pl.Float64,
    "curvature": pl.Float64,
    "loss_pull": pl.Float64,  # n_beta curvature / localization
    "controlled_share": pl.Float64,  # 2 llc / n_weights
    "mean": pl.Float64,  # of the sampled susceptibilities behind the basis, nats squared
    "standard_deviation": pl.Float64,
    "share_of_variance": pl.Float64,
    "loadings": pl.List(pl.Float64),  # on each principal component, in standard deviations per unit of score
}


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
    "clusters": View("The clusters, by rising conductance.", tuple(CLUSTERS)),
    "cluster_members": View("The tokens of each cluster, most central first.", tuple(MEMBERS)),
    "cluster_agreement": View(
        "How alike clusterings of the ground-truth tokens are, two spaces a row.", tuple(AGREEMENT)
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
MEANINGS = {
    "activation": "residual stream after the chosen layers, one after another; no unit",
    "adjusted_mutual_information": "1 for equal clusterings, 0 on average for unrelated ones, over all tokens",
    "adjusted_rand_index": "1 for equal clusterings, about 0 for unrelated ones; unclustered tokens count as one more cluster",
    "after": "text of the five tokens behind",
    "before": "text of at most 15 tokens before",
    "ceiling": "largest correlation that noise allows: the square root of the reliability",
    "chain": "number of the chain that reads the context; even chains make half a, odd ones half b",
    "cka": "linear CKA with the activations, 0 to 1",
    "cka_chance": "mean CKA after the tokens are permuted",
    "cka_chance_high": "97.5 % point of the CKA after the tokens are permuted",
    "cka_high": "upper end of its 95 % interval over documents",
    "cka_low": "lower end of its 95 % interval over documents",
    "cluster": "number of the cluster, from 0 by rising conductance",
    "component": "such as L2H0, L2MLP, embed, unembed",
    "conductance": "leaving / (leaving + staying) edge weight, 0 to 1",
    "context_id": "number of the context, unique in the experiment",
    "control": "a clustering of the same tokens by other vectors, or by other chains",
    "control_reliability": "of the change of the mean excess loss from n_beta 0, from halves that share nothing",
    "controlled_share": "share of the weights' directions that the loss controls, not the Gaussian: 2 llc / n_weights",
    "correlation": "Pearson r over tokens of the susceptibility with the change of the mean excess loss from n_beta 0",
    "curvature": "largest eigenvalue of the loss's Hessian at the trained weights, from below; nats per squared weight",
    "density": "edge weight among the members, over the number of their pairs",
    "disattenuated": "the same correlation without sampling noise; chance can push it past 1",
    "document_group": "number of the group of near duplicates: documents of one number are nearly the same",
    "document_id": "name of the document",
    "effective_share": "independent draws among the steps of the chains; 0 to 1",
    "f1": "2 hits / (tokens taken + members) of the label, on the held-out half of the documents; 0 to 1",
    "first": "a clustering, by the space or the chains that it was found in",
    "first_clusters": "number of clusters of the first",
    "first_matched": "share of the first's clusters with a match of Jaccard index 1/2 or more in the second",
    "found_by_members": "share of eight members, evenly spaced from core to edge, whose own cut finds the cluster; 0 to 1",
    "gain": "f1 less token_f1: what the context says beyond the token's text; above 0 the label beats it",
    "gain_high": "upper end of the 95 % interval of gain, over held-out documents (jackknife)",
    "gain_low": "lower end of the 95 % interval of gain, over held-out documents (jackknife)",
    "half_a": "the same by even chains, which share no context and no draw with odd ones; nats squared",
    "half_b": "the same by odd chains; nats squared",
    "half_correlation": "Pearson r over tokens between the halves of the chains",
    "heading": "tokens of the cluster with members and occurrences; the rest of the label where it beats the token's text",
    "high": "upper end of the 95 % interval, over documents for r, over chains for a reliability",
    "information": "adjusted mutual information with the control over all tokens; unclustered ones are one more cluster",
    "information_beyond": "information corrected for chance, (information - by chance) / (1 - by chance): 0 is chance, 1 all",
    "information_beyond_high": "upper end of the 95 % interval of information_beyond, over documents",
    "information_beyond_low": "lower end of the 95 % interval of information_beyond, over documents",
    "information_by_chance": "the same after the control's labels are permuted among the occurrences of each token",
    "information_high": "upper end of the 95 % interval of information, over documents",
    "information_low": "lower end of the 95 % interval of information, over documents",
    "intervention": "what is done to the component: its output replaced by its mean, or all its weights times a factor",
    "is_chance": "whether the second's labels are permuted among the occurrences of each token: what chance gives",
    "jaccard": "mean Jaccard index of nearest neighbours with those by activations, 0 to 1",
    "jaccard_chance": "expectation of that index for random neighbours",
    "jaccard_high": "upper end of its 95 % interval over documents",
    "jaccard_low": "lower end of its 95 % interval over documents",
    "kind": "component or pc",
    "knows": "what the control is made of: text, activations, gradients, other weights or susceptibilities",
    "label": "the rule over a token's context that tells members best from other tokens, in words; or why there is none",
    "layer": "layer behind which the activations are, counted from 1",
    "linear_response": "minus the slope of the token's excess loss at w* along each response direction, and its f2; nats squared",
    "linear_response_error": "half of the difference of the linear responses by either half of the chains; nats squared",
    "linear_response_error_z": "linear_response_error in standard deviations over tokens",
    "linear_response_high": "upper end of the 95 % interval of linear_response_r, over documents",
    "linear_response_low": "lower end of the 95 % interval of linear_response_r, over documents",
    "linear_response_r": "Pearson r of linear response with measured scores on withheld documents",
    "linear_response_z": "linear_response in standard deviations over tokens, from the mean token",
    "llc": "local learning coefficient, n_beta times the mean rise of the loss; no unit",
    "llc_error": "standard error of llc, from the spread between pairs of mirrored chains",
    "loadings": "what a score of one on each principal component adds to the component; standard deviations over tokens",
    "localization": "strength of the Gaussian pull to the trained weights, per squared weight",
    "loss": "of the token at the trained weights, given the tokens before it; nats",
    "loss_change_difference_z": "members less tokens outside, in standard deviations over the tokens of their contexts",
    "loss_change_error_z": "standard error of that difference over pairs, clustered by document",
    "loss_change_members": "mean change of the loss of the members of the pairs; nats",
    "loss_change_outside": "mean change of the loss of the tokens outside; nats",
    "loss_gradient": "gradient of the token's loss by the last residual of the position before; nats per unit of it",
    "loss_pull": "n_beta curvature / localization: below 1 the Gaussian holds the weights more than the loss, in every direction",
    "low": "lower end of the 95 % interval, over documents for r, over chains for a reliability",
    "matched": "share of the clusters with a cluster of the control of Jaccard index 1/2 or more; 0 to 1",
    "matched_beyond": "matched corrected for chance, (matched - by chance) / (1 - by chance): 0 is chance, 1 all",
    "matched_beyond_high": "upper end of the 95 % interval of matched_beyond, over documents",
    "matched_beyond_low": "lower end of the 95 % interval of matched_beyond, over documents",
    "matched_by_chance": "the same after the control's labels are permuted among the occurrences of each token",
    "matched_high": "upper end of the 95 % interval of matched, over documents",
    "matched_low": "lower end of the 95 % interval of matched, over documents",
    "measured": "sampled susceptibility; missing where the token was not sampled; nats squared",
    "measured_error": "standard error of measured, over chains; nats squared",
    "measured_error_z": "measured_error in standard deviations over tokens",
    "measured_z": "measured in standard deviations over tokens, from the mean token",
    "n_beta": "inverse temperature times samples: weight of the mean loss, per nat",
    "n_documents_scored": "held-out documents with members, near duplicates counted as one",
    "n_members_scored": "members in the held-out half of the documents, which the score is of",
    "n_tokens": "different tokens among the members",
    "n_weights": "number of weights of the component",
    "name": "of the component or principal component; components in the order of the entries of susceptibility",
    "null_95": "95 % point of r when documents are permuted",
    "pairs": "members, at most 200, each with a token outside the cluster that has the same string and the nearest loss",
    "parent_conductance": "conductance of the parent: the cluster's surroundings, at the larger scale",
    "parent_size": "tokens of the smallest larger set that holds four fifths of the cluster and passes the same rules; 0: none",
    "partner": "number of the cluster of the control that it matches best; -1 where none overlaps",
    "pc": "number of the principal component, from 1",
    "position": "of the token in its context, from 0; position 0 is not predicted",
    "predicted": "what the token's principal scores say of the component; nats squared",
    "predicted_z": "predicted in standard deviations over tokens, from the mean token",
    "prediction": "score on each principal component of z-scored susceptibilities; standard deviations",
    "prior_correlation": "correlation over tokens of linear responses with those of chains at n_beta 0, without sampling noise",
    "prior_slope": "linear response over that of chains at n_beta 0; below 1 where the loss holds the weights back",
    "r": "Pearson r of predicted with measured scores on withheld documents",
    "r_hat": "split R-hat of the rise of the loss: near 1 where chains agree",
    "rank": "of the member in its cluster; 0 is the most central, by PageRank over degree",
    "reliability": "squared correlation with what endless chains would give, from halves (Spearman-Brown)",
    "response_difference": "mean linear response of members less that of tokens outside, in standard deviations over all tokens",
    "reliability_high": "upper end of its 95 % interval, over chains",
    "reliability_low": "lower end of its 95 % interval, over chains",
    "reproducibility": "largest Jaccard index with a cluster by half of the chains alone, the lesser of both halves; 0 to 1",
    "ridge_r": "the same r for ridge regression",
    "role": "directions or draws: what the chain reads the context for",
    "second": "the other clustering",
    "second_clusters": "number of clusters of the second",
    "second_matched": "share of the second's clusters with a match in the first",
    "seed_context_id": "context of the token whose cut is the cluster",
    "seed_position": "position of that token",
    "shard": "token shard that the context is in",
    "share_of_variance": "share of the components' summed variance over tokens, of sampled susceptibilities; 0 to 1",
    "size": "number of tokens",
    "slope": "change of the mean excess loss from n_beta 0, over n_beta times the susceptibility; 1 where the response is linear",
    "slope_error": "standard error of slope, over the chains of the control",
    "space": "ground_truth or prediction",
    "standard_deviation": "of the sampled susceptibilities over the tokens of the basis, noise included; nats squared",
    "standard_error": "of the susceptibility, over chains; nats squared",
    "start": "number of tokens of the document before the context",
    "susceptibility": "minus the covariance of the component's loss with the token's, an entry for each component; nats squared",
    "text": "of the token, unreadable bytes as hexadecimal in angle brackets",
    "token": "text of the token",
    "token_correlation": "Pearson r over tokens of the response to the component with the change of the loss",
    "token_f1": "the same of token_label",
    "token_id": "number of the token in the vocabulary",
    "token_ids": "the tokens of the context, in order",
    "token_label": "the best rule that knows the token's text alone, in words",
    "token_members": "of each of token_ids the number of members",
    "token_occurrences": "of each of token_ids the number of occurrences in all shards",
    "volume": "sum of the members' weighted degrees",
    "weight_cosine": "cosine of the response direction with the component's weights; above 0 it asks for smaller ones",
    "whitened": "score along each kept direction; standard deviations over tokens",
}


TRACE_SCALARS = ("mean_loss", "rest_loss", "reference_rise", "score", "mean_slope", "mean_own_slope", "mean_curvature")


def loss_traces(widths: Mapping[str, int]) -> dict[str, object]:
    """Losses under every draw of one component's chains: a row is a draw; what was not measured has width 0 and no column."""
    return {
        "component": pl.String,
        "chain": pl.Int16,
        "mirror": pl.Int8,  # 1 for the image of a chain whose noise has the opposite sign
        "draw": pl.Int32,
        "step": pl.Int32,
        **dict.fromkeys(TRACE_SCALARS, pl.Float64),
        **{name: pl.Array(pl.Float32, width) for name, width in widths.items() if width},
    }


def token_key_frame(contexts: pl.DataFrame) -> pl.DataFrame:
    """The keys of every predicted token of a table of contexts, a context after another."""
    exploded = contexts.select("context_id", "document_id", "token_ids").with_columns(
        position=pl.int_ranges(pl.col("token_ids").list.len(), dtype=pl.Int32)
    )
    tokens = exploded.explode("token_ids", "position").filter(pl.col("position") > 0)
    return tokens.select("context_id", "position", "document_id", pl.col("token_ids").alias("token_id"))


def with_token_before(keys: pl.DataFrame, contexts: pl.DataFrame) -> pl.DataFrame:
    """The keys of predicted tokens, in their order, with the id of the token before each as `token_before`."""
    every = contexts.select("context_id", pl.col("token_ids").alias("token_before"))
    places = every.with_columns(position=pl.int_ranges(1, pl.col("token_before").list.len() + 1, dtype=pl.Int32))
    before = places.explode("token_before", "position")
    return keys.join(before, on=["context_id", "position"], how="left", maintain_order="left")


def part_of(frame: pl.LazyFrame, column: str, number: int, n_parts: int) -> Float[np.ndarray, "tokens width"]:
    """One of the equal parts of which the vectors of a column are made, numbered from 0: of activations, a layer."""
    kind = frame.collect_schema()[column]
    width = kind.shape[0] // n_parts if isinstance(kind, pl.Array) else 0
    return matrix(frame.select(pl.col(column).arr.slice(number * width, width, as_array=True)).collect()[column])


def token_ids(contexts: pl.DataFrame) -> Int[np.ndarray, "contexts positions"]:
    """Token ids of a table of contexts, which all have one length."""
    return np.asarray(contexts["token_ids"].to_list(), dtype=np.int64)


def matrix(column: pl.Series, dtype: type[np.floating] = np.float32) -> Float[np.ndarray, "rows width"]:
    """The vectors of an Array column as a matrix."""
    return column.to_numpy().astype(dtype, copy=False)


def with_vectors(
    keys: pl.DataFrame, *, half_precision: bool = False, **columns: Float[np.ndarray, "tokens _"]
) -> pl.DataFrame:
    """The keys with one Array column for each matrix given by name.

    Raises:
        ValueError: a matrix has another number of rows than the keys, or a value that is not finite.
    """
    series = []
    for name, values in columns.items():
        if len(values) != keys.height:
            raise ValueError(f"{name} must have one row for each of {keys.height} tokens, got {len(values)} rows")
        with np.errstate(over="ignore"):
            precise = values.astype(np.float16 if half_precision else np.float32)
        if not np.isfinite(precise).all():
            n_bad = int(np.sum(~np.isfinite(precise).all(axis=1)))
            raise ValueError(
                f"{name} must be finite as {precise.dtype}, got {n_bad} tokens with nan or infinity; nothing was stored"
            )
        element = pl.Float16 if half_precision else pl.Float32
        series.append(pl.Series(name, precise, dtype=pl.Array(element, values.shape[1])))
    return keys.with_columns(series)


class StackedTokens(NamedTuple):
    """Per-token tables of several shards laid end to end, in order of shard."""

    shard: pl.Series
    keys: pl.DataFrame
    values: Float[np.ndarray, "tokens width"]


def stack(frames: dict[str, pl.LazyFrame], column: str) -> StackedTokens:
    """The vectors under `column` of every shard; sorted by shard, for no order of loading may change a number."""
    shards = sorted(frames)
    loaded = [frames[shard].select(*TOKEN_KEY, column).collect() for shard in shards]
    names = pl.concat(
        [pl.Series("shard", [shard] * frame.height, dtype=pl.String) for shard, frame in zip(shards, loaded)]
    )
    keys = pl.concat([frame.select(*TOKEN_KEY) for frame in loaded])
    return StackedTokens(names, keys, np.concatenate([matrix(frame[column]) for frame in loaded]))


def check(frame: pl.DataFrame | pl.LazyFrame, columns: Sequence[str], where: str) -> None:
    """Refuse a table that lacks one of the columns: it was written by something else, or by an older version."""
    present = frame.collect_schema().names()
    missing = [column for column in columns if column not in present]
    if missing:
        raise ValueError(f"{where} lacks the columns {missing} and has {present}; materialize it again")
