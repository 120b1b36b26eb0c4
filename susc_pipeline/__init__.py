"""Susceptibilities of language models: sampling, estimation, representation and clustering, as a library."""
