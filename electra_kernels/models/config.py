"""Sizes and options of the reference ELECTRA."""

from dataclasses import MISSING, asdict, dataclass, fields, replace
from typing import Any

FAMILIES = ("electra", "modern")
GENERATOR_KINDS = ("model", "uniform", "unigram")
TIES = ("all", "embeddings", "none")

# The fields that must agree in two encoders that share their embeddings.
_EMBEDDING_FIELDS = (
    "vocab_size",
    "embedding_size",
    "max_position_embeddings",
    "type_vocab_size",
    "family",
    "bias",
    "layer_norm_eps",
)

# The fields that only one family has, with the values that the other one requires.
_FAMILY_FIELDS: dict[str, dict[str, object]] = {
    "modern": {
        "bias": False,
        "global_every": 1,
        "local_window": 128,
        "rotary_base": 10_000.0,
        "local_rotary_base": 10_000.0,
    },
    "electra": {"type_vocab_size": 2},
}


@dataclass(frozen=True)
class EncoderConfig:
    """Sizes and options of one Transformer encoder.

    Args:
        vocab_size: V.
        embedding_size: E. If it differs from ``hidden_size``, a linear projection follows the embeddings.
        hidden_size: H, a multiple of ``num_attention_heads``.
        num_hidden_layers: number of layers.
        num_attention_heads: attention heads per layer.
        intermediate_size: width of the feed-forward block.
        max_position_embeddings: length of the longest sequence. "modern" has no limit: there it is the length that
            the model is meant for, which transformers writes into its configuration.
        type_vocab_size: number of token types (segments); only "electra" has them.
        family: "electra" (BERT and ELECTRA: learned positions, LayerNorm after each residual sum) or "modern"
            (ModernBERT, Warner et al. 2024, arXiv 2412.13663: rotary positions, LayerNorm before each block, GeGLU).
        bias: whether the linear maps and norms of "modern" have biases.
        global_every: layers 0, n, 2 n, ... of "modern" attend to the whole sequence, the others to a window.
        local_window: width w of that window: a token sees those at most w // 2 tokens away.
        rotary_base, local_rotary_base: base of the rotary angles (Su et al. 2021, arXiv 2104.09864) in layers that
            attend to the whole sequence, and in those that attend to a window.
        dropout: rate for the embeddings, the attention probabilities and the output of each block ("modern": within
            the feed-forward block instead of after it).
        layer_norm_eps: epsilon of every LayerNorm.
        initializer_range: standard deviation of the initial weights. The 0.02 of BERT and ELECTRA is small for a
            narrow encoder, which then starts to learn late; about 1 / sqrt(H) suits any width.

    Raises:
        ValueError: a value is out of range.
    """

    vocab_size: int
    embedding_size: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int
    max_position_embeddings: int = 512
    type_vocab_size: int = 2
    family: str = "electra"
    bias: bool = False
    global_every: int = 1
    local_window: int = 128
    rotary_base: float = 10_000.0
    local_rotary_base: float = 10_000.0
    dropout: float = 0.1
    layer_norm_eps: float = 1e-12
    initializer_range: float = 0.02

    def __post_init__(self) -> None:
        for field in fields(self):
            if field.type is int and getattr(self, field.name) < 1:
                raise ValueError(f"{field.name} is {getattr(self, field.name)}, should be at least 1")
        if self.hidden_size % self.num_attention_heads != 0:
            raise ValueError(
                f"hidden_size is {self.hidden_size}, should be a multiple of num_attention_heads = "
                f"{self.num_attention_heads}"
            )
        self._check_family()
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout is {self.dropout}, should be in [0, 1)")
        if not self.initializer_range > 0:
            raise ValueError(f"initializer_range is {self.initializer_range}, should be above 0")
        if not self.layer_norm_eps > 0:
            raise ValueError(f"layer_norm_eps is {self.layer_norm_eps}, should be above 0")

    def _check_family(self) -> None:
        check_choice("family", self.family, FAMILIES)
        for family, defaults in _FAMILY_FIELDS.items():
            for name, default in defaults.items():
                if family != self.family and getattr(self, name) != default:
                    raise ValueError(
                        f"{name} is {getattr(self, name)}, should be {default}: family {self.family!r} does not have it"
                    )
        if self.family == "electra":
            return
        if self.embedding_size != self.hidden_size:
            raise ValueError(
                f"embedding_size is {self.embedding_size}, should be hidden_size = {self.hidden_size} in "
                "family 'modern'"
            )
        if self.head_size % 2 != 0:
            raise ValueError(
                f"hidden_size / num_attention_heads is {self.head_size}, should be even for rotary positions"
            )
        for name in ("rotary_base", "local_rotary_base"):
            if not 1 < getattr(self, name) < float("inf"):
                raise ValueError(f"{name} is {getattr(self, name)}, should be a finite number above 1")

    def is_global(self, layer: int) -> bool:
        """Whether a layer, counted from 0, attends to the whole sequence."""
        return layer % self.global_every == 0

    @property
    def head_size(self) -> int:
        return self.hidden_size // self.num_attention_heads


@dataclass(frozen=True)
class ElectraConfig:
    """A discriminator, the source of its replacements, and how both are trained together.

    Args:
        discriminator: the encoder that is kept after pre-training.
        generator: the generator's encoder; None if the generator is not a model, and with tie="all".
        mask_token_id: id of ``[MASK]``.
        generator_kind: "model" (a masked language model), "uniform" (every id with the same probability) or "unigram"
            (every id by its frequency).
        tie: the weights that both models share: "all" (one encoder with two heads), "embeddings" (word, position and
            type embeddings and their LayerNorm, as in the original) or "none".
        mask_probability: share of the maskable tokens that is masked, in (0, 1].
        temperature: temperature at which a model draws the replacements, above 0.
        ban_original: never draw the original token, so that every masked position is replaced.
        rtd_weight: weight of the discriminator's loss relative to the generator's.
        sampling_dropout: whether the generator uses dropout in training, in the one pass that gives its loss *and*
            the sample. With False the sample comes from the distribution without dropout, and needs no second pass.
        whole_word_masking: mask all tokens of a word together, see `electra_kernels.models.word_masking`.
        max_ngram: mask spans of 1 to this number of consecutive words, or of tokens without whole_word_masking.

    Raises:
        ValueError: a value is out of range, or the generator does not fit generator_kind or tie.
    """

    discriminator: EncoderConfig
    generator: EncoderConfig | None
    mask_token_id: int
    generator_kind: str = "model"
    tie: str = "embeddings"
    mask_probability: float = 0.15
    temperature: float = 1.0
    ban_original: bool = False
    rtd_weight: float = 50.0
    sampling_dropout: bool = True
    whole_word_masking: bool = False
    max_ngram: int = 1

    def __post_init__(self) -> None:
        check_choice("generator_kind", self.generator_kind, GENERATOR_KINDS)
        check_choice("tie", self.tie, TIES)
        self._check_generator()
        if not 0 <= self.mask_token_id < self.discriminator.vocab_size:
            raise ValueError(
                f"mask_token_id is {self.mask_token_id}, should be in [0, {self.discriminator.vocab_size})"
            )
        if not 0 < self.mask_probability <= 1:
            raise ValueError(f"mask_probability is {self.mask_probability}, should be in (0, 1]")
        if not 0 < self.temperature < float("inf"):
            raise ValueError(f"temperature is {self.temperature}, should be a finite number above 0")
        if not 0 <= self.rtd_weight < float("inf"):
            raise ValueError(f"rtd_weight is {self.rtd_weight}, should be a finite number, at least 0")
        if self.max_ngram < 1:
            raise ValueError(f"max_ngram is {self.max_ngram}, should be at least 1")

    def _check_generator(self) -> None:
        if self.generator_kind != "model":
            if self.generator is not None:
                raise ValueError(
                    f"generator is given with generator_kind={self.generator_kind!r}, should be None"
                )
            return
        if self.generator is None:
            if self.tie != "all":
                raise ValueError(f"generator is None with tie={self.tie!r}, should be an EncoderConfig")
            return
        shared = {
            "all": tuple(field.name for field in fields(EncoderConfig)),
            "embeddings": _EMBEDDING_FIELDS,
            "none": ("vocab_size",),
        }[self.tie]
        for name in shared:
            value, expected = getattr(self.generator, name), getattr(self.discriminator, name)
            if value != expected:
                raise ValueError(
                    f"generator.{name} is {value}, should be {expected} as the discriminator's with "
                    f"tie={self.tie!r}"
                )

    def with_dropout(self, rate: float) -> "ElectraConfig":
        """The same configuration with another dropout rate in both encoders."""
        encoders = {
            name: None if encoder is None else replace(encoder, dropout=rate)
            for name, encoder in (("discriminator", self.discriminator), ("generator", self.generator))
        }
        return replace(self, **encoders)  # type: ignore[arg-type]

    def to_dict(self) -> dict[str, Any]:
        """The fields as numbers, strings, dicts and None, which JSON can store; `from_dict` is the inverse."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "ElectraConfig":
        """The configuration that `to_dict` turned into ``values``.

        Raises:
            ValueError: a name is unknown or missing, or a value is out of range.
        """
        _check_names("the configuration", values, cls)
        encoders: dict[str, EncoderConfig | None] = {}
        for name in ("discriminator", "generator"):
            if values[name] is not None:
                _check_names(name, values[name], EncoderConfig)
            encoders[name] = None if values[name] is None else EncoderConfig(**values[name])
        return cls(**{**values, **encoders})


def check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    """Raise ValueError unless the value is one of the choices."""
    if value not in choices:
        raise ValueError(f"{name} is {value!r}, should be one of {', '.join(map(repr, choices))}")


def _check_names(owner: str, values: dict[str, Any], cls: type[EncoderConfig] | type[ElectraConfig]) -> None:
    if not isinstance(values, dict):
        raise ValueError(f"{owner} is {type(values).__name__}, should be a dict")
    known = [field.name for field in fields(cls)]
    for name in values:
        if name not in known:
            raise ValueError(f"{owner} has {name!r}, should have only {', '.join(known)}")
    for field in fields(cls):
        if field.default is MISSING and field.name not in values:
            raise ValueError(f"{owner} has no {field.name!r}, should have it")
