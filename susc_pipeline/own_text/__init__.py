"""A text of the reader's own, measured and placed as the corpus was. Serving it is in resources/."""
