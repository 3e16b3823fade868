"""The options of `ReplacedTokenDetection`, kept in its config.json."""

from collections.abc import Sequence
from typing import Any, ClassVar

from transformers import AutoConfig, PreTrainedConfig

EMBEDDINGS = ("shared", "gradient_disentangled", "separate")


class ReplacedTokenDetectionConfig(PreTrainedConfig):
    """Configurations of both models, and how they are trained together.

    ``vocab_size`` is that of both models; setting it sets both.

    Args:
        generator, discriminator: configurations of the two models, or these as dicts.
        mask_token_id: id of the mask token.
        special_token_ids: ids that are never masked.
        embeddings: "shared" (one word embedding, as in ELECTRA), "gradient_disentangled" (the discriminator adds a
            matrix of its own to the generator's, which it does not train; He et al. 2021, DeBERTaV3, section 3.3)
            or "separate".
        mask_probability, mask_fraction, random_fraction: as `electra_kernels.mask_tokens`.
        sampling_temperature, ban_original: of the draw, as temperature and ban_original of
            `electra_kernels.linear_cross_entropy_sample`.
        rtd_weight: weight of the discriminator's loss beside the generator's.
        seed: of masking and sampling.
        kwargs: as of any configuration. ``attn_implementation`` is a name for both models, or a dict
            ``{"generator": name, "discriminator": name}``; by default each model keeps its own.

    Raises:
        ValueError: embeddings unknown, or an option out of range.
    """

    model_type = "replaced_token_detection"
    sub_configs: ClassVar = {"generator": AutoConfig, "discriminator": AutoConfig}
    has_no_defaults_at_init = True
    # Trainer collects the other outputs over the evaluation data, for `compute_metrics`.
    keys_to_ignore_at_inference: ClassVar = [
        "mlm_loss",
        "rtd_loss",
        "counts",
        "hidden_states",
        "attentions",
        "generator_hidden_states",
        "generator_attentions",
    ]

    def __init__(
        self,
        generator: PreTrainedConfig | dict[str, Any] | None = None,
        discriminator: PreTrainedConfig | dict[str, Any] | None = None,
        mask_token_id: int = -1,
        special_token_ids: Sequence[int] = (),
        embeddings: str = "shared",
        mask_probability: float = 0.15,
        mask_fraction: float = 0.85,
        random_fraction: float = 0.0,
        sampling_temperature: float = 1.0,
        ban_original: bool = False,
        rtd_weight: float = 50.0,
        seed: int = 0,
        **kwargs: Any,
    ) -> None:
        if embeddings not in EMBEDDINGS:
            expected = ", ".join(map(repr, EMBEDDINGS))
            raise ValueError(f"embeddings is {embeddings!r}, should be one of {expected}")
        if not 0 <= rtd_weight < float("inf"):
            raise ValueError(f"rtd_weight is {rtd_weight}, should be a finite number, at least 0")
        self.mask_token_id, self.special_token_ids = mask_token_id, list(special_token_ids)
        self.embeddings = embeddings
        self.mask_probability, self.mask_fraction = mask_probability, mask_fraction
        self.random_fraction = random_fraction
        self.sampling_temperature, self.ban_original = sampling_temperature, ban_original
        self.rtd_weight, self.seed = rtd_weight, seed
        kwargs["tie_word_embeddings"] = embeddings == "shared"
        super().__init__(**kwargs)
        # The base class would overwrite the attention of both models with None, so it does not see them.
        self.generator: Any = _config(generator)
        self.discriminator: Any = _config(discriminator)
        if kwargs.get("attn_implementation") is not None:
            self._attn_implementation = kwargs["attn_implementation"]

    @property
    def vocab_size(self) -> int:
        size: int = self.generator.vocab_size
        return size

    @vocab_size.setter
    def vocab_size(self, size: int) -> None:
        self.generator.vocab_size = self.discriminator.vocab_size = size


def _config(config: PreTrainedConfig | dict[str, Any] | None) -> PreTrainedConfig | None:
    if not isinstance(config, dict):
        return config
    values = dict(config)
    return AutoConfig.for_model(values.pop("model_type"), **values)
