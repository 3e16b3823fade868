"""The head of any Hugging Face model, found without knowing the model: what lies between its base and its last Linear.

The model's own forward computes it, in a copy of the module tree that shares every parameter with the model but has
its two ends taken out: the base hands on the hidden states that it is given, and the last Linear hands on its
input. So the rows can be gathered before the head, the last Linear can be ours, and there is no branch per model.

A model changes after its head was found: adapters wrap a Linear, a layer is replaced, hooks are registered. Each call
follows these changes. Where the last layer is no longer a plain Linear, the model computes its logits itself.
"""

import copy
from collections.abc import Callable, Container
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput

from electra_kernels.ops import (
    SampledLoss,
    TokenLoss,
    cross_entropy_sample,
    linear_cross_entropy_sample,
    linear_masked_bce,
)

# (model, hidden [..., H]) → features [..., E], weight [N, E] and bias [N] or None of the last Linear.
HeadFunction = Callable[[PreTrainedModel, Tensor], tuple[Tensor, Tensor, Tensor | None]]


class Head:
    """A `HeadFunction` around the last Linear of a model.

    Args:
        model: a model with a head.
        output: name of its last Linear.

    Raises:
        ValueError: the model does something to the output of that Linear, or its head cannot be run by itself.
    """

    def __init__(self, model: PreTrainedModel, output: str) -> None:
        self.output = output
        # (copy, original, names of the children that differ)
        self._copies: list[tuple[nn.Module, nn.Module, Container[str]]] = []
        base: dict[str, nn.Module] = {model.base_model_prefix: _Given()}
        self._up_to_output = self._copy(model, {**base, output: nn.Identity()})
        self._whole = self._copy(model, base)
        self._check(model)
        # The modules between the model and its output layer, whose forwards were checked just now.
        names = output.split(".")
        self._between = {
            path: model.get_submodule(path)
            for path in (".".join(names[:end]) for end in range(1, len(names)))
        }
        self._forwards = [type(module).forward for module in (model, *self._between.values())]

    def __call__(self, model: PreTrainedModel, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """hidden [..., T, H] → features [..., T, E], weight, bias.

        Raises:
            ValueError: the output layer is no plain Linear any more: `logits` computes what it does.
        """
        if not self.is_linear(model):
            raise ValueError(
                f"{self.output} of {type(model).__name__} is wrapped, hooked or replaced, should be a plain Linear for "
                "its weight to be used without a call of it"
            )
        linear = model.get_submodule(self.output)
        weight, bias = linear.weight, linear.bias
        assert isinstance(weight, Tensor)
        assert bias is None or isinstance(bias, Tensor)
        return self._run(self._up_to_output, model, hidden), weight, bias

    def logits(self, model: PreTrainedModel, hidden: Tensor) -> Tensor:
        """hidden [..., T, H] → the logits of the model's own head, whatever it is now."""
        return self._run(self._whole, model, hidden)

    def is_linear(self, model: PreTrainedModel) -> bool:
        """Whether the head ends with a plain Linear: nothing on the way to it, nor itself, is wrapped or hooked."""
        for path, module in self._between.items():
            if _submodule(model, path) is not module or not _is_untouched(module):
                return False
        for module, forward in zip((model, *self._between.values()), self._forwards):
            if type(module).forward is not forward:
                return False
        return _is_plain_linear(_submodule(model, self.output))

    def _run(self, clone: nn.Module, model: PreTrainedModel, hidden: Tensor) -> Tensor:
        for ours, original, differing in self._copies:
            if ours.training != original.training:
                ours.training = original.training
            for name, child in original._modules.items():
                if name not in differing and ours._modules.get(name) is not child:
                    ours._modules[name] = child
        # Not through __call__: hooks of the model are for its whole forward.
        logits: Tensor = type(model).forward(clone, hidden, return_dict=True).logits
        return logits

    def _copy(self, module: nn.Module, replaced: dict[str, nn.Module]) -> nn.Module:
        """The module with some of those below it replaced. Its parameters are the same, also once others are loaded."""
        clone = copy.copy(module)
        clone.__dict__["_modules"] = modules = dict(module._modules)
        clone.__dict__.pop("forward", None)  # of a wrapper, bound to the original
        names = {path.partition(".")[0] for path in replaced}
        self._copies.append((clone, module, names))
        for name in names:
            below = {
                path.partition(".")[2]: new for path, new in replaced.items() if path.split(".")[0] == name
            }
            child = modules[name]
            assert child is not None
            modules[name] = below[""] if "" in below else self._copy(child, below)
        return clone

    def _check(self, model: PreTrainedModel) -> None:
        name, seen = type(model).__name__, []
        like = model.get_submodule(self.output).weight
        assert isinstance(like, Tensor)
        hidden = torch.zeros(1, 1, model.config.hidden_size, dtype=like.dtype, device=like.device)
        identity = self._up_to_output.get_submodule(self.output)
        handle = identity.register_forward_hook(lambda module, inputs, output: seen.append(output))
        try:
            with torch.no_grad():
                logits = self._run(self._up_to_output, model, hidden)
        except (AttributeError, TypeError, RuntimeError) as error:
            raise ValueError(f"the head of {name} cannot be run by itself ({error}), give head=") from error
        finally:
            handle.remove()
        # ELECTRA's discriminator squeezes, which leaves features of more than one element as they are.
        if len(seen) != 1 or (logits is not seen[0] and logits._base is not seen[0]):
            raise ValueError(
                f"{name} does something to the output of {self.output}, give head= that does it too"
            )


def sampled_loss(
    head: HeadFunction, model: PreTrainedModel, hidden: Tensor, targets: Tensor, **options: Any
) -> SampledLoss:
    """`linear_cross_entropy_sample` of a head; from its logits, where it does not end with a plain Linear.

    Args:
        hidden: [..., T, H], hidden states of the base of the model.
        targets: [..., T] int64.
        options: of both ops.

    Raises:
        TypeError, ValueError: as the ops.
    """
    if isinstance(head, Head) and not head.is_linear(model):
        return cross_entropy_sample(head.logits(model, hidden), targets, **options)
    return linear_cross_entropy_sample(*head(model, hidden), targets, **options)


def token_loss(
    head: HeadFunction,
    model: PreTrainedModel,
    hidden: Tensor,
    labels: Tensor,
    mask: Tensor | None,
    **options: Any,
) -> TokenLoss:
    """`linear_masked_bce` of a head; from its logits, where it does not end with a plain Linear.

    Args:
        hidden: [..., T, H], hidden states of the base of the model.
        labels, mask: [..., T].
        options: of the op.

    Raises:
        TypeError, ValueError: as the op; or the head gives more than one logit per token.
    """
    if not isinstance(head, Head) or head.is_linear(model):
        return linear_masked_bce(*head(model, hidden), labels, mask, **options)
    logits = head.logits(model, hidden)
    if logits.numel() != labels.numel():
        raise ValueError(
            f"the head of {type(model).__name__} gives logits of shape {list(logits.shape)}, should give one per token"
        )
    # A Linear of width 1 with weight 1, which leaves the logits as they are.
    return linear_masked_bce(
        logits.reshape(*labels.shape, 1), logits.new_ones(1), None, labels, mask, **options
    )


def masked_lm_head(model: PreTrainedModel) -> Head:
    """The head of a masked language model: its last Linear is the one that `get_output_embeddings` names.

    Raises:
        ValueError: it has none with a row per token of the vocabulary, or as `Head`.
    """
    name = type(model).__name__
    _check_base(model)
    output = model.get_output_embeddings()
    vocab_size = model.config.vocab_size
    if not isinstance(output, nn.Linear) or output.weight.shape[0] != vocab_size:
        what = "no Linear" if not isinstance(output, nn.Linear) else f"of {output.weight.shape[0]} rows"
        raise ValueError(
            f"the output embeddings of {name} are {what}, should be a Linear with a row for each of the {vocab_size} "
            "tokens: give head=, a function (model, hidden [..., H]) → (features [..., E], weight [V, E], bias [V] or "
            "None)"
        )
    return Head(model, _name_of(model, output))


def token_head(model: PreTrainedModel) -> Head:
    """The head of a classifier of tokens in two classes: its last Linear is the only one of a single output.

    Raises:
        ValueError: it has none or several, or as `Head`.
    """
    _check_base(model)
    inside = {id(module) for module in model.base_model.modules()}
    found = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and module.out_features == 1 and id(module) not in inside
    ]
    if len(found) != 1:
        raise ValueError(
            f"discriminator is a {type(model).__name__} with {len(found)} Linear layers of one output, should have "
            "one: ElectraForPreTraining, or AutoModelForTokenClassification with num_labels=1"
        )
    return Head(model, found[0])


def _submodule(model: nn.Module, path: str) -> nn.Module | None:
    module: nn.Module | None = model
    for name in path.split("."):
        module = None if module is None else module._modules.get(name)
    return module


def _is_plain_linear(module: nn.Module | None) -> bool:
    """Whether a call is nothing but a product with its weight: also with parametrized, not with quantized weights."""
    return (
        isinstance(module, nn.Linear)
        and type(module).forward is nn.Linear.forward
        and _is_untouched(module)
        and type(module.weight) in (Tensor, nn.Parameter)
        and (module.bias is None or type(module.bias) in (Tensor, nn.Parameter))
    )


def _is_untouched(module: nn.Module) -> bool:
    hooks = (
        module._forward_pre_hooks,
        module._forward_hooks,
        module._backward_pre_hooks,
        module._backward_hooks,
    )
    return "forward" not in module.__dict__ and not any(map(len, hooks))


class _Given(nn.Module):
    """In place of a base model: its input_ids are the hidden states already."""

    def forward(self, input_ids: Tensor, **_: Any) -> BaseModelOutput:
        return BaseModelOutput(last_hidden_state=input_ids)


def _check_base(model: PreTrainedModel) -> None:
    if not isinstance(model, PreTrainedModel):
        raise TypeError(f"model is {type(model).__name__}, should be a transformers.PreTrainedModel")
    if model.base_model is model:
        raise ValueError(f"{type(model).__name__} has no head, should be a model with one, as {_EXAMPLES}")


_EXAMPLES = "AutoModelForMaskedLM (generator) or AutoModelForTokenClassification (discriminator)"


def _name_of(model: nn.Module, wanted: nn.Module) -> str:
    return next(name for name, module in model.named_modules() if module is wanted)
