"""Translate the config.json of transformers' BERT and ELECTRA into an `EncoderConfig`, and back."""

from collections.abc import Mapping
from typing import Any

from electra_kernels.models.config import EncoderConfig

# The option values that `Encoder` implements.
_SUPPORTED = {
    "hidden_act": ("gelu",),
    "position_embedding_type": ("absolute",),
    "model_type": ("electra", "bert"),
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


def encoder_config_from_transformers(config: Mapping[str, Any]) -> EncoderConfig:
    """The encoder that a config.json of BERT or ELECTRA describes.

    Options that it leaves out have transformers' defaults. Without ``model_type`` it is read as ELECTRA's if it has
    an ``embedding_size``, else as BERT's.

    Raises:
        ValueError: an option value that `Encoder` does not implement.
    """
    kind = config.get("model_type", "electra" if "embedding_size" in config else "bert")
    for name, values in _SUPPORTED.items():
        if config.get(name, values[0]) not in values:
            raise ValueError(f"{name} is {config[name]!r}, should be {' or '.join(map(repr, values))}")
    config = _DEFAULTS | _DEFAULT_SIZES[kind] | dict(config)
    dropout, attention_dropout = (
        config.get(f"{name}_dropout_prob", 0.1) for name in ("hidden", "attention_probs")
    )
    if dropout != attention_dropout:
        raise ValueError(
            f"attention_probs_dropout_prob is {attention_dropout}, should be {dropout} as hidden_dropout_prob"
        )
    return EncoderConfig(
        embedding_size=config["embedding_size" if kind == "electra" else "hidden_size"],
        dropout=dropout,
        **{name: config[name] for name in (*_DEFAULTS, *_DEFAULT_SIZES["bert"])},
    )


def transformers_config(config: EncoderConfig, architecture: str, pad_token_id: int | None) -> dict[str, Any]:
    """The config.json of transformers' ELECTRA with this encoder.

    Args:
        config: an encoder with absolute positions and post-norm.
        architecture: name of the class of transformers.
        pad_token_id: written as it is.

    Raises:
        ValueError: rotary positions or pre-norm, which transformers' ELECTRA does not have.
    """
    if config.position_embedding != "absolute" or config.norm != "post":
        raise ValueError(
            f"position_embedding={config.position_embedding!r} with norm={config.norm!r} is not in "
            "transformers' ELECTRA, should be 'absolute' with 'post' to be exported"
        )
    return {
        "architectures": [architecture],
        "attention_probs_dropout_prob": config.dropout,
        "embedding_size": config.embedding_size,
        "hidden_act": "gelu",
        "hidden_dropout_prob": config.dropout,
        "hidden_size": config.hidden_size,
        "initializer_range": config.initializer_range,
        "intermediate_size": config.intermediate_size,
        "layer_norm_eps": config.layer_norm_eps,
        "max_position_embeddings": config.max_position_embeddings,
        "model_type": "electra",
        "num_attention_heads": config.num_attention_heads,
        "num_hidden_layers": config.num_hidden_layers,
        "pad_token_id": pad_token_id,
        "tie_word_embeddings": True,
        "type_vocab_size": config.type_vocab_size,
        "vocab_size": config.vocab_size,
    }
