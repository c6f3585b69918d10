"""Benchmarks against upstream's sd-cli, run by hand: ``python -m tests.bench``."""
