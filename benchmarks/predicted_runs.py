"""``python -m benchmarks.predicted_runs``: memory and time of pre-training on GPUs, predicted and not measured.

The formulas, per GPU:

- State: 18 bytes a parameter. Weight, gradient and AdamW's two moments are float32, and autocast keeps a bfloat16 copy.
- Activations of a layer: 38 H bytes a token, and 2 T for the mask of packed rows. With ``--checkpoint-layers`` every
  layer keeps its input, 4 H bytes, and one layer at a time has the rest.
- 2 GB for CUDA, NCCL and the heads, whose logits never exist.
- Arithmetic of a token: 6 FLOPs for each weight of the layers and projections of both models, 12 T H for the attention
  of each layer, and 6 E V at the masked tokens. It is done at an assumed share of the peak (MFU).
- A step takes at least as long as the launches of its kernels.

The exchange of gradients, the optimizer, the evaluations and the reading of data are left out.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import nn

from electra_kernels.models import Electra, ElectraConfig, Encoder, EncoderConfig, electra_config
from electra_kernels.training.hardware import peak_flops
from electra_kernels.training.recipe import RECIPES

GB = 1e9
STATE_BYTES = 4 + 4 + 8 + 2
# What a layer keeps for its backward pass, in units of H values a token: the inputs of the four products and of GELU,
# and query, key and value, in half precision; the inputs of the two LayerNorms in float32; two dropout masks in bytes.
HALF_VALUES, FLOAT_VALUES, MASK_VALUES = 1 + 3 + 1 + 1 + 4 + 4, 2, 2
OTHER_BYTES = 2 * GB
USABLE = 0.95  # share of a GPU's memory that the allocator can fill
# Assumed, not measured. Narrow layers move more memory for each operation.
ASSUMED_MFU = {"small": 0.10, "base": 0.25, "large": 0.35}
LAUNCHES, LAUNCH_SECONDS = 80, 5e-6  # kernels of a layer, forward and backward, and the time to launch one


@dataclass(frozen=True)
class Machine:
    """GPUs of one kind.

    Attributes:
        label: in the table.
        name: as ``torch.cuda.get_device_name`` gives it.
        memory: bytes of one GPU.
        count: number of GPUs.
    """

    label: str
    name: str
    memory: float
    count: int = 1


MACHINES = (
    Machine("1 x H100", "NVIDIA H100 80GB HBM3", 80 * GB),
    Machine("8 x H100", "NVIDIA H100 80GB HBM3", 80 * GB, 8),
    Machine("1 x RTX 4090", "NVIDIA GeForce RTX 4090", 24 * GB),
)


@dataclass(frozen=True)
class Prediction:
    """The predicted run of a configuration on a machine.

    Attributes:
        state: bytes of weights, gradients and optimizer of a GPU.
        row: bytes of the activations of a row.
        checkpointed_row: the same with ``--checkpoint-layers``.
        rows: rows of a micro-batch.
        peak: bytes of a GPU.
        step_seconds: of a step.
        run_seconds: of all steps of the recipe.
    """

    state: float
    row: float
    checkpointed_row: float
    rows: int
    peak: float
    step_seconds: float
    run_seconds: float


def predict(name: str, machine: Machine) -> Prediction:
    """Predict the run of ``--config name`` on a machine, with DDP.

    Raises:
        ValueError: the name is unknown, the peak of the GPU is not known, or a row does not fit.
    """
    config, recipe = (
        electra_config(name, vocab_size=RECIPES[name].vocab_size, mask_token_id=103),
        RECIPES[name],
    )
    peak = peak_flops(machine.name)
    if peak is None:
        raise ValueError(
            f"machine.name is {machine.name!r}, should be a GPU of electra_kernels.training.hardware"
        )
    state = STATE_BYTES * float(parameters(config))
    row, checkpointed = row_bytes(config, recipe.length), row_bytes(config, recipe.length, checkpointed=True)
    share = recipe.batch_size // machine.count
    rows = _largest_power(share, (USABLE * machine.memory - state - OTHER_BYTES) / row)
    arithmetic = flops_per_token(config, recipe.length) * recipe.length * share / (ASSUMED_MFU[name] * peak)
    layers = sum(encoder.num_hidden_layers for encoder in encoders(config))
    launches = LAUNCHES * LAUNCH_SECONDS * layers * -(-share // rows)
    seconds = max(arithmetic, launches)
    return Prediction(
        state, row, checkpointed, rows, state + rows * row + OTHER_BYTES, seconds, seconds * recipe.steps
    )


def parameters(config: ElectraConfig) -> int:
    """The number of trained weights; shared ones count once."""
    return sum(parameter.numel() for parameter in _model(config).parameters())


def flops_per_token(config: ElectraConfig, length: int) -> float:
    """FLOPs of a token in the forward and backward pass of both models, in rows of ``length`` tokens."""
    weights = sum(
        layer.weight.numel()
        for encoder in _model(config).modules()
        if isinstance(encoder, Encoder)
        for layer in encoder.modules()
        if isinstance(layer, nn.Linear)
    )
    attention = sum(12.0 * length * each.hidden_size * each.num_hidden_layers for each in encoders(config))
    sizes = config.discriminator
    return 6.0 * weights + attention + 6.0 * config.mask_probability * sizes.embedding_size * sizes.vocab_size


def row_bytes(config: ElectraConfig, length: int, *, checkpointed: bool = False) -> float:
    """Bytes that the layers of both models keep of a row for the backward pass."""
    total = 0.0
    for encoder in encoders(config):
        layer = layer_bytes(encoder.hidden_size) + 2 * length
        kept = encoder.num_hidden_layers * layer
        if checkpointed:
            kept = encoder.num_hidden_layers * 4 * encoder.hidden_size + layer
        total += length * kept
    return total


def layer_bytes(hidden_size: int, *, half: int = 2, dropout: bool = True) -> int:
    """Bytes that a layer keeps of a token, without its mask.

    Args:
        hidden_size: H; the feed-forward width is 4 H.
        half: bytes of a value in the products, 2 under autocast.
        dropout: whether there are dropout masks.
    """
    return hidden_size * (half * HALF_VALUES + 4 * FLOAT_VALUES + (MASK_VALUES if dropout else 0))


def encoders(config: ElectraConfig) -> list[EncoderConfig]:
    return [encoder for encoder in (config.discriminator, config.generator) if encoder is not None]


def table() -> Iterator[str]:
    """The lines of a Markdown table."""
    yield (
        "| `--config` | GPUs | state, GB | MB a row | with `--checkpoint-layers` | rows at once | peak, GB "
        "| assumed MFU | a step | the run |"
    )
    yield "|---" * 10 + "|"
    for name, utilisation in ASSUMED_MFU.items():
        for machine in MACHINES:
            each = predict(name, machine)
            yield (
                f"| `{name}` | {machine.label} | {each.state / GB:.1f} | {each.row / 1e6:.0f} | "
                f"{each.checkpointed_row / 1e6:.0f} | {each.rows} | {each.peak / GB:.0f} | {utilisation:.0%} | "
                f"{_duration(each.step_seconds)} | {_duration(each.run_seconds)} |"
            )


def _model(config: ElectraConfig) -> Electra:
    with torch.device("meta"):
        return Electra(config)


def _largest_power(share: int, fitting: float) -> int:
    """The largest of 1, 2, 4, ... and ``share`` that is not above ``fitting``."""
    if fitting < 1:
        raise ValueError(f"{fitting:.2f} rows fit, should be at least 1")
    return share if share <= fitting else 1 << (int(fitting).bit_length() - 1)


def _duration(seconds: float) -> str:
    for unit, size in (("days", 86_400.0), ("hours", 3_600.0), ("s", 1.0)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{1e3 * seconds:.0f} ms"


if __name__ == "__main__":
    print("\n".join(table()))
