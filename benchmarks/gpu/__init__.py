"""``make gpu-check``: all that needs a GPU, in sections of limited time: conformance, compute-sanitizer and benchmarks.

`check` is the command and `plan` lists the sections with their time and memory. `scheduler` runs each section in a
process of its own. There, `sections` dispatches: `proofs` builds and runs the sanitizer, `conformance` runs pytest
(`outcomes` is its plugin), and `measuring` times benchmark cases. `context` knows the device and the results file.
`every_op` is the program under the sanitizer; `throughput` turns the time of a training step into tokens per second.
"""
