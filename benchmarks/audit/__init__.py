"""What the compiler says of the Triton kernels at their real shapes, without a GPU: ``python -m benchmarks.audit``.

`cases` calls the ops, `launches` catches what they launch, `compilation` compiles that for GPUs that are not here and
`assembly` reads the result, `gpus` turns it into a predicted time. `traffic` counts the bytes that a kernel asks for,
in Triton's interpreter. `report` joins all and says what is wrong,
`table` shows it.
"""
