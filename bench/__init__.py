"""Benchmarks: each prints its figures beside a bare limit that was measured in the same run."""
