#!/usr/bin/env bash
# The whole experiment as a chain of Slurm jobs, from a login node in the checkout:
#   SUSC_EXPERIMENT=pythia-160m SUSC_STORE=/shared/susc deploy/slurm/submit.sh
# A stage begins when every task of the one before has succeeded. To go on after a failure, submit again: what is up to date is
# not made again. An example: it has not been run on a cluster.
set -euo pipefail
: "${SUSC_EXPERIMENT:?name the experiment, such as pythia-160m}"
job=deploy/slurm/shards.sbatch
numbers=$(.venv/bin/python -c 'from resources import experiment; e = experiment.load(); t = e.tokens; print(t.n_shards, t.n_ground_truth_shards, len(e.observables), len(e.data_changes), len(e.wanted_changes))')
read -r shards ground_truth observables data_changes wanted_changes <<<"$numbers"
mkdir -p data/logs
previous=
submit() { # options for sbatch, then --, then assets
    local options=()
    while [ "$1" != -- ]; do options+=("$1"); shift; done
    shift
    previous=$(sbatch --parsable --export=ALL ${previous:+--dependency=afterok:$previous} "${options[@]}" "$job" "$@")
    echo "$previous: $*"
}
submit --gres=none -- language_model corpus_documents population_contexts
submit --gres=none --array="0-$((shards - 1))" -- token_shards
submit -- response_directions
submit --array="0-$((shards - 1))" -- linear_response activations
submit --array="0-$((ground_truth - 1))" -- sgld_samples ground_truth_susceptibilities chain_products
submit -- pca_basis reliability aux_model aux_correlation regime calibration negative_control
submit --array="0-$((shards - 1))" -- predicted_susceptibilities auxiliary_predictions half_a_predictions half_b_predictions
submit --gres=none -- whitening_basis leakage
submit --gres=none --array="0-$((shards - 1))" -- whitened_susceptibilities
submit --gres=none --mem=256G -- knn_graph half_a_knn_graph half_b_knn_graph half_a_cluster_members half_b_cluster_members clusters cluster_reproducibility document_groups cluster_labels map_layout component_table chain_diagnostics cluster_profiles
if [ "$observables" -gt 0 ]; then
    submit -- observable_directions
    submit --array="0-$((shards - 1))" -- observable_responses
    submit -- observable_susceptibilities
fi
if [ "$data_changes" -gt 0 ]; then submit -- data_change_susceptibilities; fi
if [ "$wanted_changes" -gt 0 ]; then submit --gres=none -- wanted_changes document_weights; fi
submit --gres=none -- explorer
