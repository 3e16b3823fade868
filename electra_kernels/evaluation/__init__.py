"""Figures of a trained model: held-out text, real-word errors, probes, comparison of objectives, report."""
