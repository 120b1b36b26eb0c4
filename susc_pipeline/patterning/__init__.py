"""From a wanted change of observables to weights of documents: the inverse of the susceptibilities. Nothing is imported here."""
