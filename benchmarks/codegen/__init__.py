"""Checks of the compiled GPU kernels, without a GPU: ``python -m benchmarks.codegen``, or ``make audit``.

`cases` lists calls of the ops at pre-training shapes. `launches` records what the Triton back end would launch for
them, and `compilation` compiles each launch for a GPU that is not here; `triton_kernels` reads the results.
`cuda_kernels` reads every kernel that nvcc has put into the object files. `assembly` parses PTX, SASS and AMD's
assembly, and `report` finds faults and prints the table.
"""
