"""Run the head of any Hugging Face model by itself: everything between its base and its last Linear.

No model is known by name. The model's own forward runs in a copy of its module tree that shares every parameter with
the model, but whose two ends are replaced: the base returns the hidden states that it is given, and the last Linear
returns its input. So the rows can be gathered before the head, and the last Linear can be one of our ops.

A model may change after its head was found: adapters wrap a Linear, a layer is replaced, hooks are registered. Each
call follows these changes. If the last layer is no longer a plain Linear, the model computes its logits itself.

FSDP2 is no such change: `Head.run` gathers the weights of the head wherever ``fully_shard`` was called in it.
"""

import copy
from collections.abc import Callable, Container
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput

from electra_kernels.integrations.sharding import (
    SHARDED_TENSORS,
    is_hook_of_fsdp,
    modules_on_path,
    run_as_forward,
)

# (model, hidden [..., H]) → features [..., E], weight [N, E] and bias [N] or None of the last Linear.
HeadFunction = Callable[[PreTrainedModel, Tensor], tuple[Tensor, Tensor, Tensor | None]]

_PLAIN_TENSORS = (Tensor, nn.Parameter, *SHARDED_TENSORS)
_EXAMPLES = "AutoModelForMaskedLM (generator) or AutoModelForTokenClassification (discriminator)"


class Head:
    """The head of a model as a `HeadFunction`.

    Args:
        model: a model with a head.
        output: name of its last Linear.

    Raises:
        ValueError: the model changes the output of that Linear, or its head cannot be run by itself.
    """

    def __init__(self, model: PreTrainedModel, output: str) -> None:
        self.output = output
        # (copied module, original, names of the children that are not the original's)
        self._copies: list[tuple[nn.Module, nn.Module, Container[str]]] = []
        base: dict[str, nn.Module] = {model.base_model_prefix: _GivenHiddenStates()}
        self._without_output = self._copy(model, {**base, output: nn.Identity()})
        self._whole = self._copy(model, base)
        self._check_output_is_last(model)
        # The modules that contain the output layer, and the forwards for which the check above holds.
        names = output.split(".")
        self._containers = {
            path: model.get_submodule(path)
            for path in (".".join(names[:end]) for end in range(1, len(names)))
        }
        self._forwards = [type(module).forward for module in (model, *self._containers.values())]

    def __call__(self, model: PreTrainedModel, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """hidden [..., T, H] → features [..., T, E], weight, bias.

        Raises:
            ValueError: the output layer is no longer a plain Linear; call `logits` then.
        """
        if not self.ends_with_plain_linear(model):
            raise ValueError(
                f"{self.output} of {type(model).__name__} is wrapped, hooked or replaced, should be a plain Linear "
                "whose weight can be used without calling it"
            )
        linear = model.get_submodule(self.output)
        weight, bias = linear.weight, linear.bias
        assert isinstance(weight, Tensor)
        assert bias is None or isinstance(bias, Tensor)
        return self._run(self._without_output, model, hidden), weight, bias

    def run(
        self, model: PreTrainedModel, hidden: Tensor, function: Callable[[Tensor, Tensor, Tensor | None], Any]
    ) -> Any:
        """Return ``function(features, weight, bias)`` of hidden [..., T, H], with whole weights under FSDP2."""
        modules = modules_on_path(model, self.output)[1:]
        return run_as_forward(modules, lambda states: function(*self(model, states)), hidden)

    def logits(self, model: PreTrainedModel, hidden: Tensor) -> Tensor:
        """hidden [..., T, H] → the logits of the model's current head."""
        return self._run(self._whole, model, hidden)

    def ends_with_plain_linear(self, model: PreTrainedModel) -> bool:
        """Whether the last layer is a plain Linear, and neither it nor a module around it is wrapped or hooked."""
        for path, module in self._containers.items():
            if _submodule(model, path) is not module or not _is_unmodified(module):
                return False
        for module, forward in zip((model, *self._containers.values()), self._forwards):
            if type(module).forward is not forward:
                return False
        return _is_plain_linear(_submodule(model, self.output))

    def _run(self, clone: nn.Module, model: PreTrainedModel, hidden: Tensor) -> Tensor:
        """Give all copies the current modules and modes of their originals, then run one copy of the model."""
        for copied, original, differing in self._copies:
            if copied.training != original.training:
                copied.training = original.training
            for name, child in original._modules.items():
                if name not in differing and copied._modules.get(name) is not child:
                    copied._modules[name] = child
        # forward and not __call__, because the model's hooks are for its whole forward.
        logits: Tensor = type(model).forward(clone, hidden, return_dict=True).logits
        return logits

    def _copy(self, module: nn.Module, replaced: dict[str, nn.Module]) -> nn.Module:
        """A copy of the module in which some descendants are replaced. It keeps sharing the original's parameters."""
        clone = copy.copy(module)
        clone.__dict__["_modules"] = modules = dict(module._modules)
        clone.__dict__.pop("forward", None)  # an instance forward is bound to the original
        # The copy has no hooks: those of FSDP would free the weights of the head before its last Linear.
        clone.__dict__.update({name: new for name, new in nn.Module().__dict__.items() if "hooks" in name})
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

    def _check_output_is_last(self, model: PreTrainedModel) -> None:
        name, seen = type(model).__name__, []
        like = model.get_submodule(self.output).weight
        assert isinstance(like, Tensor)
        hidden = torch.zeros(1, 1, model.config.hidden_size, dtype=like.dtype, device=like.device)
        identity = self._without_output.get_submodule(self.output)
        handle = identity.register_forward_hook(lambda module, inputs, output: seen.append(output))
        try:
            with torch.no_grad():
                logits = self._run(self._without_output, model, hidden)
        except (AttributeError, TypeError, RuntimeError) as error:
            raise ValueError(f"the head of {name} cannot be run by itself ({error}), give head=") from error
        finally:
            handle.remove()
        # ELECTRA's discriminator squeezes the last dimension, which gives a view and leaves several features unchanged.
        if len(seen) != 1 or (logits is not seen[0] and logits._base is not seen[0]):
            raise ValueError(f"{name} changes the output of {self.output}, give head= that does so too")


def masked_lm_head(model: PreTrainedModel) -> Head:
    """The head of a masked language model, whose last Linear is its `get_output_embeddings`.

    Raises:
        TypeError: the model is not a model of transformers.
        ValueError: its output embeddings are not a Linear with one row per token of the vocabulary; or as `Head`.
    """
    name = type(model).__name__
    _check_base(model)
    output = model.get_output_embeddings()
    vocab_size = model.config.vocab_size
    if not isinstance(output, nn.Linear) or output.weight.shape[0] != vocab_size:
        found = "no Linear" if not isinstance(output, nn.Linear) else f"of {output.weight.shape[0]} rows"
        raise ValueError(
            f"the output embeddings of {name} are {found}, should be a Linear with a row for each of the {vocab_size} "
            "tokens: give head=, a function (model, hidden [..., H]) → (features [..., E], weight [V, E], bias [V] or "
            "None)"
        )
    return Head(model, _name_of(model, output))


def token_head(model: PreTrainedModel) -> Head:
    """The head of a binary classifier of tokens, whose last Linear is the only one with a single output.

    Raises:
        TypeError: the model is not a model of transformers.
        ValueError: there is no such Linear, or several; or as `Head`.
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
    """Whether a call is only F.linear with its weight; true for parametrized weights, false for quantized ones."""
    return (
        isinstance(module, nn.Linear)
        and type(module).forward is nn.Linear.forward
        and _is_unmodified(module)
        and type(module.weight) in _PLAIN_TENSORS
        and (module.bias is None or type(module.bias) in _PLAIN_TENSORS)
    )


def _is_unmodified(module: nn.Module) -> bool:
    """Whether the module has no hooks but those of FSDP, and no forward beside that of its class."""
    hooks = (
        module._forward_pre_hooks,
        module._forward_hooks,
        module._backward_pre_hooks,
        module._backward_hooks,
    )
    return "forward" not in module.__dict__ and all(
        is_hook_of_fsdp(hook) for kind in hooks for hook in kind.values()
    )


class _GivenHiddenStates(nn.Module):
    """Stands in for a base model: its input_ids are the hidden states already."""

    def forward(self, input_ids: Tensor, **_: Any) -> BaseModelOutput:
        return BaseModelOutput(last_hidden_state=input_ids)


def _check_base(model: PreTrainedModel) -> None:
    if not isinstance(model, PreTrainedModel):
        raise TypeError(f"model is {type(model).__name__}, should be a transformers.PreTrainedModel")
    if model.base_model is model:
        raise ValueError(
            f"{type(model).__name__} has no head, should be a model with one, such as {_EXAMPLES}"
        )


def _name_of(model: nn.Module, wanted: nn.Module) -> str:
    return next(name for name, module in model.named_modules() if module is wanted)
