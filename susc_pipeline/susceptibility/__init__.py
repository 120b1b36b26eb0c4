"""From sampled losses to susceptibilities, and how far they can be trusted. Nothing is imported here."""
