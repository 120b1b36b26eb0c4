"""Files of the map: its points, the landmarks of its clusters, and the values by which points can be coloured."""

from pathlib import Path

import numpy as np
import polars as pl

from susc_pipeline.buckets import Buckets
from susc_pipeline.explorer import landmarks, payload
from susc_pipeline.explorer import numbering as corpus_module
from susc_pipeline.explorer.numbering import Corpus, Shards
from susc_pipeline.representation.pca import PCABasis

MAX_LABELS = 2000


def write(
    data: Path,
    layout: pl.DataFrame,
    shards: Shards,
    corpus: Corpus,
    members: Buckets,
    basis: PCABasis,
    headings: list[str],
) -> None:
    """Write places, tokens and clusters of the points, the landmarks, and a file for each PC and component.

    Args:
        data: folder of the site's data.
        layout: of schema.LAYOUT.
        shards: tables by shard.
        corpus: numbers of the contexts.
        members: corpus.MEMBER rows by shard.
        basis: axes of the components.
        headings: of each cluster.
    """
    numbers = corpus.contexts.select("context_id", "context")
    points = layout.join(numbers, on="context_id", how="left", maintain_order="left")
    token = points["context"].to_numpy() * corpus.tokens_per_context + points["position"].to_numpy() - 1
    places = points.select("x", "y").to_numpy()
    labels = np.zeros(points.height, np.int32)
    scores = np.zeros((points.height, len(basis.components)), np.float32)
    first = 0
    for part in corpus_module.tokens(shards, corpus, members):
        chosen = np.flatnonzero((token >= first) & (token < first + part.clusters.size))
        labels[chosen] = part.clusters.ravel()[token[chosen] - first]
        scores[chosen] = part.scores.reshape(part.clusters.size, -1)[token[chosen] - first]
        first += part.clusters.size
    payload.write(data, "map/places", payload.quantized(places))
    payload.write(data, "map/tokens", payload.packed(token))
    payload.write(data, "map/clusters", payload.packed(labels))
    found = landmarks.landmarks(places, labels)
    value: dict[str, object] = {name: payload.packed(values) for name, values in found._asdict().items()}
    value["words"] = [landmarks.words(headings[cluster]) for cluster in found.cluster[:MAX_LABELS]]
    payload.write(data, "map/landmarks", value)
    for number in range(scores.shape[1]):
        payload.write(data, f"map/pc-{number:04d}", payload.quantized(scores[:, number : number + 1]))
    for number, axis in enumerate(basis.components.T.astype(np.float32)):  # or all scores would be copied, wider
        payload.write(data, f"map/component-{number:04d}", payload.quantized((scores @ axis)[:, None]))
