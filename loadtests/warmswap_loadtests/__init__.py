"""Benchmarks: the server against what it is compared with, side by side in one run."""
