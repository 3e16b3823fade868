"""The specification: every op in plain PyTorch, on any device. Every other back end has to agree with it.

``linear_cross_entropy_sample`` is `cross_entropy_sample` of ``hidden @ weight.T + bias``: `backends.linear_head` has
its loop over chunks, and ``mlm_head`` the two row kernels that the loop calls.
"""
