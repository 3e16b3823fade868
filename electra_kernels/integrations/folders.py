"""A generator and a discriminator from two folders, each with saved weights or with a configuration alone."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from tokenizers import Tokenizer
from transformers import (
    AutoConfig,
    AutoModelForMaskedLM,
    AutoModelForTokenClassification,
    ElectraForPreTraining,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)
from transformers.utils import logging

from electra_kernels.errors import UserError
from electra_kernels.integrations.replaced_token_detection import ReplacedTokenDetection
from electra_kernels.integrations.word_embeddings import word_embedding
from electra_kernels.weight_files import has_weights

# Embeddings are often padded to a multiple of 64 or 128 rows.
_MOST_PADDING = 127


@dataclass
class Folder:
    """A folder with a config.json of transformers.

    Attributes:
        path: the folder.
        config: its configuration, of a base model or of a model with any head.
        has_weights: whether the model continues from saved weights.
    """

    path: Path
    config: PreTrainedConfig
    has_weights: bool

    @classmethod
    def open(cls, path: Path, role: str) -> "Folder":
        """Read the configuration; the folder of a saved pair stands for the folder of its ``role`` in it.

        Raises:
            UserError: there is none, transformers does not know it, or the weights are a pickle.
        """
        if (path / role / "config.json").is_file():
            path = path / role
        if not (path / "config.json").is_file():
            raise UserError(f"{path}: there is no config.json")
        try:
            config = AutoConfig.from_pretrained(path)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path / 'config.json'}: cannot be used: {_first_line(error)}") from error
        return cls(path, config, has_weights(path))

    def check_vocabulary(self, tokenizer: PreTrainedTokenizerFast) -> None:
        """Check that saved weights belong to the vocabulary of the text.

        Raises:
            UserError: they have another size, another tokenizer or another padding token.
        """
        size, expected = self.config.vocab_size, _size(tokenizer)
        if not expected <= size <= expected + _MOST_PADDING:
            raise UserError(
                f"{self.path}: its vocabulary has {size:,} entries, that of the text has {expected:,}"
            )
        file = self.path / "tokenizer.json"
        if file.is_file() and _vocabulary(file) != tokenizer.get_vocab():
            raise UserError(
                f"{file}: differs from the vocabulary of the text, prepare the text with this vocabulary"
            )
        pad = self.config.pad_token_id
        if pad is not None and pad != tokenizer.pad_token_id:
            raise UserError(
                f"{self.path}: its padding token is {pad}, that of the text {tokenizer.pad_token_id}"
            )

    def fit_vocabulary(self, tokenizer: PreTrainedTokenizerFast, size: int) -> None:
        """Give a configuration without weights the vocabulary of the text: its size and its special tokens."""
        self.config.vocab_size = size
        self.config.pad_token_id = tokenizer.pad_token_id
        self.config.bos_token_id = tokenizer.cls_token_id
        self.config.eos_token_id = tokenizer.sep_token_id
        for name in ("cls", "sep", "mask"):
            if hasattr(self.config, f"{name}_token_id"):
                setattr(self.config, f"{name}_token_id", getattr(tokenizer, f"{name}_token_id"))

    def halve(self) -> None:
        """Keep the first half of the layers, rounded up."""
        layers = (self.config.num_hidden_layers + 1) // 2
        self.config.num_hidden_layers = layers
        if getattr(self.config, "layer_types", None):
            self.config.layer_types = self.config.layer_types[:layers]

    def model(self, kind: Any) -> PreTrainedModel:
        """The model of ``kind``, a model class or an Auto class of transformers, in float32.

        A head that the saved weights lack is new, with weights from torch's global generator.

        Raises:
            UserError: transformers has no such model, or the weights do not fit.
        """
        try:
            if not self.has_weights:
                make = getattr(
                    kind, "from_config", None
                )  # of an Auto class; it reads the dtype of the config
                return kind(self.config) if make is None else make(self.config, dtype=torch.float32)
            model, report = kind.from_pretrained(
                self.path,
                config=self.config,
                dtype=torch.float32,
                use_safetensors=True,
                output_loading_info=True,
                ignore_mismatched_sizes=True,
            )
        except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
            raise UserError(f"{self.path}: cannot be loaded: {_first_line(error)}") from error
        self._check_base(model, report)
        return model

    def _check_base(self, model: PreTrainedModel, report: dict[str, Any]) -> None:
        absent = [entry if isinstance(entry, str) else entry[0] for entry in report["missing_keys"]]
        absent += [entry if isinstance(entry, str) else entry[0] for entry in report["mismatched_keys"]]
        base = sorted(name for name in absent if name.startswith(f"{model.base_model_prefix}."))
        if base:
            raise UserError(
                f"{self.path}: the saved weights lack {len(base)} of the {type(model).__name__} that config.json "
                f"describes, or have them in another shape, for example {base[0]}"
            )


def load_pair(
    generator: Path,
    discriminator: Path,
    tokenizer: PreTrainedTokenizerFast,
    embeddings: str,
    *,
    halve_generator: bool = False,
    **options: Any,
) -> ReplacedTokenDetection:
    """A `ReplacedTokenDetection` from two folders of transformers.

    A folder with weights is continued, as a masked language model or as a detector; what it lacks of its head is new. A
    folder with only a config.json, of a base model or of any head, gives a new model of the vocabulary of the text:
    its vocab_size and its special tokens are replaced. torch's global generator decides new weights.

    A shared or disentangled embedding starts from the folder that has weights. If both have, a disentangled one starts
    from both: its difference is that between the two.

    Args:
        generator, discriminator: the folders; that of a saved pair stands for its part of this name.
        tokenizer: that of the text, with pad, cls, sep and mask tokens.
        halve_generator: give the generator only the first half of the layers of its folder, rounded up.
        embeddings, options: as in `ReplacedTokenDetectionConfig`.

    Raises:
        UserError: a folder cannot be used, does not have the vocabulary of the text, or the two do not fit together.
    """
    folders = Folder.open(generator, "generator"), Folder.open(discriminator, "discriminator")
    if halve_generator:
        folders[0].halve()
    with quiet():
        return _load_pair(folders, tokenizer, embeddings, options)


def _load_pair(
    folders: tuple[Folder, Folder],
    tokenizer: PreTrainedTokenizerFast,
    embeddings: str,
    options: dict[str, Any],
) -> ReplacedTokenDetection:
    sizes = {folder.config.vocab_size for folder in folders if folder.has_weights}
    if len(sizes) > 1:
        first, second = (f"{folder.path} has {folder.config.vocab_size:,} entries" for folder in folders)
        raise UserError(f"the two vocabularies differ: {first}, {second}")
    for folder in folders:
        if folder.has_weights:
            folder.check_vocabulary(tokenizer)
        else:
            folder.fit_vocabulary(tokenizer, next(iter(sizes), _size(tokenizer)))
    folders[1].config.num_labels = 1
    is_electra = folders[1].config.model_type == "electra"
    kinds = AutoModelForMaskedLM, ElectraForPreTraining if is_electra else AutoModelForTokenClassification
    models = [folder.model(kind) for folder, kind in zip(folders, kinds)]
    kept = word_embedding(models[0]).weight.detach().clone() if folders[0].has_weights else None
    try:
        pair = ReplacedTokenDetection(*models, tokenizer=tokenizer, embeddings=embeddings, **options)
    except (TypeError, ValueError) as error:
        raise UserError(f"{folders[0].path} and {folders[1].path}: {error}") from error
    if kept is not None and embeddings != "separate":
        _keep_generator_embedding(pair, kept, folders[1])
    return pair


@torch.no_grad()
def _keep_generator_embedding(
    pair: ReplacedTokenDetection, kept: torch.Tensor, discriminator: Folder
) -> None:
    """Give a pair that starts from its discriminator's embedding the saved one of its generator, ``kept``."""
    weights = [word_embedding(part).weight for part in (pair.generator, pair.discriminator)]
    before = weights[0].clone()
    if pair.config.embeddings == "shared" and discriminator.has_weights and not torch.equal(before, kept):
        raise UserError(
            f"{discriminator.path}: its word embedding differs from the generator's, so that they cannot be shared: "
            "choose gradient_disentangled or separate embeddings"
        )
    weights[0].copy_(kept)
    if pair.config.embeddings == "gradient_disentangled" and discriminator.has_weights:
        weights[1].copy_(before - kept)


@contextmanager
def quiet() -> Iterator[None]:
    """Without the progress bars and the warnings of transformers while it loads or saves."""
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def _vocabulary(file: Path) -> dict[str, int]:
    try:
        return Tokenizer.from_file(str(file)).get_vocab()
    except Exception as error:  # tokenizers raises plain Exception
        raise UserError(f"{file}: cannot be used: {_first_line(error)}") from error


def _size(tokenizer: PreTrainedTokenizerFast) -> int:
    size: int = 1 + max(tokenizer.get_vocab().values())
    return size


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__
