"""What ``pretrain --from`` continues: a folder of transformers, with the reference models where these are the same."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from torch import Tensor, nn

from electra_kernels.data.vocabulary import load_vocabulary
from electra_kernels.errors import UserError
from electra_kernels.models import (
    Checkpoint,
    Electra,
    ElectraConfig,
    EncoderConfig,
    Generator,
    Proposer,
    encoder_from_transformers,
    from_transformers,
    read_checkpoint,
)
from electra_kernels.models.transformers_config import encoder_config_from_transformers
from electra_kernels.models.transformers_files import current_state
from electra_kernels.training.model_description import DESCRIPTION, read_description
from electra_kernels.training.model_folder import MOST_PADDING, load_checkpoint
from electra_kernels.training.objectives import Objective
from electra_kernels.training.objectives.transformers_pair import TransformersPair
from electra_kernels.weight_files import has_weights

_PAIRED = ("electra", "modernbert")  # model types whose generator and discriminator `from_transformers` reads
# Our module → that of transformers, in ELECTRA, BERT and ModernBERT.
_MLM_HEADS = (
    {
        "transform.0": "generator_predictions.dense",
        "transform.2": "generator_predictions.LayerNorm",
        "head": "generator_lm_head",
    },
    {
        "transform.0": "cls.predictions.transform.dense",
        "transform.2": "cls.predictions.transform.LayerNorm",
        "head": "cls.predictions",
    },
    {"transform.0": "head.dense", "transform.2": "head.norm", "head": "decoder"},
)
_RTD_HEADS = (
    {
        "transform.0": "discriminator_predictions.dense",
        "head": "discriminator_predictions.dense_prediction",
    },
    {"transform.0": "head.dense", "transform.2": "head.norm", "head": "classifier"},
)
_OUTPUT_WEIGHTS = ("cls.predictions.decoder.weight", "decoder.weight")


@dataclass(frozen=True)
class Start:
    """A folder that a run continues.

    Attributes:
        folder: as given.
        discriminator: the folder with the encoder that is continued.
        generator: the folder of the generator; None: it starts from the first half of that encoder's layers.
        config: config.json of the encoder.
        encoder: the reference encoder of the same shape; None: only transformers has these models.
    """

    folder: Path
    discriminator: Path
    generator: Path | None
    config: Mapping[str, Any]
    encoder: EncoderConfig | None

    @classmethod
    def open(cls, folder: Path) -> "Start":
        """Look at a model folder of a run, a folder with ``discriminator`` and ``generator``, or that of one model.

        Raises:
            UserError: there is no such folder, or it lacks a config.json or weights.
        """
        if not folder.is_dir():
            raise UserError(f"--from {folder}: there is no such folder")
        parts = {name: folder / name for name in ("discriminator", "generator", "encoder")}
        there = {name: path for name, path in parts.items() if (path / "config.json").is_file()}
        main = there.get("discriminator") or there.get("encoder") or folder
        generator = there.get("generator") if "discriminator" in there else None
        configs = [_read_config(path) for path in (main, generator) if path]
        return cls(folder, main, generator, configs[0], _reference_encoder(configs))

    @property
    def vocabulary(self) -> Path | None:
        """The file of its vocabulary, if it has one."""
        folders, names = (self.discriminator, self.folder), ("tokenizer.json", "vocab.txt")
        files = (folder / name for folder in folders for name in names)
        return next((file for file in files if file.is_file()), None)

    @property
    def recipe(self) -> str:
        """The name of the configuration whose recipe suits its size."""
        return "small" if self.config.get("hidden_size", 768) < 512 else "base"

    def check_vocabulary(self, tokenizer: Tokenizer) -> None:
        """Check that its vocabulary is that of the text.

        Raises:
            UserError: it is another one.
        """
        file, entries = self.vocabulary, tokenizer.get_vocab_size()
        if file is not None and load_vocabulary(file).get_vocab() != tokenizer.get_vocab():
            raise UserError(
                f"--from {self.folder}: its vocabulary {file.name} is not that of the text: prepare the text with "
                f"--vocabulary {file}"
            )
        size = self.config.get("vocab_size", entries)
        if not entries <= size <= entries + MOST_PADDING:
            raise UserError(
                f"--from {self.folder}: its vocabulary has {size:,} entries, that of the text has {entries:,}"
            )

    def electra(self, mask_token_id: int) -> Electra:
        """The reference models with its weights; what it lacks of heads is new, from torch's global generator.

        Raises:
            UserError: the weights do not fit config.json.
        """
        try:
            if self.generator is None:
                return _from_encoder(read_checkpoint(self.discriminator), mask_token_id)
            if self._is_of_run():
                return load_checkpoint(self.folder).model
            both = read_checkpoint(self.discriminator), read_checkpoint(self.generator)
            return from_transformers(*both, mask_token_id=mask_token_id)
        except (ValueError, FileNotFoundError) as error:
            raise UserError(f"--from {self.folder} cannot be loaded: {error}") from error

    def _is_of_run(self) -> bool:
        """Whether the folder holds an `Electra` that a run has saved, with its options."""
        if not (self.folder / DESCRIPTION).is_file():
            return False
        return read_description(self.folder)[1] != TransformersPair.name


def load_weights(objective: Objective, model: Electra) -> None:
    """Copy the weights of a model into those parts of an objective that it has: encoder, heads, generator."""
    objective.encoder.load_state_dict(model.discriminator.encoder.state_dict())
    if isinstance(objective.model, Electra):
        objective.model.discriminator.load_state_dict(model.discriminator.state_dict())
    for part in objective.modules():
        if isinstance(part, Proposer) and part.generator and model.generator:
            part.generator.load_state_dict(model.generator.state_dict())
    if isinstance(objective.model, Generator) and model.generator:
        own = objective.model.state_dict()
        head = {
            name: value
            for name, value in model.generator.state_dict().items()
            if not name.startswith("encoder.") and name != "head.weight"
        }
        if all(own[name].shape == value.shape for name, value in head.items()):
            objective.model.load_state_dict(head, strict=False)


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(config, dict):
            raise ValueError(f"{type(config).__name__}, should be an object")
    except FileNotFoundError:
        raise UserError(f"--from {folder}: there is no config.json") from None
    except ValueError as error:
        raise UserError(f"--from {path}: not readable as JSON: {error}") from error
    if not has_weights(folder):
        raise UserError(f"--from {folder}: there are no weights, should be model.safetensors")
    return config


def _reference_encoder(configs: list[dict[str, Any]]) -> EncoderConfig | None:
    kinds = {config.get("model_type") for config in configs}
    if len(configs) == 2 and (len(kinds) > 1 or not kinds <= set(_PAIRED)):
        return None
    try:
        encoder, *_ = [encoder_config_from_transformers(config) for config in configs]
        return encoder
    except (ValueError, KeyError):
        return None


def _from_encoder(checkpoint: Checkpoint, mask_token_id: int) -> Electra:
    """A model whose generator starts from the first half of the layers, rounded up, and shares the embeddings."""
    encoder = encoder_from_transformers(checkpoint)
    layers = (encoder.config.num_hidden_layers + 1) // 2
    generator = replace(encoder.config, num_hidden_layers=layers)
    model = Electra(ElectraConfig(encoder.config, generator, mask_token_id, tie="embeddings"))
    assert model.generator is not None
    weights = encoder.state_dict()
    model.discriminator.encoder.load_state_dict(weights)
    first = {name: weights[name] for name in model.generator.encoder.state_dict()}
    model.generator.encoder.load_state_dict(first)
    state = current_state(checkpoint)
    word = encoder.embeddings.word.weight
    if all(state[name].equal(word) for name in _OUTPUT_WEIGHTS if name in state):
        _load_head(model.generator, _MLM_HEADS, state)
    _load_head(model.discriminator, _RTD_HEADS, state)
    return model


def _load_head(part: nn.Module, heads: tuple[Mapping[str, str], ...], state: Mapping[str, Tensor]) -> None:
    """Copy the first of ``heads`` that ``state`` has as a whole and in the right shape; else the head stays new."""
    own = {name: tensor for name, tensor in part.state_dict().items() if not name.startswith("encoder.")}
    if isinstance(part, Generator):
        del own["head.weight"]  # the word embedding
    for sources in heads:
        names = {name: name.rpartition(".")[::2] for name in own}
        found = {name: state.get(f"{sources.get(module)}.{kind}") for name, (module, kind) in names.items()}
        if all(value is not None and value.shape == own[name].shape for name, value in found.items()):
            part.load_state_dict(found, strict=False)
            return
