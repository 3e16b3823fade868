"""Convert weights from and to Hugging Face transformers, under transformers' own names.

transformers itself is not needed: a checkpoint is its config.json and its tensors (`transformers_files`).
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from electra_kernels.models.config import ElectraConfig, EncoderConfig
from electra_kernels.models.electra import Electra
from electra_kernels.models.encoder import Encoder
from electra_kernels.models.transformers_config import encoder_config_from_transformers, transformers_config
from electra_kernels.models.transformers_files import Checkpoint, current_state, write_checkpoint
from electra_kernels.models.transformers_names import NAMES, ModuleNames, Names, encoder_names, part_names
from electra_kernels.special_tokens import special_tokens
from electra_kernels.tokenizer_files import check_tokenizer, save_tokenizer

if TYPE_CHECKING:
    from tokenizers import Tokenizer


def encoder_from_transformers(checkpoint: Checkpoint) -> Encoder:
    """The encoder of a BERT, ELECTRA or ModernBERT checkpoint with any head, in evaluation mode.

    Tensor names may start with ``bert.``, ``electra.`` or ``model.``, or with none of them, as those of ``BertModel``
    do.

    Raises:
        ValueError: the configuration has an option that `Encoder` does not implement, or a tensor is missing, left
            over or of another shape.
    """
    state = current_state(checkpoint)
    for prefix in ("electra.", "bert.", "model."):
        if any(name.startswith(prefix) for name in state):
            state = {name.removeprefix(prefix): state[name] for name in state if name.startswith(prefix)}
    encoder = Encoder(encoder_config_from_transformers(checkpoint.config))
    _load(encoder, encoder_names(encoder.config), state)
    return encoder.eval()


def from_transformers(
    discriminator: Checkpoint, generator: Checkpoint, *, mask_token_id: int, **options: Any
) -> Electra:
    """An `Electra` with the weights of two models of transformers, in evaluation mode.

    The models are ``ElectraForPreTraining`` and ``ElectraForMaskedLM``, or ``ModernBertForTokenClassification`` with
    one label and ``ModernBertForMaskedLM``.

    Weights that the two models share stay shared: equal encoders give tie="all", equal embeddings tie="embeddings",
    anything else tie="none".

    Args:
        discriminator, generator: the two checkpoints.
        mask_token_id: id of ``[MASK]``.
        options: other fields of `ElectraConfig`, such as mask_probability.

    Raises:
        ValueError: as `encoder_from_transformers`; or an output layer that is not the word embedding.
    """
    configs = [encoder_config_from_transformers(each.config) for each in (discriminator, generator)]
    if configs[0].family != configs[1].family:
        raise ValueError(
            f"the generator's family is {configs[1].family!r}, should be {configs[0].family!r} as the discriminator's"
        )
    names = NAMES[configs[0].family]
    states = {"discriminator": current_state(discriminator), "generator": _tied_state(generator, names)}
    tie = "none"
    if configs[0].layer_norm_eps == configs[1].layer_norm_eps and _have_equal(
        f"{names.prefix}embeddings.", *states.values()
    ):
        tie = "embeddings"
    if configs[0] == configs[1] and _have_equal(names.prefix, *states.values()):
        tie = "all"
    model = Electra(
        ElectraConfig(configs[0], None if tie == "all" else configs[1], mask_token_id, tie=tie, **options)
    )
    for name, state in states.items():
        part = getattr(model, name)
        _load(part, part_names(name, part.encoder.config), state)
    return model.eval()


def to_transformers(
    model: Electra | Encoder,
    tokenizer: "Tokenizer | None" = None,
    *,
    state: Mapping[str, Tensor] | None = None,
) -> dict[str, Checkpoint]:
    """The checkpoints of a model for transformers.

    Args:
        model: an `Electra` or a bare `Encoder`, of either family.
        tokenizer: the ids of its special tokens are written into the configurations; by default ``model.tokenizer``.
        state: the tensors under our names, as ``model.state_dict()`` has them, for a model that is sharded.

    Returns:
        Of an `Electra`, "discriminator" and, if the generator is a model, "generator". Of an `Encoder`, "encoder".
        In transformers they are ElectraForPreTraining, ElectraForMaskedLM and ElectraModel, or
        ModernBertForTokenClassification with one label, ModernBertForMaskedLM and ModernBertModel.
    """
    tokenizer = tokenizer or getattr(model, "tokenizer", None)
    roles = special_tokens(tokenizer) if tokenizer else {}
    vocabulary = tokenizer.get_vocab() if tokenizer else {}
    ids = {role: vocabulary[token] for role, token in roles.items()}
    state = model.state_dict() if state is None else state
    checkpoints = {}
    for part, config in _parts(model).items():
        prefix = "" if part == "encoder" else f"{part}."
        ours = {name.removeprefix(prefix): each for name, each in state.items() if name.startswith(prefix)}
        theirs = _transformers_state(ours, part_names(part, config))
        names = NAMES[config.family]
        theirs.pop(names.output_weight, None)  # tied to the word embedding
        checkpoints[part] = Checkpoint(transformers_config(config, names.architectures[part], ids), theirs)
    return checkpoints


def save_transformers(
    model: Electra | Encoder,
    directory: str | Path,
    *,
    tokenizer: "Tokenizer | None" = None,
    state: Mapping[str, Tensor] | None = None,
) -> None:
    """Write directory/discriminator and directory/generator, or directory/encoder, for ``from_pretrained``.

    Args:
        model, state: as in `to_transformers`.
        directory: the folder to write; it may exist.
        tokenizer: written into each folder for ``AutoTokenizer``; by default ``model.tokenizer``.

    Raises:
        ValueError: the tokenizer has more entries than the model, or lacks one of BERT's special tokens.
    """
    tokenizer = tokenizer or getattr(model, "tokenizer", None)
    configs = _parts(model)
    if tokenizer:
        check_tokenizer(tokenizer, next(iter(configs.values())).vocab_size)
    for part, checkpoint in to_transformers(model, tokenizer, state=state).items():
        path, config = Path(directory) / part, configs[part]
        write_checkpoint(checkpoint, path)
        if tokenizer:
            save_tokenizer(
                tokenizer,
                path,
                max_length=config.max_position_embeddings,
                has_token_types=config.family == "electra",
            )


def _parts(model: Electra | Encoder) -> dict[str, EncoderConfig]:
    """The parts that are written, with the configurations of their encoders."""
    if isinstance(model, Encoder):
        return {"encoder": model.config}
    parts = {"discriminator": model.discriminator, "generator": model.generator}
    return {name: part.encoder.config for name, part in parts.items() if part is not None}


def _tied_state(generator: Checkpoint, names: Names) -> dict[str, Tensor]:
    """The generator's tensors with both the output weight and the word embedding; transformers saves one of the two."""
    state = current_state(generator)
    output, word = state.get(names.output_weight), state.get(names.word_embedding)
    if output is not None and word is not None and not torch.equal(output, word):
        raise ValueError(
            f"{names.output_weight} differs from {names.word_embedding}, should be tied to it "
            "(tie_word_embeddings=True)"
        )
    for name, tensor in ((names.output_weight, word), (names.word_embedding, output)):
        if tensor is not None:
            state.setdefault(name, tensor)
    return state


def _transformers_state(ours: Mapping[str, Tensor], modules: ModuleNames) -> dict[str, Tensor]:
    """Our tensors under transformers' names."""
    theirs = {}
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
