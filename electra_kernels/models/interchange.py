"""Weights to and from Hugging Face transformers, under its own names, in both directions.

transformers itself is not needed: a checkpoint is its config.json and its tensors (`transformers_files`).
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from electra_kernels.models.config import ElectraConfig, EncoderConfig
from electra_kernels.models.electra import Electra
from electra_kernels.models.encoder import Encoder
from electra_kernels.models.tokenizer import check_tokenizer, save_tokenizer
from electra_kernels.models.transformers_files import (
    Checkpoint,
    current_state,
    read_checkpoint,
    write_checkpoint,
)

if TYPE_CHECKING:
    from tokenizers import Tokenizer

__all__ = [
    "Checkpoint",
    "encoder_config_from_transformers",
    "encoder_from_transformers",
    "from_transformers",
    "read_checkpoint",
    "save_transformers",
    "to_transformers",
]

# Our module, and theirs. Several of theirs stand one below the other in ours.
_EMBEDDINGS = (
    ("embeddings.word", ("embeddings.word_embeddings",)),
    ("embeddings.position", ("embeddings.position_embeddings",)),
    ("embeddings.token_type", ("embeddings.token_type_embeddings",)),
    ("embeddings.norm", ("embeddings.LayerNorm",)),
)
_LAYER = (
    ("attention.qkv", ("attention.self.query", "attention.self.key", "attention.self.value")),
    ("attention.output", ("attention.output.dense",)),
    ("attention_norm", ("attention.output.LayerNorm",)),
    ("intermediate", ("intermediate.dense",)),
    ("output", ("output.dense",)),
    ("output_norm", ("output.LayerNorm",)),
)
_HEADS = {
    "discriminator": (
        ("transform.0", ("discriminator_predictions.dense",)),
        ("head", ("discriminator_predictions.dense_prediction",)),
    ),
    "generator": (
        ("transform.0", ("generator_predictions.dense",)),
        ("transform.2", ("generator_predictions.LayerNorm",)),
        ("head", ("generator_lm_head",)),
    ),
}
_ARCHITECTURES = {"discriminator": "ElectraForPreTraining", "generator": "ElectraForMaskedLM"}
_TIED = "generator_lm_head.weight"
_WORD = "electra.embeddings.word_embeddings.weight"
_MUST_BE = {
    "hidden_act": ("gelu",),
    "position_embedding_type": ("absolute",),
    "model_type": ("electra", "bert"),
    "is_decoder": (False,),
}

# Values of transformers for what a config.json leaves out.
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

Modules = Iterator[tuple[str, tuple[str, ...]]]


def encoder_from_transformers(checkpoint: Checkpoint) -> Encoder:
    """The encoder of a BERT or ELECTRA checkpoint, with whatever head, in evaluation mode.

    Names start with ``bert.``, with ``electra.``, or with neither, as those of ``BertModel`` do.

    Raises:
        ValueError: an option of the configuration that `Encoder` does not have, or a tensor that is missing,
            left over or of another shape.
    """
    state = current_state(checkpoint)
    for prefix in ("electra.", "bert."):
        if any(name.startswith(prefix) for name in state):
            state = {name.removeprefix(prefix): state[name] for name in state if name.startswith(prefix)}
    encoder = Encoder(encoder_config_from_transformers(checkpoint.config))
    _load(encoder, _encoder_modules(encoder.config), state)
    return encoder.eval()


def from_transformers(
    discriminator: Checkpoint, generator: Checkpoint, *, mask_token_id: int, **options: Any
) -> Electra:
    """An `Electra` with the weights of ``ElectraForPreTraining`` and ``ElectraForMaskedLM``, in evaluation mode.

    Whatever the two have in common stays in common: with equal encoders tie="all", with equal embeddings
    tie="embeddings", else "none".

    Args:
        discriminator, generator: the two checkpoints.
        mask_token_id: id of ``[MASK]``.
        options: other fields of `ElectraConfig`, as mask_probability.

    Raises:
        ValueError: as `encoder_from_transformers`; or an output layer that is not the word embedding.
    """
    states = {"discriminator": current_state(discriminator), "generator": current_state(generator)}
    # transformers saves either of two tied tensors.
    head, word = (states["generator"].get(name) for name in (_TIED, _WORD))
    if head is not None and word is not None and not torch.equal(head, word):
        raise ValueError(f"{_TIED} differs from {_WORD}, should be tied to it (tie_word_embeddings=True)")
    for name, tensor in ((_TIED, word), (_WORD, head)):
        if tensor is not None:
            states["generator"].setdefault(name, tensor)
    configs = [encoder_config_from_transformers(each.config) for each in (discriminator, generator)]
    tie = "none"
    if configs[0].layer_norm_eps == configs[1].layer_norm_eps and _have_equal(
        "electra.embeddings.", *states.values()
    ):
        tie = "embeddings"
    if configs[0] == configs[1] and _have_equal("electra.", *states.values()):
        tie = "all"
    model = Electra(
        ElectraConfig(configs[0], None if tie == "all" else configs[1], mask_token_id, tie=tie, **options)
    )
    for name, state in states.items():
        part = getattr(model, name)
        _load(part, _modules(name, part.encoder.config), state)
    return model.eval()


def to_transformers(model: Electra, *, pad_token_id: int | None = 0) -> dict[str, Checkpoint]:
    """Checkpoints "discriminator" (ElectraForPreTraining) and, of a model, "generator" (ElectraForMaskedLM).

    Args:
        model: absolute positions and post-norm.
        pad_token_id: written into the configurations.

    Raises:
        ValueError: rotary positions or pre-norm, which transformers' ELECTRA does not have.
    """
    checkpoints = {}
    for name in ("discriminator", "generator"):
        part = getattr(model, name)
        if part is not None:
            state = _their_state(part, _modules(name, part.encoder.config))
            state.pop(_TIED, None)
            config = _their_config(part.encoder.config, _ARCHITECTURES[name], pad_token_id)
            checkpoints[name] = Checkpoint(config, state)
    return checkpoints


def save_transformers(
    model: Electra,
    directory: str | Path,
    *,
    pad_token_id: int | None = 0,
    tokenizer: "Tokenizer | None" = None,
) -> None:
    """Write directory/discriminator and directory/generator, which transformers' ``from_pretrained`` loads.

    Args and errors: as `to_transformers`. ``tokenizer``, by default ``model.tokenizer``, is written into both, for
    ``AutoTokenizer``; a ValueError names one of more entries than the model, or without BERT's special tokens.
    """
    if tokenizer := tokenizer or model.tokenizer:
        check_tokenizer(tokenizer, model.config.discriminator.vocab_size)
    for name, checkpoint in to_transformers(model, pad_token_id=pad_token_id).items():
        path = Path(directory) / name
        write_checkpoint(checkpoint, path)
        if tokenizer:
            save_tokenizer(tokenizer, path, max_length=checkpoint.config["max_position_embeddings"])


def encoder_config_from_transformers(config: Mapping[str, Any]) -> EncoderConfig:
    """The encoder that a config.json of BERT or ELECTRA describes; what it leaves out is as in transformers.

    Without ``model_type`` it is BERT's, or ELECTRA's where it has an ``embedding_size``.

    Raises:
        ValueError: an option that `Encoder` does not have.
    """
    kind = config.get("model_type", "electra" if "embedding_size" in config else "bert")
    for name, values in _MUST_BE.items():
        if config.get(name, values[0]) not in values:
            raise ValueError(f"{name} is {config[name]!r}, should be {' or '.join(map(repr, values))}")
    config = _DEFAULTS | _DEFAULT_SIZES[kind] | dict(config)
    dropout, attention_dropout = (
        config.get(f"{name}_dropout_prob", 0.1) for name in ("hidden", "attention_probs")
    )
    if dropout != attention_dropout:
        raise ValueError(
            f"attention_probs_dropout_prob is {attention_dropout}, should be {dropout} like the other"
        )
    return EncoderConfig(
        embedding_size=config["embedding_size" if kind == "electra" else "hidden_size"],
        dropout=dropout,
        **{name: config[name] for name in (*_DEFAULTS, *_DEFAULT_SIZES["bert"])},
    )


def _their_config(config: EncoderConfig, architecture: str, pad_token_id: int | None) -> dict[str, Any]:
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


def _encoder_modules(config: EncoderConfig, ours: str = "", theirs: str = "") -> Modules:
    def prefixed(pairs: tuple[tuple[str, tuple[str, ...]], ...], ours: str, theirs: str) -> Modules:
        for name, others in pairs:
            yield ours + name, tuple(theirs + other for other in others)

    yield from prefixed(_EMBEDDINGS, ours, theirs)
    if config.embedding_size != config.hidden_size:
        yield f"{ours}projection", (f"{theirs}embeddings_project",)
    for layer in range(config.num_hidden_layers):
        yield from prefixed(_LAYER, f"{ours}layers.{layer}.", f"{theirs}encoder.layer.{layer}.")


def _modules(part: str, config: EncoderConfig) -> Modules:
    yield from _encoder_modules(config, "encoder.", "electra.")
    yield from _HEADS[part]


def _their_state(module: nn.Module, modules: Modules) -> dict[str, Tensor]:
    ours, theirs = module.state_dict(), {}
    for name, others in modules:
        for kind in ("weight", "bias"):
            if f"{name}.{kind}" in ours:
                for other, piece in zip(others, ours[f"{name}.{kind}"].chunk(len(others))):
                    theirs[f"{other}.{kind}"] = piece.clone()
    return theirs


def _load(module: nn.Module, modules: Modules, state: dict[str, Tensor]) -> None:
    """Copy their tensors into our module, whose parameters they have to fill exactly."""
    expected, ours, used = module.state_dict(), {}, set()
    for name, others in modules:
        for kind in ("weight", "bias"):
            if f"{name}.{kind}" in expected:
                wanted = [f"{other}.{kind}" for other in others]
                missing = [other for other in wanted if other not in state]
                if missing:
                    raise ValueError(f"the checkpoint lacks {', '.join(missing)}, should have it")
                ours[f"{name}.{kind}"] = torch.cat([state[other] for other in wanted])
                used.update(wanted)
    left = [name for name in state if name not in used]
    if left:
        raise ValueError(f"the checkpoint has {', '.join(left[:3])}, should have no more than our model")
    for name, tensor in ours.items():
        if tensor.shape != expected[name].shape:
            raise ValueError(f"{name} has shape {list(tensor.shape)}, should be {list(expected[name].shape)}")
    module.load_state_dict(ours)


def _have_equal(prefix: str, one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    left, right = (
        {name: tensor for name, tensor in state.items() if name.startswith(prefix)} for state in (one, other)
    )
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)
