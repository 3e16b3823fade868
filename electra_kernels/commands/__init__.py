"""The command line ``electra-kernels``, one file per command."""
