"""The head of any Hugging Face model, found without knowing the model: what lies between its base and its last Linear.

The model's own forward computes it, in a copy of the module tree that shares every parameter with the model but has
its two ends taken out: the base hands on the hidden states that it is given, and the last Linear hands on its
input. So the rows can be gathered before the head, the last Linear can be ours, and there is no branch per model.
"""

import copy
import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput

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
        replaced = {model.base_model_prefix: _Given(), output: nn.Identity()}
        self._copies: list[tuple[nn.Module, nn.Module]] = []
        self._model = self._copy(model, replaced)
        self._check(model)

    def __call__(self, model: PreTrainedModel, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """hidden [..., T, H] → features [..., T, E], weight, bias."""
        for clone, original in self._copies:
            if clone.training != original.training:
                clone.training = original.training
        linear = model.get_submodule(self.output)
        weight, bias = linear.weight, linear.bias
        assert isinstance(weight, Tensor)
        assert bias is None or isinstance(bias, Tensor)
        return self._model(hidden, return_dict=True).logits, weight, bias

    def _copy(self, module: nn.Module, replaced: dict[str, nn.Module]) -> nn.Module:
        """The module with some of those below it replaced. Its parameters are the same, also once others are loaded."""
        clone = copy.copy(module)
        clone.__dict__["_modules"] = modules = dict(module._modules)
        clone.__dict__.pop("forward", None)  # of a wrapper, bound to the original
        self._copies.append((clone, module))
        for name in {path.partition(".")[0] for path in replaced}:
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
        identity = self._model.get_submodule(self.output)
        handle = identity.register_forward_hook(lambda module, inputs, output: seen.append(output))
        try:
            with torch.no_grad():
                logits = self(model, hidden)[0]
        except (AttributeError, TypeError, RuntimeError) as error:
            raise ValueError(f"the head of {name} cannot be run by itself ({error}), give head=") from error
        finally:
            handle.remove()
        # ELECTRA's discriminator squeezes, which leaves features of more than one element as they are.
        if len(seen) != 1 or (logits is not seen[0] and logits._base is not seen[0]):
            raise ValueError(
                f"{name} does something to the output of {self.output}, give head= that does it too"
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


def encode(model: PreTrainedModel, input_ids: Tensor, **inputs: Tensor | None) -> Tensor:
    """input_ids [B, T] → hidden states [B, T, H] of the base of a model; of the other inputs, those that it knows."""
    base = model.base_model
    known = inspect.signature(base.forward).parameters
    hidden: Tensor = base(input_ids=input_ids, **{name: inputs[name] for name in inputs if name in known})[0]
    return hidden


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
