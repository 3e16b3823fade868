"""Benchmarks, see README.md: one file per op, which only sets up cases, and one harness, which measures them."""
