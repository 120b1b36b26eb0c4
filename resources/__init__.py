"""Where and with what: files, the warehouse, the language model on a device, the experiment file."""
