"""From points to clusters: k-NN graph, local PageRank, sweep cut, and the search over seeds. Nothing is imported here."""
