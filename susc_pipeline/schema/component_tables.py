"""Columns of the tables that say of each component how it was sampled and how well it is measured."""

import polars as pl

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
CHAIN_DIAGNOSTICS = {
    "component": pl.String,
    "shard": pl.String,  # whose tokens the chains measured; missing for the chains that found the response directions
    "n_chains": pl.Int64,  # pairs of mirrored chains
    "n_draws": pl.Int64,  # of each pair
    "r_hat": pl.Float64,  # of the rise of the loss; missing below four draws, as the next two
    "r_hat_limit": pl.Float64,  # what chains that agree exceed once in a thousand
    "bulk_ess": pl.Float64,
    "effective_share": pl.Float64,  # effective sample size (Geyer) over the number of draws
    "llc": pl.Float64,  # missing at n_beta = 0
    "llc_error": pl.Float64,
    "direction_reliability": pl.Float64,  # of linear responses; this and the next two of response directions alone
    "contexts": pl.Int64,
    "contexts_needed": pl.Float64,  # for a reliability of 0.9; infinite where no number of them is enough
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
    "reliability": pl.Float64,  # of all draws: of a component by its chains, of a PC by halves, Spearman-Brown corrected
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
DATA_CHANGES = {
    "data_change": pl.String,  # its name in the experiment
    "source": pl.String,  # where its tokens are
    "component": pl.Int32,  # place among the components
    "name": pl.String,
    "n_tokens": pl.Int64,
    "n_documents": pl.Int64,
    "susceptibility": pl.Float64,  # mean linear response of the tokens, nats squared
    "standard_error": pl.Float64,  # of both sources
    "half_width": pl.Float64,  # of the 95 % interval
    "chain_error": pl.Float64,  # by the halves of the chains, pooled over data changes, clusters and components
    "document_error": pl.Float64,  # over documents; missing where there is but one
}
WANTED_CHANGES = {
    "wanted_change": pl.String,  # its name in the experiment
    "component": pl.Int32,  # place among the components
    "name": pl.String,
    "role": pl.String,  # asked, kept or free
    "wanted": pl.Float64,  # nats; missing where free
    "predicted": pl.Float64,
    "standard_error": pl.Float64,  # of the predicted change
    "n_documents": pl.Int64,
    "n_clipped": pl.Int64,
    "reachable_share": pl.Float64,
    "unclipped_share": pl.Float64,
}
DOCUMENT_WEIGHTS = {
    "wanted_change": pl.String,  # its name in the experiment
    "document_id": pl.String,
    "n_tokens": pl.Int64,
    "weight": pl.Float64,  # not negative, mean one
    "standard_error": pl.Float64,
}
OBSERVABLES = {
    "observable": pl.String,  # its name in the experiment
    **DATA_CHANGES,
}
