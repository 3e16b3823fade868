"""Replaced-token detection for any pair of Hugging Face models, with Trainer, accelerate or a loop of your own."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers import initialization as init
from transformers.utils import ModelOutput

from electra_kernels.integrations.configuration import (
    ReplacedTokenDetectionConfig,
    config_from_models,
    model_from_config,
)
from electra_kernels.integrations.head_losses import sampled_loss, shared_sampled_loss, token_loss
from electra_kernels.integrations.heads import HeadFunction, masked_lm_head, token_head
from electra_kernels.integrations.model_pair import ModelPair, run_base_model
from electra_kernels.integrations.sharding import run_as_forward
from electra_kernels.integrations.word_embeddings import start_from_one_embedding, word_embedding_name
from electra_kernels.ops import (
    MaskedTokens,
    SampledLoss,
    TokenLoss,
    gather_rows,
    mask_tokens,
    replace_tokens,
)
from electra_kernels.row_uniforms import row_uniforms


@dataclass
class ReplacedTokenDetectionOutput(ModelOutput):
    """The output of one joint step.

    Args:
        loss: [] float32, MLM + rtd_weight * RTD.
        logits: [B, T] float32, above 0 where a token looks replaced; without gradient.
        is_replaced: [B, T] bool.
        generator_counts: [B, 3] int64: the number of masked tokens, of those whose original had the highest logit, and
            of those whose original was drawn.
        mlm_loss, rtd_loss: [] float32, without gradient.
        counts: [4] int64, tp fp fn tn of the discriminator at logit 0.
        hidden_states, attentions: those of the discriminator's layers, if they were asked for.
        generator_hidden_states, generator_attentions: those of the generator's layers, whose input is the masked batch.
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    is_replaced: Tensor | None = None
    generator_counts: Tensor | None = None
    mlm_loss: Tensor | None = None
    rtd_loss: Tensor | None = None
    counts: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None
    generator_hidden_states: tuple[Tensor, ...] | None = None
    generator_attentions: tuple[Tensor, ...] | None = None


class ReplacedTokenDetection(ModelPair):
    """A generator fills masks, a discriminator finds the tokens that are not original (Clark et al. 2020, section 2).

    Masking, the two losses and the draw are this library's ops; the generator's logits are computed at masked
    positions only.

    The uniforms of a row are those of ``seed`` and of its number in the run (`electra_kernels.row_uniforms` explains
    why). The ranks number their rows one after the other, which needs the same number of rows on each rank, as Trainer
    and accelerate provide (``even_batches``); otherwise give masking_uniforms and sampling_uniforms. In evaluation
    mode each call of ``eval()`` starts the numbering again.

    Args:
        generator: a masked language model (AutoModelForMaskedLM).
        discriminator: ElectraForPreTraining, or any AutoModelForTokenClassification with ``num_labels=1``. Unless
            embeddings is "separate", both models start from its word embedding, which must have the shape of the
            generator's.
        tokenizer: provides mask_token_id and special_token_ids if they are not given; it is saved with the model.
        head: the generator's head, if it cannot be found, as a function (model, hidden [..., H]) → (features [..., E],
            weight [V, E], bias [V] or None). It is not saved: give it to `from_pretrained` too.
        options: options of `ReplacedTokenDetectionConfig`.

    Attributes:
        vocabulary_mesh: None, or a mesh of one dimension whose ranks share the generator's output layer in training
            mode: each computes a slice of the vocabulary for the rows of all. num_items_in_batch must be given then.

    Raises:
        TypeError, ValueError: the models do not fit each other or have no such head, or an option is out of range.
    """

    base_model_prefix = "replaced_token_detection"
    main_input_name = "input_ids"
    accepts_loss_kwargs = True  # tells Trainer to pass num_items_in_batch
    supports_gradient_checkpointing = True
    _supports_sdpa = _supports_flash_attn = _supports_flex_attn = _supports_attention_backend = True
    vocabulary_mesh: DeviceMesh | None = None
    special_token_ids: Tensor
    rows_seen: Tensor  # [2] int64: rows in training, rows in evaluation

    def __init__(
        self,
        generator: PreTrainedModel | ReplacedTokenDetectionConfig,
        discriminator: PreTrainedModel | None = None,
        *,
        tokenizer: PreTrainedTokenizerBase | None = None,
        head: HeadFunction | None = None,
        **options: Any,
    ) -> None:
        if isinstance(generator, ReplacedTokenDetectionConfig):  # called by from_pretrained
            config = generator
            super().__init__(config)
            generator = model_from_config(config.generator)
            discriminator = model_from_config(config.discriminator)
        else:
            config = config_from_models(generator, discriminator, tokenizer, options)
            super().__init__(config)
            assert discriminator is not None
            start_from_one_embedding(generator, discriminator, config.embeddings)
        self.generator, self.discriminator, self.tokenizer = generator, discriminator, tokenizer
        self._generator_head = head or masked_lm_head(generator)
        self._discriminator_head = token_head(discriminator)
        self._hook_discriminator_embedding()
        if config.embeddings == "shared":
            tied, source = (word_embedding_name(part) for part in (discriminator, generator))
            self._tied_weights_keys = {f"discriminator.{tied}": f"generator.{source}"}
        self.register_buffer("special_token_ids", torch.tensor(config.special_token_ids, dtype=torch.int64))
        self.register_buffer("rows_seen", torch.zeros(2, dtype=torch.int64))
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Initialise the buffers too: a checkpoint that lacks them would leave them in uninitialised memory."""
        super()._init_weights(module)
        if module is self:
            init.copy_(self.special_token_ids, torch.tensor(self.config.special_token_ids, dtype=torch.int64))
            init.zeros_(self.rows_seen)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        labels: Tensor | None = None,
        num_items_in_batch: int | Tensor | None = None,
        masking_uniforms: Tensor | None = None,
        sampling_uniforms: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        return_dict: bool | None = None,
    ) -> ReplacedTokenDetectionOutput | tuple[Any, ...]:
        """Mask, propose, replace, detect.

        Args:
            input_ids: [B, T] int64, the original tokens.
            attention_mask: [B, T], nonzero at real tokens, 0 at padding; by default all are real.
            token_type_ids: [B, T], passed to a model if it accepts them.
            labels: [B, T], -100 at tokens that are neither masked nor judged; other values are not read.
                `DataCollatorForReplacedTokens` sets -100 at padding.
            num_items_in_batch: number of labels other than -100 in the whole batch, an int or an int64 tensor []. The
                discriminator's loss is divided by it, the generator's by mask_probability times it, so that the losses
                of micro-batches and ranks add up. By default each loss is a mean.
            masking_uniforms, sampling_uniforms: [B, K, 2] and [B, K] float64 in [0, 1) that replace the numbers of the
                run, with K = max(1, floor(mask_probability * T + 0.5)). If both are given, the rows are not counted.
            inputs_embeds: must be None, which adapter libraries pass: embeddings cannot be masked.
            output_hidden_states, output_attentions: return those of both models, in each model's own form; by default
                as the configurations say.
            return_dict: False returns a tuple of the entries that are not None; by default as the configuration says.

        Raises:
            TypeError, ValueError: as the ops.
            ValueError: inputs_embeds is given, or num_items_in_batch without labels.
        """
        _check(inputs_embeds, labels, num_items_in_batch)
        self._prepare_embeddings()
        inputs = {"attention_mask": attention_mask, "token_type_ids": token_type_ids}
        flags = self._flags(output_hidden_states=output_hidden_states, output_attentions=output_attentions)
        judged = _judged(input_ids, attention_mask, labels)
        masked, uniforms = self._mask(input_ids, judged, masking_uniforms, sampling_uniforms)

        def propose(ids: Tensor) -> tuple[Any, SampledLoss]:
            base = run_base_model(self.generator, ids, inputs, flags)
            return base, self._propose(base[0], masked, num_items_in_batch, uniforms)

        def detect(ids: Tensor) -> tuple[Any, TokenLoss]:
            base, head = run_base_model(self.discriminator, ids, inputs, flags), self._discriminator_head
            labels, items = replaced.is_replaced, num_items_in_batch
            return base, token_loss(head, self.discriminator, base[0], labels, judged, normalizer=items)

        generator, mlm = run_as_forward([self.generator], propose, masked.input_ids)
        replaced = replace_tokens(input_ids, masked.positions, mlm.tokens)
        discriminator, rtd = run_as_forward([self.discriminator], detect, replaced.input_ids)
        output = ReplacedTokenDetectionOutput(
            loss=mlm.loss + self.config.rtd_weight * rtd.loss,
            logits=rtd.logits,
            is_replaced=replaced.is_replaced,
            generator_counts=_generator_counts(masked, mlm),
            mlm_loss=mlm.loss.detach(),
            rtd_loss=rtd.loss.detach(),
            counts=rtd.counts,
            hidden_states=discriminator.get("hidden_states"),
            attentions=discriminator.get("attentions"),
            generator_hidden_states=generator.get("hidden_states"),
            generator_attentions=generator.get("attentions"),
        )
        as_dict = self.config.return_dict if return_dict is None else return_dict
        return output if as_dict else output.to_tuple()

    def _flags(self, **given: bool | None) -> dict[str, bool]:
        """The output flags for both models. A flag that neither the call nor our configuration sets is left out."""
        chosen = {
            name: (getattr(self.config, name) or None) if flag is None else flag
            for name, flag in given.items()
        }
        return {name: flag for name, flag in chosen.items() if flag is not None}

    def _mask(
        self, input_ids: Tensor, judged: Tensor, masking: Tensor | None, sampling: Tensor | None
    ) -> tuple[MaskedTokens, Tensor]:
        """The masked batch, and the uniforms [B, K] for the draw; those of the run where none are given."""
        config, rows = self.config, input_ids.shape[0]
        # Enough slots for the k of every row, so that the length to which a row is padded does not change its tokens.
        slots = max(1, int(config.mask_probability * input_ids.shape[1] + 0.5))
        if masking is None or sampling is None:
            numbers = row_uniforms(self._next_rows(rows), 3 * slots, config.seed).view(rows, slots, 3)
            masking = numbers[..., :2] if masking is None else masking
            sampling = numbers[..., 2] if sampling is None else sampling
        masked = mask_tokens(
            input_ids,
            judged & torch.isin(input_ids, self.special_token_ids, invert=True),
            mask_token_id=config.mask_token_id,
            vocab_size=config.generator.vocab_size,
            probability=config.mask_probability,
            mask_fraction=config.mask_fraction,
            random_fraction=config.random_fraction,
            max_predictions=slots,
            uniforms=masking,
        )
        return masked, sampling

    def _propose(
        self, hidden: Tensor, masked: MaskedTokens, num_items: int | Tensor | None, uniforms: Tensor
    ) -> SampledLoss:
        config = self.config
        rows = (self._generator_head, self.generator, gather_rows(hidden, masked.positions), masked.targets)
        options: dict[str, Any] = {
            "normalizer": None if num_items is None else _exact(num_items) * config.mask_probability,
            "temperature": config.sampling_temperature,
            "ban_original": config.ban_original,
            "uniforms": uniforms,
        }
        if self.vocabulary_mesh is not None and self.training:
            return shared_sampled_loss(*rows, self.vocabulary_mesh, **options)
        return sampled_loss(*rows, **options)

    def _next_rows(self, count: int) -> Tensor:
        """The numbers [B] of this batch's rows in the run, and count them; the ranks' numbers follow one another.

        The counts stay on the device, and are saved, so that a resumed run continues with the next row.
        """
        rank, ranks = 0, 1
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            rank, ranks = torch.distributed.get_rank(), torch.distributed.get_world_size()
        which = (
            0 if self.training else 1
        )  # even numbers in training, odd ones in evaluation, to share no uniforms
        rows = self.rows_seen[which] + rank * count + torch.arange(count, device=self.rows_seen.device)
        with torch.no_grad():
            self.rows_seen[which] += ranks * count
        return 2 * rows + which

    def train(self, mode: bool = True) -> "ReplacedTokenDetection":
        """Set the mode, as in any module; evaluation mode starts its numbering of the rows again."""
        if not mode and hasattr(self, "rows_seen"):
            self.rows_seen[1] = 0
        super().train(mode)
        return self


def _judged(input_ids: Tensor, attention_mask: Tensor | None, labels: Tensor | None) -> Tensor:
    """[B, T] bool: the tokens that may be masked and that the discriminator's loss covers."""
    judged = torch.ones_like(input_ids, dtype=torch.bool) if attention_mask is None else attention_mask != 0
    return judged if labels is None else judged & (labels != -100)


def _exact(number: int | Tensor) -> int | Tensor:
    """The number in float64: the product of an integer tensor and a fraction would be float32."""
    return number.double() if isinstance(number, Tensor) else number


def _generator_counts(masked: MaskedTokens, mlm: SampledLoss) -> Tensor:
    """[B, 3] int64, as in `ReplacedTokenDetectionOutput.generator_counts`."""
    was_drawn = (mlm.tokens == masked.targets) & (mlm.tokens >= 0)
    return torch.stack([(masked.targets >= 0).sum(-1), mlm.is_top1.sum(-1), was_drawn.sum(-1)], -1)


def _check(inputs_embeds: Tensor | None, labels: Tensor | None, num_items: int | Tensor | None) -> None:
    if inputs_embeds is not None:
        raise ValueError("inputs_embeds is given, should be None: give input_ids, whose tokens can be masked")
    if num_items is not None and labels is None:
        raise ValueError(
            "labels is None, should be given with num_items_in_batch, which counts them: Trainer withholds them if "
            "label_smoothing_factor is not 0 or compute_loss_func is given, but this model computes its own loss"
        )
