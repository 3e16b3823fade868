"""Two Hugging Face models handled as one: they share a vocabulary, word embeddings, a configuration and a folder."""

import inspect
import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from electra_kernels.integrations.configuration import ReplacedTokenDetectionConfig
from electra_kernels.integrations.sharding import SHARDED_TENSORS, modules_on_path, run_as_forward
from electra_kernels.integrations.word_embeddings import word_embedding, word_embedding_name


class ModelPair(PreTrainedModel):
    """A generator and a discriminator that transformers, Trainer and adapter libraries handle as one model.

    The input and output embeddings of the pair are the generator's. The discriminator shares the generator's word
    embedding (embeddings="shared"), adds a matrix of its own to it ("gradient_disentangled"), or has its own
    ("separate").

    Attributes:
        tokenizer: saved with the model if it is known.
    """

    config: ReplacedTokenDetectionConfig
    config_class = ReplacedTokenDetectionConfig
    generator: PreTrainedModel
    discriminator: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase | None = None
    _hooked_embeddings: tuple[nn.Module, ...] = ()

    def get_input_embeddings(self) -> nn.Module:
        return word_embedding(self.generator)

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the generator's word embedding, and tie to it every module that shares its weight."""
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
        models start from the same vector for each.

        Returns:
            The generator's word embedding.
        """
        before = word_embedding(self.discriminator).weight.shape[0]
        for part in (self.generator, self.discriminator):
            part.resize_token_embeddings(new_num_tokens, pad_to_multiple_of, mean_resizing)
        if self.config.embeddings == "gradient_disentangled":
            with torch.no_grad():
                word_embedding(self.discriminator).weight[before:] = 0
        self.tie_weights()
        self.vocab_size = self.config.vocab_size
        return word_embedding(self.generator)

    def _prepare_embeddings(self) -> None:
        """Before a forward: check that a shared embedding is still one, and hook the discriminator's.

        Raises:
            ValueError: FSDP2 has made two of it, because its modules were sharded apart.
        """
        weights = [word_embedding(part).weight for part in (self.generator, self.discriminator)]
        is_sharded = any(isinstance(weight, SHARDED_TENSORS) for weight in weights)
        if is_sharded and self.config.embeddings == "shared" and weights[0] is not weights[1]:
            raise ValueError(
                "the shared word embedding was sharded as two, should be one: call fully_shard on the pair, or on a "
                "list of the modules that share it, but on none of them alone (or use embeddings='separate')"
            )
        self._hook_discriminator_embedding()

    def _hook_discriminator_embedding(self) -> None:
        """Hook the discriminator's word embedding, unless it is hooked already; it may have been replaced."""
        embedding = word_embedding(self.discriminator)
        if not any(module in self._hooked_embeddings for module in embedding.modules()):
            embedding.register_forward_hook(self._add_generator_part)
            self._hooked_embeddings = (embedding,)

    def _add_generator_part(self, module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> Tensor:
        """Add to the discriminator's vectors what only the generator's embedding provides.

        With "gradient_disentangled" these are the generator's vectors, which the discriminator does not train.
        Otherwise it is NEFTune's noise: Trainer adds it to the module that `get_input_embeddings` returns, and thus
        to the generator's vectors only.
        """
        embedding = word_embedding(self.generator)
        if self.config.embeddings == "gradient_disentangled":
            path = word_embedding_name(self.generator).removesuffix(".weight")
            around = modules_on_path(self.generator, path)[:-1]
            with torch.no_grad():
                vectors: Tensor = run_as_forward(around, embedding, inputs[0])
            return output + vectors.detach()
        alpha = getattr(embedding, "neftune_noise_alpha", None)
        if alpha is None or not module.training:
            return output
        bound = alpha / (output.shape[1] * output.shape[2]) ** 0.5
        return output + torch.empty_like(output).uniform_(-bound, bound)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Any:
        """Load the pair as any model of transformers, and with it the tokenizer of the folder."""
        loaded = super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)
        model = loaded[0] if isinstance(loaded, tuple) else loaded
        folder = Path(pretrained_model_name_or_path or "", "discriminator")
        if model.tokenizer is None and (folder / "tokenizer_config.json").is_file():
            model.tokenizer = AutoTokenizer.from_pretrained(folder)
        return loaded

    def save_pretrained(  # type: ignore[override]  # the other arguments are in kwargs
        self,
        save_directory: str | os.PathLike[Any],
        is_main_process: bool = True,
        state_dict: dict[Any, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Save the pair as any model, and both models in ``generator/`` and ``discriminator/`` for plain transformers.

        The tokenizer, if the model was given one, is written into all three folders. A shared weight is written once,
        also if ``state_dict``, which is not changed, was gathered from shards and so has it several times.
        """
        self.save_models(save_directory, state_dict, is_main_process=is_main_process)
        if self.tokenizer is not None and is_main_process:
            self.tokenizer.save_pretrained(save_directory)
        super().save_pretrained(
            save_directory,
            is_main_process=is_main_process,
            state_dict=None if state_dict is None else self._tied_state(state_dict),
            **kwargs,
        )

    def save_models(
        self,
        save_directory: str | os.PathLike[Any],
        state_dict: dict[Any, Any] | None = None,
        *,
        is_main_process: bool = True,
    ) -> None:
        """Save the two models without the pair. Arguments as in `save_pretrained`.

        A disentangled embedding is written as the sum that the discriminator sees.
        """
        state = self._tied_state(self.state_dict() if state_dict is None else state_dict)
        for name in ("generator", "discriminator"):
            part, folder = getattr(self, name), Path(save_directory, name)
            own = {key.removeprefix(f"{name}."): state[key] for key in state if key.startswith(f"{name}.")}
            if name == "discriminator" and self.config.embeddings == "gradient_disentangled":
                difference, base = word_embedding_name(part), word_embedding_name(self.generator)
                own[difference] = own[difference] + state[f"generator.{base}"]
            part.save_pretrained(folder, is_main_process=is_main_process, state_dict=own)
            if self.tokenizer is not None and is_main_process:
                self.tokenizer.save_pretrained(folder)

    def _tied_state(self, state: dict[Any, Any]) -> dict[Any, Any]:
        """A copy of the state in which the names of one parameter have one tensor."""
        first: dict[int, str] = {}
        every = self.named_parameters(remove_duplicate=False)
        names = {name: first.setdefault(id(parameter), name) for name, parameter in every}
        return {name: state.get(names.get(name), value) for name, value in state.items()}


def run_base_model(
    model: PreTrainedModel, input_ids: Tensor, inputs: dict[str, Tensor | None], flags: dict[str, Any]
) -> Any:
    """Run the base of a model without its head.

    Args:
        model: a model with a head.
        input_ids: [B, T] int64.
        inputs: other tensors; those that the base does not accept are left out.
        flags: output_hidden_states and output_attentions, if they were chosen.

    Returns:
        The output of the base, whose first entry has the hidden states [B, T, H].
    """
    base = model.base_model
    known = inspect.signature(base.forward).parameters
    accepted = {name: inputs[name] for name in inputs if name in known}
    return base(input_ids=input_ids, **accepted, **flags, return_dict=True)
