"""Changes that users make to the head of a model after its loss was fused, with the same new weights for each model."""

import torch
from torch import nn
from torch.nn.utils import parametrizations


class LoraLinear(nn.Module):
    """A copy of PEFT's ``lora.Linear``: it has the attributes of the Linear it wraps, but computes more than that."""

    def __init__(self, base_layer, rank=2):
        super().__init__()
        self.base_layer = base_layer
        self.in_features, self.out_features = base_layer.in_features, base_layer.out_features
        self.lora_dropout = nn.ModuleDict({"default": nn.Identity()})
        self.lora_A = nn.ModuleDict({"default": nn.Linear(self.in_features, rank, bias=False)})
        self.lora_B = nn.ModuleDict({"default": nn.Linear(rank, self.out_features, bias=False)})
        base_layer.requires_grad_(False)

    @property
    def weight(self):
        return self.base_layer.weight

    @property
    def bias(self):
        return self.base_layer.bias

    def forward(self, hidden):
        low = self.lora_A["default"](self.lora_dropout["default"](hidden))
        return self.base_layer(hidden) + 2.0 * self.lora_B["default"](low)


class LoraSubclass(nn.Linear):
    """A Linear with a forward of its own, like those of adapters and quantized layers."""

    def forward(self, hidden):
        return 0.5 * super().forward(hidden)


def with_new_weights(module):
    """Fill a module with new weights that depend only on their shapes."""
    generator = torch.Generator().manual_seed(11)
    for parameter in module.parameters():
        if parameter.requires_grad:
            parameter.data.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    return module


def _replace(head, path, new):
    parent, _, name = path.rpartition(".")
    setattr(head.get_submodule(parent), name, new)


def _adapt(head, path):
    _replace(head, path, with_new_weights(LoraLinear(head.get_submodule(path))))


def _adapt_all(head, dense, output):
    _adapt(head, dense)
    _adapt(head, output)


def _normalise(head, dense, output):
    layer = head.get_submodule(dense)
    _replace(head, dense, nn.Sequential(layer, with_new_weights(nn.LayerNorm(layer.out_features))))


def _new_output(head, dense, output, kind=nn.Linear, **options):
    layer = head.get_submodule(output)
    _replace(head, output, with_new_weights(kind(layer.in_features, layer.out_features, **options)))


def _longer_output(head, dense, output):
    layer = head.get_submodule(output)
    _replace(head, output, nn.Sequential(layer, nn.Softplus()))


def _hook(head, path):
    head.get_submodule(path).register_forward_hook(lambda module, inputs, output: 0.5 * output)


def _pre_hook(head, path):
    head.get_submodule(path).register_forward_pre_hook(lambda module, inputs: (0.5 * inputs[0],))


def _patch(head, path):
    layer = head.get_submodule(path)
    forward = layer.forward
    layer.forward = lambda hidden: 0.5 * forward(hidden)


def _weight_norm(head, path):
    layer = parametrizations.weight_norm(head.get_submodule(path))
    layer.parametrizations.weight.original0.data.mul_(0.5)


# Each change takes the head of the model, and the names in it of the layer before the output layer and of that layer.
CHANGES = {
    "lora on every linear": _adapt_all,
    "lora on the output": lambda head, dense, output: _adapt(head, output),
    "a norm after the dense": _normalise,
    "a new output": _new_output,
    "a new output without bias": lambda *names: _new_output(*names, bias=False),
    "an output with a forward of its own": lambda *names: _new_output(*names, kind=LoraSubclass),
    "an output of two modules": _longer_output,
    "a hook on the output": lambda head, dense, output: _hook(head, output),
    "a hook before the output": lambda head, dense, output: _pre_hook(head, output),
    "a hook on the dense": lambda head, dense, output: _hook(head, dense),
    "a patched output": lambda head, dense, output: _patch(head, output),
    "a parametrized output": lambda head, dense, output: _weight_norm(head, output),
}
