"""Our losses in a model of transformers that is trained as it was: one call puts them in, one takes them out.

Only the forward of the one model object is replaced, and only where it is in training mode and has labels: in
evaluation, and without labels, the model is its own.

The head is looked up at each call, so it may change after the model was fused: adapters of PEFT, a new layer, hooks.
Where it no longer ends with a plain Linear, the loss is computed from the logits of the model's own head.
"""

import functools
import inspect
from collections.abc import Callable
from typing import Any

from torch import Tensor
from transformers import ElectraForPreTraining, PreTrainedModel
from transformers.modeling_outputs import MaskedLMOutput
from transformers.models.electra.modeling_electra import ElectraForPreTrainingOutput

from electra_kernels.integrations.heads import (
    HeadFunction,
    masked_lm_head,
    sampled_loss,
    token_head,
    token_loss,
)


def fuse_masked_lm_loss(model: PreTrainedModel, *, head: HeadFunction | None = None) -> None:
    """Give a masked language model our loss: its logits never exist, and its head runs at labelled tokens only.

    The forward then returns the loss and no logits; all other arguments and outputs are the model's. Where Trainer
    gives num_items_in_batch, it divides the loss, so that accumulated steps add up; many models of transformers leave
    it out.

    Args:
        model: any with a head as AutoModelForMaskedLM.
        head: as of `ReplacedTokenDetection`.

    Raises:
        TypeError, ValueError: no head was found, or the forward of the model is replaced already.
    """
    _replace_forward(model, head or masked_lm_head(model), _masked_lm_loss)


def fuse_electra_loss(model: ElectraForPreTraining) -> None:
    """Give ElectraForPreTraining our loss: its last Linear with the mean over the tokens of attention_mask.

    The logits are float32 and without gradient. Labels of -100 are left out of the loss. Where Trainer gives
    num_items_in_batch, it divides the loss: it counts what has a label, so let that be -100 at padding.

    Raises:
        TypeError, ValueError: another model, or one whose forward is replaced already.
    """
    if not isinstance(model, ElectraForPreTraining):
        raise TypeError(f"model is {type(model).__name__}, should be ElectraForPreTraining")
    _replace_forward(model, token_head(model), _electra_loss)


def unfuse(model: PreTrainedModel) -> None:
    """Undo `fuse_masked_lm_loss` or `fuse_electra_loss`.

    Raises:
        ValueError: the model has no loss of ours.
    """
    if not isinstance(model.__dict__.get("forward"), _Forward):
        raise ValueError(f"{type(model).__name__} has no loss of electra_kernels, should have been fused")
    del model.__dict__["forward"]


def _masked_lm_loss(
    model: PreTrainedModel,
    head: HeadFunction,
    inputs: dict[str, Any],
    labels: Tensor,
    num_items: int | Tensor | None,
) -> MaskedLMOutput:
    used, base = labels != -100, model.base_model(**inputs, return_dict=True)
    hidden = base[0][used][None]  # [1, n, H]
    mlm = sampled_loss(head, model, hidden, labels[used][None], normalizer=num_items)
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


class _Forward:
    """The forward of a model. An object and no closure, so that a deep copy of the model has one of its own."""

    def __init__(self, model: PreTrainedModel, head: HeadFunction, loss: Callable[..., Any]) -> None:
        self.model, self.head, self.loss, self.original = model, head, loss, model.forward
        functools.update_wrapper(self, model.forward)  # Trainer reads the names of its arguments

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        inputs = dict(inspect.signature(self.original).bind(*arguments, **named).arguments)
        inputs |= inputs.pop("kwargs", {})
        labels, num_items = inputs.pop("labels", None), inputs.pop("num_items_in_batch", None)
        if labels is None or not self.model.training:
            return self.original(*arguments, **named)
        return_dict = inputs.pop("return_dict", None)
        output = self.loss(self.model, self.head, inputs, labels, num_items)
        wants_tuple = not (self.model.config.return_dict if return_dict is None else return_dict)
        return output.to_tuple() if wants_tuple else output


def _replace_forward(model: PreTrainedModel, head: HeadFunction, loss: Callable[..., Any]) -> None:
    if "forward" in model.__dict__:
        raise ValueError(
            f"the forward of {type(model).__name__} is replaced already, should be that of its class"
        )
    model.__dict__["forward"] = _Forward(model, head, loss)
