"""Localized Langevin chains restricted to one component of a model."""
