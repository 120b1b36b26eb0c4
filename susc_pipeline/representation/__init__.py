"""From susceptibilities to coordinates: moments, PCA, auxiliary model, whitening, leak checks. Nothing is imported here."""
