"""Columns of the tables of clusters, their members, labels and controls, and of the map."""

import polars as pl

CLUSTERS = {
    "cluster": pl.Int32,
    "size": pl.Int64,
    "volume": pl.Float64,
    "conductance": pl.Float64,
    "density": pl.Float64,
    "reproducibility": pl.Float64,  # best Jaccard index with a cluster by half of the chains, the lesser of both halves
    "found_by_members": pl.Float64,  # share of the members asked whose own cut finds the cluster
    "parent_size": pl.Int64,  # of the smallest larger set that holds it; 0 where there is none
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
CLUSTER_PROFILES = {
    "cluster": pl.Int32,
    "component": pl.Int32,  # place among the components
    "name": pl.String,
    "n_members": pl.Int64,
    "n_documents": pl.Int64,
    "mean": pl.Float64,  # of the members' predicted responses, in standard deviations over tokens from the mean token
    "standard_error": pl.Float64,  # over documents, and of the chains
    "half_width": pl.Float64,  # of the 95 % interval
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
    "tokens": pl.Int64,  # that it clusters: all, or the sampled ones
    "run_clusters": pl.Int64,  # of the run, with enough of these tokens: those that it can find
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
