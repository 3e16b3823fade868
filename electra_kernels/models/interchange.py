"""Convert weights from and to Hugging Face transformers, under transformers' own names.

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
from electra_kernels.models.transformers_config import encoder_config_from_transformers, transformers_config
from electra_kernels.models.transformers_files import Checkpoint, current_state, write_checkpoint
from electra_kernels.tokenizer_files import check_tokenizer, save_tokenizer

if TYPE_CHECKING:
    from tokenizers import Tokenizer

# Our module → the modules of transformers that hold its weights. Several of them are stacked, row below row, in ours.
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
_OUTPUT_WEIGHT = "generator_lm_head.weight"
_WORD_EMBEDDING = "electra.embeddings.word_embeddings.weight"

ModuleNames = Iterator[tuple[str, tuple[str, ...]]]  # our module, the modules of transformers


def encoder_from_transformers(checkpoint: Checkpoint) -> Encoder:
    """The encoder of a BERT or ELECTRA checkpoint with any head, in evaluation mode.

    Tensor names may start with ``bert.``, with ``electra.``, or with neither, as those of ``BertModel`` do.

    Raises:
        ValueError: the configuration has an option that `Encoder` does not implement, or a tensor is missing, left
            over or of another shape.
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

    Weights that the two models share stay shared: equal encoders give tie="all", equal embeddings tie="embeddings",
    anything else tie="none".

    Args:
        discriminator, generator: the two checkpoints.
        mask_token_id: id of ``[MASK]``.
        options: other fields of `ElectraConfig`, such as mask_probability.

    Raises:
        ValueError: as `encoder_from_transformers`; or an output layer that is not the word embedding.
    """
    states = {"discriminator": current_state(discriminator), "generator": _tied_state(generator)}
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
    """The checkpoints of a model for transformers.

    Args:
        model: a model with absolute positions and post-norm.
        pad_token_id: written into the configurations.

    Returns:
        "discriminator" (ElectraForPreTraining) and, if the generator is a model, "generator" (ElectraForMaskedLM).

    Raises:
        ValueError: rotary positions or pre-norm, which transformers' ELECTRA does not have.
    """
    checkpoints = {}
    for name in ("discriminator", "generator"):
        part = getattr(model, name)
        if part is not None:
            state = _transformers_state(part, _modules(name, part.encoder.config))
            state.pop(_OUTPUT_WEIGHT, None)
            config = transformers_config(part.encoder.config, _ARCHITECTURES[name], pad_token_id)
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

    Args:
        model, pad_token_id: as in `to_transformers`.
        directory: the folder to write; it may exist.
        tokenizer: written into both folders for ``AutoTokenizer``; by default ``model.tokenizer``.

    Raises:
        ValueError: as `to_transformers`; or the tokenizer has more entries than the model, or lacks one of BERT's
            special tokens.
    """
    if tokenizer := tokenizer or model.tokenizer:
        check_tokenizer(tokenizer, model.config.discriminator.vocab_size)
    for name, checkpoint in to_transformers(model, pad_token_id=pad_token_id).items():
        path = Path(directory) / name
        write_checkpoint(checkpoint, path)
        if tokenizer:
            save_tokenizer(tokenizer, path, max_length=checkpoint.config["max_position_embeddings"])


def _tied_state(generator: Checkpoint) -> dict[str, Tensor]:
    """The generator's tensors with both the output weight and the word embedding; transformers saves one of the two."""
    state = current_state(generator)
    output, word = state.get(_OUTPUT_WEIGHT), state.get(_WORD_EMBEDDING)
    if output is not None and word is not None and not torch.equal(output, word):
        raise ValueError(
            f"{_OUTPUT_WEIGHT} differs from {_WORD_EMBEDDING}, should be tied to it (tie_word_embeddings=True)"
        )
    for name, tensor in ((_OUTPUT_WEIGHT, word), (_WORD_EMBEDDING, output)):
        if tensor is not None:
            state.setdefault(name, tensor)
    return state


def _encoder_modules(config: EncoderConfig, ours: str = "", theirs: str = "") -> ModuleNames:
    def prefixed(pairs: tuple[tuple[str, tuple[str, ...]], ...], ours: str, theirs: str) -> ModuleNames:
        for name, sources in pairs:
            yield ours + name, tuple(theirs + source for source in sources)

    yield from prefixed(_EMBEDDINGS, ours, theirs)
    if config.embedding_size != config.hidden_size:
        yield f"{ours}projection", (f"{theirs}embeddings_project",)
    for layer in range(config.num_hidden_layers):
        yield from prefixed(_LAYER, f"{ours}layers.{layer}.", f"{theirs}encoder.layer.{layer}.")


def _modules(part: str, config: EncoderConfig) -> ModuleNames:
    yield from _encoder_modules(config, "encoder.", "electra.")
    yield from _HEADS[part]


def _transformers_state(module: nn.Module, modules: ModuleNames) -> dict[str, Tensor]:
    """The tensors of our module under transformers' names."""
    ours, theirs = module.state_dict(), {}
    for name, targets in modules:
        for kind in ("weight", "bias"):
            if f"{name}.{kind}" in ours:
                for target, piece in zip(targets, ours[f"{name}.{kind}"].chunk(len(targets))):
                    theirs[f"{target}.{kind}"] = piece.clone()
    return theirs


def _load(module: nn.Module, modules: ModuleNames, state: dict[str, Tensor]) -> None:
    """Copy transformers' tensors into our module. They must fill its parameters exactly."""
    expected, ours, used = module.state_dict(), {}, set()
    for name, sources in modules:
        for kind in ("weight", "bias"):
            if f"{name}.{kind}" in expected:
                wanted = [f"{source}.{kind}" for source in sources]
                missing = [source for source in wanted if source not in state]
                if missing:
                    raise ValueError(f"the checkpoint lacks {', '.join(missing)}, should have it")
                ours[f"{name}.{kind}"] = torch.cat([state[source] for source in wanted])
                used.update(wanted)
    left = [name for name in state if name not in used]
    if left:
        raise ValueError(
            f"the checkpoint has {', '.join(left[:3])}, should have only the tensors of our model"
        )
    for name, tensor in ours.items():
        if tensor.shape != expected[name].shape:
            raise ValueError(f"{name} has shape {list(tensor.shape)}, should be {list(expected[name].shape)}")
    module.load_state_dict(ours)


def _have_equal(prefix: str, one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    """Whether two states have the same tensors under the names that start with the prefix."""
    left, right = (
        {name: tensor for name, tensor in state.items() if name.startswith(prefix)} for state in (one, other)
    )
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)
