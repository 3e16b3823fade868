"""The device of a training: its name, memory and random state, its peak FLOP/s, and the FLOPs of a step."""

import gc
import re
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

_PRECISIONS = ("bfloat16", "tf32", "float32")

# Dense TFLOP/s (half of what a data sheet gives "with sparsity"): of bfloat16 matrix products that accumulate in
# float32, of TF32, and of float32 outside tensor cores. None: the GPU has no such unit.
# Sources: NVIDIA's data sheets of A100, A30, A10, A40, L4, L40, L40S, H100, H200, GH200, HGX B200, V100 and T4; the
# white papers of GA102 (RTX 3090, A6000), AD102 (RTX 4090, RTX 6000 Ada) and RTX Blackwell (RTX 5090); AMD's data
# sheets of MI250X, MI300X and MI325X.
_PEAKS: tuple[tuple[str, tuple[float | None, float | None, float]], ...] = (
    ("NVIDIA B200", (2250.0, 1125.0, 75.0)),
    ("NVIDIA H200", (989.4, 494.7, 66.9)),
    ("NVIDIA H200 NVL", (835.5, 417.5, 60.0)),
    ("NVIDIA H100 80GB HBM3", (989.4, 494.7, 66.9)),
    ("NVIDIA GH200 .*", (989.4, 494.7, 66.9)),
    ("NVIDIA H100 PCIe", (756.0, 378.0, 51.2)),
    ("NVIDIA H100 NVL", (835.5, 417.5, 60.0)),
    ("NVIDIA A[18]00[- ].*", (312.0, 156.0, 19.5)),
    ("NVIDIA A30", (165.0, 82.0, 10.3)),
    ("NVIDIA A10", (125.0, 62.5, 31.2)),
    ("NVIDIA A40", (149.7, 74.8, 37.4)),
    ("NVIDIA RTX A6000", (154.8, 77.4, 38.7)),
    ("NVIDIA L4", (121.0, 60.0, 30.3)),
    ("NVIDIA L40", (181.0, 90.5, 90.5)),
    ("NVIDIA L40S", (362.0, 183.0, 91.6)),
    ("NVIDIA RTX 6000 Ada Generation", (364.2, 182.1, 91.1)),
    ("NVIDIA GeForce RTX 5090", (209.5, 104.8, 104.8)),
    ("NVIDIA GeForce RTX 4090", (165.2, 82.6, 82.6)),
    ("NVIDIA GeForce RTX 3090", (71.0, 35.6, 35.6)),
    ("Tesla V100-SXM2.*|Tesla V100-SXM3.*", (None, None, 15.7)),
    ("Tesla V100-PCIE.*", (None, None, 14.0)),
    ("Tesla T4", (None, None, 8.1)),
    ("AMD Instinct MI325X", (1307.4, 653.7, 163.4)),
    ("AMD Instinct MI300X", (1307.4, 653.7, 163.4)),
    ("AMD Instinct MI250X.*", (191.5, None, 23.9)),  # one of its two dies, which is a device
)


def peak_flops(device_name: str, precision: str = "bfloat16") -> float | None:
    """The peak of a GPU in dense FLOP/s; None if the GPU is not known or lacks the precision.

    A part of a GPU (MIG), a variant of another chip ("RTX 4090 D", "Laptop GPU") and a CPU are not known.

    Args:
        device_name: as ``torch.cuda.get_device_name`` gives it.
        precision: of the matrix products: "bfloat16", "tf32" or "float32".
    """
    if precision not in _PRECISIONS:
        raise ValueError(f"precision is {precision!r}, should be one of {', '.join(_PRECISIONS)}")
    if "MIG" in device_name.split():
        return None
    for pattern, peaks in _PEAKS:
        if re.fullmatch(pattern, device_name):
            peak = peaks[_PRECISIONS.index(precision)]
            return None if peak is None else 1e12 * peak
    return None


def device_peak_flops(device: torch.device, precision: str = "bfloat16") -> float | None:
    """`peak_flops` of a device; None on a CPU."""
    return peak_flops(torch.cuda.get_device_name(device), precision) if device.type == "cuda" else None


def device_name(device: torch.device) -> str:
    """The name of a GPU, or the vector instructions of a CPU."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return torch.backends.cpu.get_cpu_capability()


def release_memory() -> None:
    """Give back the memory of models that were thrown away: DDP and FSDP leave them in reference cycles."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def forked_random_state() -> AbstractContextManager[None]:
    """A block after which torch's global random state, that of all GPUs included, is as it was before."""
    # Without the list, torch warns on every machine with several GPUs.
    return torch.random.fork_rng(devices=range(torch.cuda.device_count()))


def step_flops(step: Callable[[], Any]) -> int:
    """FLOPs of the matrix products that ``step()`` computes, forward and backward; each multiply-add counts as 2.

    Attention and the heads of `electra_kernels` count. What activation checkpointing computes again counts, too: for
    a share of the peak as other work gives it (MFU), count without it. A fused backward of attention counts its
    recomputed scores, as everywhere in torch.
    """
    with FlopCounterMode(display=False, custom_mapping=_CPU_ATTENTION) as counter:
        step()
    return counter.get_total_flops()


def mfu(
    flops_per_step: float, steps_per_second: float, devices: int = 1, *, peak: float | None = None
) -> float | None:
    """Model FLOPs utilisation (Chowdhery et al. 2022, PaLM): the used share of the peak of all devices.

    Args:
        flops_per_step: of the global batch, on all devices together.
        steps_per_second: optimiser steps.
        devices: number of devices that share a step.
        peak: FLOP/s of one device; None: that of the current GPU in bfloat16.

    Returns:
        None if the peak is not known.
    """
    if peak is None and torch.cuda.is_available():
        peak = device_peak_flops(torch.device("cuda", torch.cuda.current_device()))
    return None if peak is None else flops_per_step * steps_per_second / (peak * devices)


def _attention_flops(query: torch.Size, key: torch.Size, value: torch.Size, *_: Any, **__: Any) -> int:
    return sdpa_flop_count(query, key, value)


def _attention_backward_flops(
    grad: torch.Size, query: torch.Size, key: torch.Size, value: torch.Size, *_: Any, **__: Any
) -> int:
    return sdpa_backward_flop_count(grad, query, key, value)


# torch registers the formulas for its GPU kernels only.
_CPU_ATTENTION = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention_flops,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward_flops,
}
