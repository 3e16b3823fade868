"""The fused losses applied to the head of a Hugging Face model, whatever its last layer is."""

from collections.abc import Callable
from typing import Any, TypeVar

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from transformers import PreTrainedModel

from electra_kernels.integrations.heads import Head, HeadFunction
from electra_kernels.ops import (
    SampledLoss,
    TokenLoss,
    cross_entropy_sample,
    linear_cross_entropy_sample,
    linear_masked_bce,
)

_UNUSED = -100  # target of a slot without a masked token

Loss = TypeVar("Loss", SampledLoss, TokenLoss)


def sampled_loss(
    head: HeadFunction, model: PreTrainedModel, hidden: Tensor, targets: Tensor, **options: Any
) -> SampledLoss:
    """`linear_cross_entropy_sample` with the head of a model.

    If the head does not end with a plain Linear, the result is `cross_entropy_sample` of its logits.

    Args:
        head: the head of ``model``.
        model: a masked language model.
        hidden: [..., T, H], hidden states of the base of the model.
        targets: [..., T] int64.
        options: keywords that both ops have.

    Raises:
        TypeError, ValueError: as the ops.
    """
    if isinstance(head, Head) and not head.ends_with_plain_linear(model):
        return cross_entropy_sample(head.logits(model, hidden), targets, **options)

    def loss(features: Tensor, weight: Tensor, bias: Tensor | None) -> SampledLoss:
        return linear_cross_entropy_sample(features, weight, bias, targets, **options)

    return _with_weights(head, model, hidden, loss)


def shared_sampled_loss(
    head: HeadFunction,
    model: PreTrainedModel,
    hidden: Tensor,
    targets: Tensor,
    mesh: DeviceMesh,
    **options: Any,
) -> SampledLoss:
    """`sampled_loss` with an output layer that the ranks of a mesh share: each computes a slice of the vocabulary.

    The ranks may have different numbers of rows, since each pads its sequences by itself.

    Args:
        head, model, hidden, targets: as for `sampled_loss`, of this rank's rows.
        mesh: of one dimension.
        options: normalizer, uniforms, temperature and ban_original of the op.

    Raises:
        ValueError: there is no normalizer, or the head does not end with a plain Linear.
    """
    if options["normalizer"] is None:
        raise ValueError(
            "num_items_in_batch is None, should be given where ranks share the vocabulary (vocabulary_mesh)"
        )
    if isinstance(head, Head) and not head.ends_with_plain_linear(model):
        raise ValueError(
            f"the head of {type(model).__name__} ends with no plain Linear, as it should where ranks share the "
            "vocabulary (vocabulary_mesh)"
        )
    from electra_kernels.ops._dtensor import shared_vocabulary_sample  # imports torch.distributed.tensor

    count = targets.numel()
    most = torch.tensor(count, device=targets.device)
    dist.all_reduce(most, dist.ReduceOp.MAX, group=mesh.get_group())
    padding = (0, int(most) - count)
    rows = F.pad(targets.reshape(-1), padding, value=_UNUSED)
    uniforms = F.pad(options.pop("uniforms").reshape(-1), padding)

    def loss(features: Tensor, weight: Tensor, bias: Tensor | None) -> SampledLoss:
        padded = F.pad(features.reshape(-1, features.shape[-1]), (0, 0, *padding))
        return shared_vocabulary_sample(
            padded, weight, bias, rows, uniforms=uniforms, mesh=mesh, ignore_index=_UNUSED, **options
        )

    total, *per_row = _with_weights(head, model, hidden, loss)
    return SampledLoss(total, *(value[:count].reshape(targets.shape) for value in per_row))


def token_loss(
    head: HeadFunction,
    model: PreTrainedModel,
    hidden: Tensor,
    labels: Tensor,
    mask: Tensor | None,
    **options: Any,
) -> TokenLoss:
    """`linear_masked_bce` with the head of a model.

    If the head does not end with a plain Linear, the loss is computed from its logits.

    Args:
        head: the head of ``model``.
        model: a classifier of tokens with one logit per token.
        hidden: [..., T, H], hidden states of the base of the model.
        labels, mask: [..., T].
        options: other keywords of the op.

    Raises:
        TypeError, ValueError: as the op.
        ValueError: the head returns more than one logit per token.
    """

    def loss(features: Tensor, weight: Tensor, bias: Tensor | None) -> TokenLoss:
        return linear_masked_bce(features, weight, bias, labels, mask, **options)

    if not isinstance(head, Head) or head.ends_with_plain_linear(model):
        return _with_weights(head, model, hidden, loss)
    logits = head.logits(model, hidden)
    if logits.numel() != labels.numel():
        raise ValueError(
            f"the head of {type(model).__name__} gives logits of shape {list(logits.shape)}, should give one per token"
        )
    # A Linear from width 1 with weight 1 leaves the logits unchanged.
    return linear_masked_bce(
        logits.reshape(*labels.shape, 1), logits.new_ones(1), None, labels, mask, **options
    )


def _with_weights(
    head: HeadFunction,
    model: PreTrainedModel,
    hidden: Tensor,
    loss: Callable[[Tensor, Tensor, Tensor | None], Loss],
) -> Loss:
    result: Loss = head.run(model, hidden, loss) if isinstance(head, Head) else loss(*head(model, hidden))
    return result
