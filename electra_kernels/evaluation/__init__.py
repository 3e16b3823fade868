"""Evaluation of models: held-out text, real-word errors, probes, comparison of objectives, report."""
