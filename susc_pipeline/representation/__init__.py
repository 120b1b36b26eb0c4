"""From susceptibilities to coordinates: moments, PCA, the auxiliary model, whitening, leak checks. Nothing is imported here."""
