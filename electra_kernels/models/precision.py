"""Tells whether a device computes in bfloat16 natively, so that autocast makes a step faster and not slower."""

import torch

_CPU_INSTRUCTIONS = ("avx512_bf16", "amx_bf16", "arm_bf16", "bf16")


def has_native_bfloat16(device: torch.device) -> bool:
    """Whether a GPU has bfloat16 tensor cores, or a CPU bfloat16 dot products (AVX-512 BF16, AMX, Armv8.6)."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(name, False) for name in _CPU_INSTRUCTIONS)
