"""Formats of labelled files: each reads examples, and writes the same file again with predictions."""
