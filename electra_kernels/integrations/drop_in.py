"""Replace the loss of a Transformers model with the fused one, in place and reversibly.

Only the forward of that one model object is replaced, and only in training mode with labels. In evaluation mode, and
without labels, the model's own forward runs.

The head is looked up at each call, so it may change after the model was fused: PEFT adapters, a new layer, hooks. If
it no longer ends with a plain Linear, the loss is computed from the logits of the model's own head.
"""

import functools
import inspect
from collections.abc import Callable
from typing import Any

from torch import Tensor
from transformers import ElectraForPreTraining, PreTrainedModel
from transformers.modeling_outputs import MaskedLMOutput
from transformers.models.electra.modeling_electra import ElectraForPreTrainingOutput

from electra_kernels.integrations.head_losses import sampled_loss, token_loss
from electra_kernels.integrations.heads import HeadFunction, masked_lm_head, token_head


def fuse_masked_lm_loss(model: PreTrainedModel, *, head: HeadFunction | None = None) -> None:
    """Give a masked language model the fused loss: no logits in training, and the head runs at labelled tokens only.

    The forward then returns the loss and no logits; all other arguments and outputs are the model's. If Trainer
    passes num_items_in_batch, the loss is divided by it, so that accumulated steps add up; many models of transformers
    ignore it.

    Args:
        model: any model of AutoModelForMaskedLM.
        head: as in `ReplacedTokenDetection`.

    Raises:
        TypeError: the model is not a model of transformers.
        ValueError: no head was found, or the forward of the model is replaced already.
    """
    _replace_forward(model, head or masked_lm_head(model), _masked_lm_loss)


def fuse_electra_loss(model: ElectraForPreTraining) -> None:
    """Give ElectraForPreTraining the fused loss: its last Linear and the mean over the tokens of attention_mask.

    The logits are float32 and have no gradient. Labels of -100 are left out of the loss. If Trainer passes
    num_items_in_batch, the loss is divided by it. Trainer counts the tokens with a label, so set the labels to -100 at
    padding.

    Raises:
        TypeError: the model is not ElectraForPreTraining.
        ValueError: the forward of the model is replaced already.
    """
    if not isinstance(model, ElectraForPreTraining):
        raise TypeError(f"model is {type(model).__name__}, should be ElectraForPreTraining")
    _replace_forward(model, token_head(model), _electra_loss)


def unfuse(model: PreTrainedModel) -> None:
    """Undo `fuse_masked_lm_loss` or `fuse_electra_loss`.

    Raises:
        ValueError: the model was not fused.
    """
    if not isinstance(model.__dict__.get("forward"), _FusedForward):
        raise ValueError(f"{type(model).__name__} has no loss of electra_kernels, should have been fused")
    del model.__dict__["forward"]


def _masked_lm_loss(
    model: PreTrainedModel,
    head: HeadFunction,
    inputs: dict[str, Any],
    labels: Tensor,
    num_items: int | Tensor | None,
) -> MaskedLMOutput:
    labelled, base = labels != -100, model.base_model(**inputs, return_dict=True)
    hidden = base[0][labelled][None]  # [1, n, H]
    mlm = sampled_loss(head, model, hidden, labels[labelled][None], normalizer=num_items)
    return MaskedLMOutput(mlm.loss, None, base.get("hidden_states"), base.get("attentions"))


def _electra_loss(
    model: PreTrainedModel,
    head: HeadFunction,
    inputs: dict[str, Any],
    labels: Tensor,
    num_items: int | Tensor | None,
) -> ElectraForPreTrainingOutput:
    base = model.base_model(**inputs, return_dict=True)
    rtd = token_loss(head, model, base[0], labels, inputs.get("attention_mask"), normalizer=num_items)
    return ElectraForPreTrainingOutput(
        rtd.loss, rtd.logits, base.get("hidden_states"), base.get("attentions")
    )


class _FusedForward:
    """The forward of a fused model. An object and not a closure, so that a deep copy of the model has its own."""

    def __init__(self, model: PreTrainedModel, head: HeadFunction, loss: Callable[..., Any]) -> None:
        self.model, self.head, self.loss, self.original = model, head, loss, model.forward
        functools.update_wrapper(self, model.forward)  # Trainer reads the argument names of the forward

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        inputs = dict(inspect.signature(self.original).bind(*args, **kwargs).arguments)
        inputs |= inputs.pop("kwargs", {})
        labels, num_items = inputs.pop("labels", None), inputs.pop("num_items_in_batch", None)
        if labels is None or not self.model.training:
            return self.original(*args, **kwargs)
        return_dict = inputs.pop("return_dict", None)
        output = self.loss(self.model, self.head, inputs, labels, num_items)
        wants_tuple = not (self.model.config.return_dict if return_dict is None else return_dict)
        return output.to_tuple() if wants_tuple else output


def _replace_forward(model: PreTrainedModel, head: HeadFunction, loss: Callable[..., Any]) -> None:
    if "forward" in model.__dict__:
        raise ValueError(
            f"the forward of {type(model).__name__} is replaced already, should be that of its class"
        )
    model.__dict__["forward"] = _FusedForward(model, head, loss)
