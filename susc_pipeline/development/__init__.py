"""Checkpoints of one training run side by side: how components, axes and clusters develop. No Dagster, no database."""
