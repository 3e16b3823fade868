"""Translate the config.json of transformers' BERT, ELECTRA and ModernBERT into an `EncoderConfig`, and back."""

from collections.abc import Callable, Mapping
from typing import Any

from electra_kernels.models.config import EncoderConfig

# The option values that `Encoder` implements.
_SUPPORTED = {
    "hidden_act": ("gelu",),
    "position_embedding_type": ("absolute",),
    "model_type": ("electra", "bert", "modernbert"),
    "is_decoder": (False,),
}

# transformers' defaults, for whatever a config.json leaves out.
_DEFAULTS = {
    "vocab_size": 30522,
    "num_hidden_layers": 12,
    "max_position_embeddings": 512,
    "type_vocab_size": 2,
    "layer_norm_eps": 1e-12,
    "initializer_range": 0.02,
}
_DEFAULT_SIZES = {
    "bert": {"hidden_size": 768, "num_attention_heads": 12, "intermediate_size": 3072},
    "electra": {
        "embedding_size": 128,
        "hidden_size": 256,
        "num_attention_heads": 4,
        "intermediate_size": 1024,
    },
}


# ModernBERT's defaults in transformers, and the options of which we implement one value.
_MODERN_SIZES = {
    "vocab_size": 50368,
    "hidden_size": 768,
    "num_hidden_layers": 22,
    "num_attention_heads": 12,
    "intermediate_size": 1152,
    "max_position_embeddings": 8192,
    "initializer_range": 0.02,
}
_MODERN_SUPPORTED = {
    "hidden_activation": ("gelu",),
    "classifier_activation": ("gelu",),
    "decoder_bias": (True,),
    "tie_word_embeddings": (True,),
    "rope_scaling": (None,),
}
_BIASES = ("attention_bias", "mlp_bias", "norm_bias", "classifier_bias")
_DROPOUTS = ("embedding_dropout", "attention_dropout", "mlp_dropout")
_LAYER_TYPES = {True: "full_attention", False: "sliding_attention"}
# The base model has no prediction head, so that its bias does not matter.
_BASE_MODEL = "ModernBertModel"


def encoder_config_from_transformers(config: Mapping[str, Any]) -> EncoderConfig:
    """The encoder that a config.json of BERT, ELECTRA or ModernBERT describes.

    Options that it leaves out have transformers' defaults. Without ``model_type`` it is read as ELECTRA's if it has
    an ``embedding_size``, else as BERT's.

    Raises:
        ValueError: an option value that `Encoder` does not implement.
    """
    kind = config.get("model_type", "electra" if "embedding_size" in config else "bert")
    _check_supported(config, _SUPPORTED)
    return _modern_encoder(config) if kind == "modernbert" else _electra_encoder(config, kind)


def _electra_encoder(config: Mapping[str, Any], kind: str) -> EncoderConfig:
    config = _DEFAULTS | _DEFAULT_SIZES[kind] | dict(config)
    dropouts = {
        name: config.get(name, 0.1) for name in ("hidden_dropout_prob", "attention_probs_dropout_prob")
    }
    return EncoderConfig(
        embedding_size=config["embedding_size" if kind == "electra" else "hidden_size"],
        dropout=_common(dropouts),
        **{name: config[name] for name in (*_DEFAULTS, *_DEFAULT_SIZES["bert"])},
    )


def _modern_encoder(config: Mapping[str, Any]) -> EncoderConfig:
    _check_supported(config, _MODERN_SUPPORTED)
    sizes = {name: config.get(name, default) for name, default in _MODERN_SIZES.items()}
    biases = _BIASES[:3] if _BASE_MODEL in (config.get("architectures") or ()) else _BIASES
    bases = {
        kind: _rotary_base(config, kind, old, default)
        for kind, old, default in (
            ("full_attention", "global_rope_theta", 160_000.0),
            ("sliding_attention", "local_rope_theta", 10_000.0),
        )
    }
    return EncoderConfig(
        **sizes,
        embedding_size=sizes["hidden_size"],
        family="modern",
        bias=_common({name: config.get(name, False) for name in biases}),
        global_every=_global_every(config, sizes["num_hidden_layers"]),
        local_window=config.get("local_attention", 128),
        rotary_base=bases["full_attention"],
        local_rotary_base=bases["sliding_attention"],
        dropout=_common({name: config.get(name, 0.0) for name in _DROPOUTS}),
        layer_norm_eps=config.get("norm_eps", 1e-5),
    )


def _global_every(config: Mapping[str, Any], layers: int) -> int:
    """The period of the layers that attend to the whole sequence, from layer_types or its older form.

    A period of at least ``layers`` leaves one such layer, and layer_types alone does not tell it.
    """
    types, period = config.get("layer_types"), int(config.get("global_attn_every_n_layers", 3))
    if types is None or (period > 0 and list(types) == _layer_types(period, layers)):
        return period
    wholes = [index for index, kind in enumerate(types) if kind == _LAYER_TYPES[True]]
    period = (wholes[1] if len(wholes) > 1 else layers) if wholes else 0
    if not period or list(types) != _layer_types(period, layers):
        raise ValueError(
            f"layer_types is {types}, should be {layers} entries, 'full_attention' at 0, n, 2 n, ... and "
            "'sliding_attention' elsewhere"
        )
    return period


def _layer_types(period: int, layers: int) -> list[str]:
    return [_LAYER_TYPES[index % period == 0] for index in range(layers)]


def _rotary_base(config: Mapping[str, Any], kind: str, old: str, default: float) -> float:
    parameters = (config.get("rope_parameters") or {}).get(kind) or {}
    if parameters.get("rope_type", "default") != "default":
        raise ValueError(f"rope_type of {kind} is {parameters['rope_type']!r}, should be 'default'")
    return float(parameters.get("rope_theta", config.get(old, default)))


def _common(values: Mapping[str, Any]) -> Any:
    """The value that all options have, which `EncoderConfig` has once."""
    (first, expected), *others = values.items()
    for name, value in others:
        if value != expected:
            raise ValueError(f"{name} is {value}, should be {expected} as {first}")
    return expected


def _check_supported(config: Mapping[str, Any], supported: Mapping[str, tuple[Any, ...]]) -> None:
    for name, values in supported.items():
        if config.get(name, values[0]) not in values:
            raise ValueError(f"{name} is {config[name]!r}, should be {' or '.join(map(repr, values))}")


def transformers_config(
    config: EncoderConfig, architecture: str, special_ids: Mapping[str, int]
) -> dict[str, Any]:
    """The config.json of transformers' ELECTRA or ModernBERT with this encoder.

    Args:
        config: the encoder.
        architecture: name of the class of transformers.
        special_ids: role → id of the special tokens, of which "pad", "cls" and "sep" are written; ids beyond the
            vocabulary are not.
    """
    common = {
        "architectures": [architecture],
        "hidden_size": config.hidden_size,
        "initializer_range": config.initializer_range,
        "intermediate_size": config.intermediate_size,
        "max_position_embeddings": config.max_position_embeddings,
        "num_attention_heads": config.num_attention_heads,
        "num_hidden_layers": config.num_hidden_layers,
        "tie_word_embeddings": True,
        "vocab_size": config.vocab_size,
    }
    ids = {role: index for role, index in special_ids.items() if index < config.vocab_size}
    family: Callable[..., dict[str, Any]] = _modern_options if config.family == "modern" else _electra_options
    return common | family(config, ids) | _labels(architecture)


def _electra_options(config: EncoderConfig, ids: Mapping[str, int]) -> dict[str, Any]:
    return {
        "attention_probs_dropout_prob": config.dropout,
        "embedding_size": config.embedding_size,
        "hidden_act": "gelu",
        "hidden_dropout_prob": config.dropout,
        "layer_norm_eps": config.layer_norm_eps,
        "model_type": "electra",
        "pad_token_id": ids.get("pad"),
        "type_vocab_size": config.type_vocab_size,
    }


def _modern_options(config: EncoderConfig, ids: Mapping[str, int]) -> dict[str, Any]:
    """ModernBERT's options. The default ids of transformers lie beyond a small vocabulary, so all are written."""
    bases = {"full_attention": config.rotary_base, "sliding_attention": config.local_rotary_base}
    return {
        **dict.fromkeys(_BIASES, config.bias),
        **dict.fromkeys(_DROPOUTS, config.dropout),
        "bos_token_id": ids.get("cls"),
        "cls_token_id": ids.get("cls"),
        "decoder_bias": True,
        "eos_token_id": ids.get("sep"),
        "hidden_activation": "gelu",
        # For transformers 4, which knows neither layer_types nor rope_parameters.
        "global_attn_every_n_layers": config.global_every,
        "global_rope_theta": config.rotary_base,
        "local_rope_theta": config.local_rotary_base,
        "layer_types": _layer_types(config.global_every, config.num_hidden_layers),
        "local_attention": config.local_window,
        "model_type": "modernbert",
        "norm_eps": config.layer_norm_eps,
        "pad_token_id": ids.get("pad"),
        "rope_parameters": {
            kind: {"rope_theta": base, "rope_type": "default"} for kind, base in bases.items()
        },
        "sep_token_id": ids.get("sep"),
    }


def _labels(architecture: str) -> dict[str, Any]:
    """The one logit of a discriminator that transformers knows as a token classifier."""
    if not architecture.endswith("ForTokenClassification"):
        return {}
    return {"id2label": {"0": "replaced"}, "label2id": {"replaced": 0}}
