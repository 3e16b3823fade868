"""Parameter groups whose learning rate falls from the head to the embeddings, as google-research/electra trains."""

from collections.abc import Iterator

import torch
from torch import nn
from torch.nn import Parameter
from transformers import PreTrainedModel


def make_optimizer(
    model: PreTrainedModel, *, learning_rate: float, layer_decay: float, weight_decay: float
) -> torch.optim.AdamW:
    """AdamW whose rate for a parameter of depth d is ``learning_rate`` times ``layer_decay`` to the power n + 2 - d.

    n is the number of layers and d is `parameter_depths`. Parameters of one dimension (biases, norms) do not decay.
    The betas and epsilon are those of google-research/electra (model/optimization.py).
    """
    depths = parameter_depths(model)
    top = layer_count(model) + 2
    groups: dict[tuple[int, bool], list[Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            groups.setdefault((depths[name], parameter.dim() >= 2), []).append(parameter)
    return torch.optim.AdamW(
        [
            {
                "params": parameters,
                "lr": learning_rate * layer_decay ** (top - depth),
                "weight_decay": weight_decay if decays else 0.0,
            }
            for (depth, decays), parameters in sorted(groups.items(), key=lambda item: item[0])
        ],
        betas=(0.9, 0.999),
        eps=1e-6,
    )


def parameter_depths(model: PreTrainedModel) -> dict[str, int]:
    """Depth of every parameter by name: embeddings 0, layer i is i + 1, the head is n + 2.

    What else belongs to the encoder, such as a final norm, stands between the last layer and the head: n + 1. That is
    the depth which google-research/electra leaves empty.
    """
    encoder = model.base_model
    inside = {id(parameter) for parameter in encoder.parameters()}
    in_layer = {
        id(parameter): index + 1
        for index, layer in enumerate(_layers(encoder))
        for parameter in layer.parameters()
    }
    count = layer_count(model)

    def depth(name: str, parameter: Parameter) -> int:
        if id(parameter) in in_layer:
            return in_layer[id(parameter)]
        if id(parameter) not in inside:
            return count + 2
        return 0 if "embed" in name else count + 1

    return {name: depth(name, parameter) for name, parameter in model.named_parameters()}


def layer_count(model: PreTrainedModel) -> int:
    """The number of layers of the encoder. An encoder that repeats one layer (ALBERT) counts as one."""
    return len(_layers(model.base_model))


def _layers(encoder: nn.Module) -> nn.ModuleList:
    """The longest list of modules; of several, the outermost."""
    lists = list(_module_lists(encoder))
    if not lists:
        raise ValueError(
            f"model {type(encoder).__name__} has no list of layers, should be a Transformer encoder"
        )
    return max(lists, key=len)


def _module_lists(module: nn.Module) -> Iterator[nn.ModuleList]:
    return (child for child in module.modules() if isinstance(child, nn.ModuleList))
