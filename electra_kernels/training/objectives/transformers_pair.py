"""Replaced-token detection with any pair of encoders of Hugging Face transformers (the extra ``transformers``)."""

import math
from dataclasses import astuple
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn

from electra_kernels import TokenLoss
from electra_kernels.data.batch import TokenBatch
from electra_kernels.data.vocabulary import SpecialIds
from electra_kernels.errors import UserError
from electra_kernels.models import Encoder
from electra_kernels.training.objectives.base import Objective, ratio
from electra_kernels.training.objectives.detection import detection_metrics
from electra_kernels.training.objectives.draws import row_draws

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from electra_kernels.integrations import ReplacedTokenDetection


class PairBatch(NamedTuple):
    """The arguments of `electra_kernels.integrations.ReplacedTokenDetection.forward`.

    Attributes:
        input_ids, attention_mask: [B, T] int64.
        labels: [B, T] int64, the ids, -100 at padding.
        masking_uniforms, sampling_uniforms: [B, K, 2] and [B, K] float64. A policy that casts floating-point inputs
            must leave them alone.
    """

    input_ids: Tensor
    attention_mask: Tensor
    labels: Tensor
    masking_uniforms: Tensor
    sampling_uniforms: Tensor


class TransformersPair(Objective):
    """ELECTRA (Clark et al. 2020), or DeBERTaV3 (He et al. 2021), with the models of two folders of transformers.

    A folder with weights is continued; one with only a config.json, of a base model or of any head, gives new weights
    from torch's global generator, and its vocabulary size and special ids are replaced by those of the tokenizer.

    The loss is that of the integration with Trainer: both losses divide by counts of the whole batch, the generator's
    by ``mask_probability`` times the number of tokens.

    Args:
        generator, discriminator: folders; `electra_kernels.integrations.folders.load_pair` has the rules.
        tokenizer: that of the text. It is saved with the models.
        special: its special tokens.
        embeddings: "shared", "gradient_disentangled" or "separate".
        options: further options of `electra_kernels.integrations.folders.load_pair`.

    Raises:
        UserError: transformers is not installed, or a folder cannot be used with this text or with the other folder.
    """

    name = "transformers_pair"
    per = "token"
    labels = "every token"
    detects = "which words do not fit, also real words in the wrong place"
    cannot_detect = "which word would be right; replacements as plausible as the original"
    metrics = (
        "mlm_loss",
        "mlm_accuracy",
        "sampled_accuracy",
        "replaced",
        "rtd_loss",
        "recall",
    )
    packs = False  # these models cannot confine attention to a piece of a row
    model: "ReplacedTokenDetection"

    def __init__(
        self,
        generator: Path,
        discriminator: Path,
        tokenizer: Tokenizer,
        special: SpecialIds,
        *,
        embeddings: str = "shared",
        **options: Any,
    ) -> None:
        nn.Module.__init__(self)  # there is no configuration of the reference models
        _require_transformers()
        from electra_kernels.integrations.folders import load_pair

        options.setdefault("special_token_ids", sorted(set(astuple(special))))
        wrapped = _wrapped_tokenizer(tokenizer, special)
        self.model = load_pair(Path(generator), Path(discriminator), wrapped, embeddings, **options)
        self.longest_row = _longest_row(self.model)
        if self.longest_row is not None:
            wrapped.model_max_length = self.longest_row

    @property
    def encoder(self) -> Encoder:
        """There is no encoder of the reference models: raises UserError."""
        raise UserError("a pair of transformers has no encoder of electra_kernels.models")

    def layers(self) -> list[nn.Module]:
        """The layers of both models, which repeat: the units to shard, to compile and to checkpoint."""
        return [
            layer
            for part in (self.model.generator, self.model.discriminator)
            for stack in _outermost_lists(part.base_model)
            for layer in stack
        ]

    def checkpoint_layers(self) -> None:
        """Keep only the input of each layer for the backward pass, and compute the layer again in it.

        Raises:
            UserError: transformers cannot do that for one of the models.
        """
        for part in (self.model.generator, self.model.discriminator):
            part.config.use_cache = False  # of no use to an encoder, and transformers would warn about it
            # Transformers 5.23 has renamed the method.
            enable = (
                getattr(part, "activation_checkpointing_enable", None) or part.gradient_checkpointing_enable
            )
            try:
                enable()
            except ValueError as error:
                kind = type(part).__name__
                raise UserError(
                    f"the layers of {kind} cannot be checkpointed: transformers does not do so"
                ) from error

    def batch(self, tokens: TokenBatch, seed: int) -> PairBatch:
        """The inputs of the model.

        Raises:
            ValueError: the rows are packed.
            UserError: the rows are longer than the positions that a model has.
        """
        self.require_single_pieces(tokens)
        ids, attention_mask = tokens.input_ids, tokens.attention_mask
        length = ids.shape[1]
        if self.longest_row is not None and length > self.longest_row:
            raise UserError(f"rows have {length} tokens, these models accept at most {self.longest_row}")
        slots = max(1, math.floor(self.model.config.mask_probability * length + 0.5))
        return PairBatch(
            ids,
            attention_mask.long(),
            ids.masked_fill(~attention_mask, -100),
            row_draws(tokens.numbers, "masking", seed, slots, 2),
            row_draws(tokens.numbers, "sampling", seed, slots),
        )

    def counts(self, batch: PairBatch) -> Tensor:
        """[1]: all tokens but padding."""
        return batch.attention_mask.sum()[None]

    def forward(
        self, batch: PairBatch, progress: float, counts: Tensor | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        (judged,) = self.denominators(batch, counts)
        output = self.model(**batch._asdict(), num_items_in_batch=judged, return_dict=True)
        masked, top, drawn = output.generator_counts.sum(0).unbind()
        mlm_total = output.mlm_loss.double() * (judged.double() * self.model.config.mask_probability)
        rtd = TokenLoss(output.rtd_loss, output.logits, output.counts)
        return output.loss, {
            "mlm_loss": ratio(mlm_total, masked),
            "mlm_accuracy": ratio(top, masked),
            "sampled_accuracy": ratio(drawn, masked),
            **detection_metrics(rtd, judged),
        }

    def token_scores(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """[B, T], higher where a token looks replaced."""
        from electra_kernels.integrations.sharding import run_as_forward

        discriminator = self.model.discriminator

        def logits(ids: Tensor) -> Tensor:
            scores: Tensor = discriminator(ids, attention_mask=attention_mask.long(), return_dict=True).logits
            return scores.reshape(ids.shape)

        scores: Tensor = run_as_forward([self, self.model], logits, input_ids)
        return scores

    def row_scores(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """[B], higher where any token looks replaced: the log-sum-exp of the row's token logits."""
        logits = self.token_scores(input_ids, attention_mask)
        return logits.masked_fill(~attention_mask, -torch.inf).logsumexp(-1)

    def save(self, folder: Path, state: dict[str, Tensor] | None = None) -> None:
        """Write the two models and their tokenizer to ``folder/generator`` and ``folder/discriminator``.

        Plain transformers loads them, and this class continues from them.

        Args:
            folder: is made if it does not exist.
            state: the weights under the names of ``self.state_dict()``; by default those. Needed for a sharded model.
        """
        if state is not None:
            state = {
                name.removeprefix("model."): part for name, part in state.items() if name.startswith("model.")
            }
        from electra_kernels.integrations.folders import quiet

        with quiet():
            self.model.save_models(folder, state)


def _require_transformers() -> None:
    try:
        import transformers  # noqa: F401
    except ModuleNotFoundError as error:
        _refuse(error)


def _refuse(error: ModuleNotFoundError) -> NoReturn:
    raise UserError(
        f"{error.name} not installed, a pair of its models needs it: pip install 'electra_kernels[transformers]'"
    ) from error


def _wrapped_tokenizer(tokenizer: Tokenizer, special: SpecialIds) -> "PreTrainedTokenizerFast":
    """The tokenizer as one of transformers, which knows the special tokens by their roles."""
    from transformers import PreTrainedTokenizerFast

    roles = {
        f"{role}_token": tokenizer.id_to_token(getattr(special, role))
        for role in ("pad", "cls", "sep", "mask")
    }
    if special.unk != special.pad:
        roles["unk_token"] = tokenizer.id_to_token(special.unk)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **roles)


def _longest_row(model: nn.Module) -> int | None:
    """The smallest number of absolute positions in a model, None if it has none (relative or rotary positions).

    Some models (RoBERTa) number the positions after that of padding.
    """
    return min(
        (
            module.num_embeddings - (0 if module.padding_idx is None else module.padding_idx + 1)
            for name, module in model.named_modules()
            if name.endswith("position_embeddings") and isinstance(module, nn.Embedding)
        ),
        default=None,
    )


def _outermost_lists(module: nn.Module) -> list[nn.ModuleList]:
    if isinstance(module, nn.ModuleList):
        return [module]
    return [stack for child in module.children() for stack in _outermost_lists(child)]
