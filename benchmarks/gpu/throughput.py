"""Tokens per second, share of the GPU's peak and hours of pre-training, from the time of a training step."""

from typing import Any

from benchmarks import masking
from electra_kernels.models import ElectraConfig, EncoderConfig

STEPS = 1_000_000
# Dense bfloat16 FLOP/s from the data sheets. The first key that is part of the GPU's name counts.
PEAKS = {
    "H100 PCIe": 756e12,
    "H100 NVL": 835e12,
    "H100": 989e12,
    "H200": 989e12,
    "A100": 312e12,
    "B200": 2250e12,
}
FLOPS = (
    "3 x the forward's; an encoder's: tokens x layers x (8 H^2 + 4 H I + 4 T H) + 2 tokens E H where E != H; "
    "heads: 2 N E (H' + V) + 2 tokens H (H + 1), with H' of the generator"
)


def flops(config: ElectraConfig, batch: int, length: int) -> float:
    """Floating-point operations of one step by the formula FLOPS, without the optimiser's."""
    generator, discriminator, tokens = config.generator, config.discriminator, batch * length
    assert generator is not None
    masked, embedding, width = (
        batch * masking.slots(length),
        generator.embedding_size,
        discriminator.hidden_size,
    )
    heads = 2 * masked * embedding * (generator.hidden_size + generator.vocab_size) + 2 * tokens * width * (
        width + 1
    )
    return 3.0 * (heads + sum(_encoder_flops(part, tokens, length) for part in (generator, discriminator)))


def _encoder_flops(config: EncoderConfig, tokens: int, length: int) -> int:
    width, embedding = config.hidden_size, config.embedding_size
    layer = 8 * width**2 + 4 * width * config.intermediate_size + 4 * length * width
    projection = 0 if embedding == width else 2 * embedding * width
    return tokens * (config.num_hidden_layers * layer + projection)


def figures(record: dict[str, Any], config: ElectraConfig, gpu: str) -> dict[str, Any]:
    """For each variant of a training step: tokens per second, share of the GPU's peak, hours for STEPS steps.

    Args:
        record: as `results.record` makes it from a case of `training_step`.
        config: the models.
        gpu: name of the GPU; an unknown one has no peak.
    """
    batch, length = record["sizes"]["B"], record["sizes"]["T"]
    work = flops(config, batch, length)
    peak = next((value for part, value in PEAKS.items() if part in gpu), None)

    def of(seconds: float) -> dict[str, Any]:
        return {
            "tokens_per_second": round(batch * length / seconds),
            "share_of_peak": None if peak is None else round(work / seconds / peak, 4),
            "hours": round(STEPS * seconds / 3600, 2),
        }

    return {
        "flops": work,
        "formula": FLOPS,
        "peak_flops_per_second": peak,
        "variants": {variant: of(values["median_seconds"]) for variant, values in record["variants"].items()},
    }
