"""Two models of Hugging Face transformers as one: a vocabulary, word embeddings, a configuration, a folder."""

import copy
import inspect
import os
from pathlib import Path
from typing import Any, cast

import torch
import transformers
from torch import Tensor, nn
from transformers import AutoTokenizer, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from electra_kernels.integrations.configuration import ReplacedTokenDetectionConfig


class Pair(PreTrainedModel):
    """A generator and a discriminator that transformers, Trainer and adapters handle as one model.

    Its input embeddings are the generator's. The discriminator shares them (embeddings="shared"), adds a matrix of
    its own to them ("gradient_disentangled"), or has others ("separate"). Its output embeddings are the generator's.

    Attributes:
        tokenizer: saved with the model, where it is known.
    """

    config: ReplacedTokenDetectionConfig
    config_class = ReplacedTokenDetectionConfig
    generator: PreTrainedModel
    discriminator: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase | None = None
    _followers: tuple[nn.Module, ...] = ()

    def get_input_embeddings(self) -> nn.Module:
        return embedding_of(self.generator)

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Give the generator another word embedding, and tie to it what shares its weight."""
        self.generator.set_input_embeddings(value)
        self.tie_weights()

    def get_output_embeddings(self) -> nn.Module | None:
        return self.generator.get_output_embeddings()

    def set_output_embeddings(self, new_embeddings: nn.Module) -> None:
        self.generator.set_output_embeddings(new_embeddings)

    def resize_token_embeddings(
        self,
        new_num_tokens: int | None = None,
        pad_to_multiple_of: int | None = None,
        mean_resizing: bool = True,
    ) -> nn.Embedding:
        """Resize the vocabulary of both models, as `transformers.PreTrainedModel.resize_token_embeddings`.

        With embeddings="gradient_disentangled", the discriminator's matrix is 0 for the new tokens, so that both
        models start from one vector of each.

        Returns:
            The generator's word embedding.
        """
        before = embedding_of(self.discriminator).weight.shape[0]
        for part in (self.generator, self.discriminator):
            part.resize_token_embeddings(new_num_tokens, pad_to_multiple_of, mean_resizing)
        if self.config.embeddings == "gradient_disentangled":
            with torch.no_grad():
                embedding_of(self.discriminator).weight[before:] = 0
        self.tie_weights()
        self.vocab_size = self.config.vocab_size
        return embedding_of(self.generator)

    def _connect_embeddings(self) -> None:
        """Let the discriminator's word embedding follow the generator's, also once another module took its place."""
        embedding = embedding_of(self.discriminator)
        if not any(module in self._followers for module in embedding.modules()):
            embedding.register_forward_hook(self._follow_generator)
            self._followers = (embedding,)

    def _follow_generator(self, module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> Tensor:
        """Add the generator's vectors where those of the discriminator are only the difference, and its noise.

        The generator is not trained through its vectors. NEFTune of Trainer adds noise to what `get_input_embeddings`
        returns, thus to the generator's vectors alone.
        """
        embedding = embedding_of(self.generator)
        if self.config.embeddings == "gradient_disentangled":
            with torch.no_grad():
                vectors: Tensor = embedding(inputs[0])
            return output + vectors.detach()
        alpha = getattr(embedding, "neftune_noise_alpha", None)
        if alpha is None or not module.training:
            return output
        bound = alpha / (output.shape[1] * output.shape[2]) ** 0.5
        return output + torch.empty_like(output).uniform_(-bound, bound)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Any:
        """As of any model; the tokenizer of a folder comes with it."""
        loaded = super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)
        model = loaded[0] if isinstance(loaded, tuple) else loaded
        folder = Path(pretrained_model_name_or_path or "", "discriminator")
        if model.tokenizer is None and (folder / "tokenizer_config.json").is_file():
            model.tokenizer = AutoTokenizer.from_pretrained(folder)
        return loaded

    def save_pretrained(  # type: ignore[override]  # the rest goes through kwargs
        self,
        save_directory: str | os.PathLike[Any],
        is_main_process: bool = True,
        state_dict: dict[Any, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """As of any model; besides, ``generator/`` and ``discriminator/`` are models that plain transformers loads.

        All three have the tokenizer beside them, if the model was given one.
        """
        state = self.state_dict() if state_dict is None else state_dict
        folder = Path(save_directory)
        for name in ("generator", "discriminator"):
            part = getattr(self, name)
            own = {key.removeprefix(f"{name}."): state[key] for key in state if key.startswith(f"{name}.")}
            if name == "discriminator" and self.config.embeddings == "gradient_disentangled":
                embedding, other = embedding_name(part), embedding_name(self.generator)
                own[embedding] = own[embedding] + state[f"generator.{other}"]
            part.save_pretrained(folder / name, is_main_process=is_main_process, state_dict=own)
        if self.tokenizer is not None and is_main_process:
            for directory in (folder, folder / "generator", folder / "discriminator"):
                self.tokenizer.save_pretrained(directory)
        super().save_pretrained(
            save_directory, is_main_process=is_main_process, state_dict=state_dict, **kwargs
        )


def encode(
    model: PreTrainedModel, input_ids: Tensor, inputs: dict[str, Tensor | None], flags: dict[str, Any]
) -> Any:
    """What the base of a model returns for input_ids [B, T].

    Args:
        model: its base is run, not its head.
        input_ids: [B, T] int64.
        inputs: other tensors; those that the base does not know are left out.
        flags: output_hidden_states and output_attentions, where they were chosen.
    """
    base = model.base_model
    known = inspect.signature(base.forward).parameters
    named = {name: inputs[name] for name in inputs if name in known}
    return base(input_ids=input_ids, **named, **flags, return_dict=True)


def config_of(
    generator: PreTrainedModel,
    discriminator: PreTrainedModel | None,
    tokenizer: PreTrainedTokenizerBase | None,
    options: dict[str, Any],
) -> ReplacedTokenDetectionConfig:
    """The configuration of a pair, with what the tokenizer says of the ids that the options leave out.

    Raises:
        TypeError, ValueError: no two models of transformers, of different vocabularies, or no mask token.
    """
    for name, model in (("generator", generator), ("discriminator", discriminator)):
        if not isinstance(model, PreTrainedModel):
            raise TypeError(f"{name} is {type(model).__name__}, should be a transformers.PreTrainedModel")
    assert discriminator is not None
    _part_configurations(generator, discriminator)
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


def _part_configurations(generator: PreTrainedModel, discriminator: PreTrainedModel) -> None:
    """Let each model's configuration name its class; two models that were built from one object get one each."""
    shared = generator.config
    if shared is discriminator.config:
        own = copy.deepcopy(shared)
        for module in discriminator.modules():
            if getattr(module, "config", None) is shared:
                module.config = own  # type: ignore[assignment]
    for model in (generator, discriminator):
        model.config.architectures = [type(model).__name__]


def build(config: PreTrainedConfig) -> PreTrainedModel:
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


def embedding_of(model: PreTrainedModel) -> nn.Embedding:
    return cast(nn.Embedding, model.get_input_embeddings())


def embedding_name(model: PreTrainedModel) -> str:
    """Of its word embedding's weight, among its parameters."""
    embedding = embedding_of(model)
    return next(f"{name}.weight" for name, module in model.named_modules() if module is embedding)


@torch.no_grad()
def start_alike(generator: PreTrainedModel, discriminator: PreTrainedModel, embeddings: str) -> None:
    """Give both models the discriminator's word embedding, as `ReplacedTokenDetectionConfig.embeddings` says.

    Raises:
        ValueError: theirs have different shapes.
    """
    if embeddings == "separate":
        return
    ours, theirs = (embedding_of(part).weight for part in (discriminator, generator))
    if ours.shape != theirs.shape:
        raise ValueError(
            f"the word embedding of generator has shape {list(theirs.shape)}, should be {list(ours.shape)} as the "
            f"discriminator's with embeddings={embeddings!r} (or embeddings='separate')"
        )
    theirs.copy_(ours)
    if embeddings == "gradient_disentangled":
        ours.zero_()
