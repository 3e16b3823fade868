"""The named configurations: those of the original ELECTRA, two modern ones and the demo."""

from dataclasses import replace

from electra_kernels.models.config import ElectraConfig, EncoderConfig, check_choice

CONFIGURATIONS = ("demo", "small", "base", "large", "modern-small", "modern-base")


def electra_config(name: str, *, vocab_size: int, mask_token_id: int) -> ElectraConfig:
    """The configuration with one of the names in CONFIGURATIONS.

    "small", "base" and "large" are those of google-research/electra (configure_pretraining.py,
    util/training_utils.py and run_pretraining.get_generator_config): heads of size 64, a feed-forward width of 4 H,
    and a generator of the same depth that shares the discriminator's embeddings and whose H is 1/4, 1/3 or 1/4 of the
    discriminator's.

    "modern-base" has the sizes of ModernBERT-base (Warner et al. 2024, arXiv 2412.13663; AnswerDotAI/ModernBERT,
    modernbert-base-pretrain.yaml) and the tasks of "base". Its generator has the same width and half of the layers, as
    in DeBERTaV3 (He et al. 2021, arXiv 2111.09543; microsoft/DeBERTa, rtd_base.json), because E = H in this family.
    Both rotary bases are 10,000, as in ModernBERT's pre-training at 1,024 tokens. ModernBERT raised the base of the
    global layers to 160,000 only when it went on to 8,192. "modern-small" has the width and depth of "small" and, as
    E = H, 16 % more parameters. Neither has dropout. "demo" learns within minutes on a CPU: modern, no dropout, one
    encoder for both models.

    Args:
        name: one of CONFIGURATIONS.
        vocab_size: V.
        mask_token_id: id of ``[MASK]``.

    Raises:
        ValueError: the name is unknown.
    """
    check_choice("name", name, CONFIGURATIONS)
    if name == "demo":
        demo = EncoderConfig(
            vocab_size,
            embedding_size=128,
            hidden_size=128,
            num_hidden_layers=3,
            num_attention_heads=4,
            intermediate_size=344,
            family="modern",
            dropout=0.0,
            layer_norm_eps=1e-5,
            initializer_range=0.05,
        )
        return ElectraConfig(demo, None, mask_token_id, tie="all", mask_probability=0.3, rtd_weight=30.0)
    if name.startswith("modern"):
        hidden, layers, intermediate = {"modern-small": (256, 12, 512), "modern-base": (768, 22, 1152)}[name]
        modern = _modern_encoder(vocab_size, hidden, layers, intermediate)
        generator = replace(modern, num_hidden_layers=layers // 2)
        return ElectraConfig(modern, generator, mask_token_id)
    embedding, hidden, layers, generator_hidden, mask_probability = {
        "small": (128, 256, 12, 64, 0.15),
        "base": (768, 768, 12, 256, 0.15),
        "large": (1024, 1024, 24, 256, 0.25),
    }[name]
    return ElectraConfig(
        discriminator=_original_encoder(vocab_size, embedding, hidden, layers),
        generator=_original_encoder(vocab_size, embedding, generator_hidden, layers),
        mask_token_id=mask_token_id,
        mask_probability=mask_probability,
    )


def _original_encoder(vocab_size: int, embedding: int, hidden: int, layers: int) -> EncoderConfig:
    return EncoderConfig(vocab_size, embedding, hidden, layers, max(1, hidden // 64), 4 * hidden)


def _modern_encoder(vocab_size: int, hidden: int, layers: int, intermediate: int) -> EncoderConfig:
    return EncoderConfig(
        vocab_size,
        hidden,
        hidden,
        layers,
        hidden // 64,
        intermediate,
        family="modern",
        global_every=3,
        dropout=0.0,
        layer_norm_eps=1e-5,
    )
