"""The command line ``electra-kernels``: `main`, and one file per command.

`pipeline` and `measurements` are the body of ``pretrain``; `options`, `progress` and `results` serve the commands.
"""
