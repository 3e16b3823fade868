"""The fused losses applied to the head of a Hugging Face model, whatever its last layer is."""

from collections.abc import Callable
from typing import Any, TypeVar

from torch import Tensor
from transformers import PreTrainedModel

from electra_kernels.integrations.heads import Head, HeadFunction
from electra_kernels.ops import (
    SampledLoss,
    TokenLoss,
    cross_entropy_sample,
    linear_cross_entropy_sample,
    linear_masked_bce,
)

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
