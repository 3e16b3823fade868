"""The options of `ReplacedTokenDetection`, which its config.json keeps, and the models that they describe."""

import copy
from collections.abc import Sequence
from typing import Any, ClassVar

import transformers
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

EMBEDDINGS = ("shared", "gradient_disentangled", "separate")


class ReplacedTokenDetectionConfig(PreTrainedConfig):
    """The configurations of both models, and how they are trained together.

    ``vocab_size`` is that of both models; setting it sets both.

    Args:
        generator, discriminator: configurations of the two models, as objects or as dicts.
        mask_token_id: id of the mask token.
        special_token_ids: ids that are never masked.
        embeddings: "shared" (one word embedding, as in ELECTRA), "gradient_disentangled" (the discriminator adds a
            matrix of its own to the generator's embedding, which it does not train; He et al. 2021, DeBERTaV3,
            section 3.3) or "separate".
        mask_probability, mask_fraction, random_fraction: as in `electra_kernels.mask_tokens`.
        sampling_temperature, ban_original: options of the draw, as temperature and ban_original in
            `electra_kernels.linear_cross_entropy_sample`.
        rtd_weight: weight of the discriminator's loss relative to the generator's.
        seed: seed of masking and sampling.
        kwargs: as for any configuration. ``attn_implementation`` is a name for both models, or a dict
            ``{"generator": name, "discriminator": name}``; by default each model keeps its own.

    Raises:
        ValueError: embeddings is unknown, or an option is out of range.
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
        # Set after the base class, which would overwrite the attention implementation of both models with None.
        self.generator: Any = _config_object(generator)
        self.discriminator: Any = _config_object(discriminator)
        if kwargs.get("attn_implementation") is not None:
            self._attn_implementation = kwargs["attn_implementation"]

    @property
    def vocab_size(self) -> int:
        size: int = self.generator.vocab_size
        return size

    @vocab_size.setter
    def vocab_size(self, size: int) -> None:
        self.generator.vocab_size = self.discriminator.vocab_size = size


def config_from_models(
    generator: PreTrainedModel,
    discriminator: PreTrainedModel | None,
    tokenizer: PreTrainedTokenizerBase | None,
    options: dict[str, Any],
) -> ReplacedTokenDetectionConfig:
    """The configuration of two models. The tokenizer provides the token ids that the options leave out.

    Raises:
        TypeError: one of the two is not a model of transformers.
        ValueError: the vocabularies have different sizes, there is no mask token, or an option is out of range.
    """
    for name, model in (("generator", generator), ("discriminator", discriminator)):
        if not isinstance(model, PreTrainedModel):
            raise TypeError(f"{name} is {type(model).__name__}, should be a transformers.PreTrainedModel")
    assert discriminator is not None
    _separate_configurations(generator, discriminator)
    if tokenizer is not None:
        options.setdefault("mask_token_id", tokenizer.mask_token_id)
        options.setdefault("special_token_ids", tokenizer.all_special_ids)
    if options.get("mask_token_id") is None:
        raise ValueError("mask_token_id is None, should be an id: give it, or a tokenizer that has one")
    sizes = [model.config.vocab_size for model in (generator, discriminator)]
    if sizes[0] != sizes[1]:
        raise ValueError(
            f"discriminator has a vocabulary of {sizes[1]}, should be {sizes[0]} as the generator's"
        )
    return ReplacedTokenDetectionConfig(generator.config, discriminator.config, **options)


def model_from_config(config: PreTrainedConfig) -> PreTrainedModel:
    """A new model of the class that its configuration names.

    Raises:
        ValueError: transformers has no such class.
    """
    name = (config.architectures or ["none"])[0]
    if not hasattr(transformers, name):
        raise ValueError(
            f"architectures of the {config.model_type} is {name}, should be a class of transformers"
        )
    model: PreTrainedModel = getattr(transformers, name)(config)
    return model


def _config_object(config: PreTrainedConfig | dict[str, Any] | None) -> PreTrainedConfig | None:
    if not isinstance(config, dict):
        return config
    values = dict(config)
    return AutoConfig.for_model(values.pop("model_type"), **values)


def _separate_configurations(generator: PreTrainedModel, discriminator: PreTrainedModel) -> None:
    """Give each model a configuration object of its own that names the model's class."""
    shared = generator.config
    if shared is discriminator.config:
        own = copy.deepcopy(shared)
        for module in discriminator.modules():
            if getattr(module, "config", None) is shared:
                module.config = own  # type: ignore[assignment]
    for model in (generator, discriminator):
        model.config.architectures = [type(model).__name__]
