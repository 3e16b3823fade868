"""Benchmarks: one file per idea, which only sets up; one harness, which measures."""
