"""What the compilers say of the kernels at their real shapes, without a GPU: ``python -m benchmarks.audit``.

`cases` has the calls of the ops. Triton: `launches` catches what they launch, `compilation` compiles that for GPUs that
are not here. CUDA C++: `recorder` runs the real host functions on a runtime that only records launches, `cuda_kernels`
reads what nvcc has made of those kernels. Of both, `assembly` reads registers, widths and instructions, `phases` says
what a thread does in turns and `routes` what that costs in the compiled code; `gpus` and `prediction` make a time of
it. `traffic` counts the bytes that Triton's kernels ask for, in its interpreter. `report` joins all and says what is
wrong, `table` shows it.
"""
