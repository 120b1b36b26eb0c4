"""When and from which: the asset graph. Each asset unpacks, calls the core, and returns a value with metadata."""
