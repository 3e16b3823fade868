"""The specification: every op in plain PyTorch, on any device. Each other back end has to agree with it."""

from collections.abc import Callable

from electra_kernels.reference import bce, masking, mlm_head, rtd_head, sampling

IMPLEMENTATIONS: dict[str, Callable[..., object]] = {
    function.__name__: function
    for function in (
        masking.mask_tokens,
        sampling.sample_tokens,
        sampling.sample_tokens_backward,
        sampling.replace_tokens,
        sampling.sample_replacements,
        mlm_head.cross_entropy_sample,
        mlm_head.cross_entropy_sample_backward,
        mlm_head.cross_entropy_sample_,
        mlm_head.scale_gradient_,
        mlm_head.linear_cross_entropy_sample,
        mlm_head.linear_cross_entropy_sample_backward,
        bce.masked_bce_with_logits,
        bce.masked_bce_with_logits_backward,
        rtd_head.linear_masked_bce,
        rtd_head.linear_masked_bce_backward,
    )
}
