"""The version of electra_kernels; it stands here alone."""

__version__ = "0.1.0"
