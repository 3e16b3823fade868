"""Compute the gradient of one step over sixteen rows, cut into micro-batches and ranks in several ways.

``gradients.py FILE``, run as two ranks: rank 0 writes the gradients of Trainer's step and of steps in accelerate loops.
"""

import sys
import tempfile

import torch
from accelerate import Accelerator
from torch.utils.data import DataLoader
from transformers import (
    ElectraConfig,
    ElectraForMaskedLM,
    ElectraForPreTraining,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)
from transformers import PreTrainedTokenizerFast as Tokenizer

from electra_kernels.integrations import DataCollatorForReplacedTokens, ReplacedTokenDetection
from electra_kernels.row_uniforms import row_uniforms

ROWS, V = 16, 90


def tokenizer():
    from tokenizers import Tokenizer as PlainTokenizer
    from tokenizers.models import WordPiece

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"w{index}" for index in range(5, V))]
    names = {f"{name}_token": f"[{name.upper()}]" for name in ("pad", "unk", "cls", "sep", "mask")}
    plain = PlainTokenizer(WordPiece({word: index for index, word in enumerate(words)}, unk_token="[UNK]"))
    return Tokenizer(tokenizer_object=plain, **names)


def rows():
    """Sixteen rows of 8 to 53 tokens, so that micro-batches are padded to different lengths."""
    generator = torch.Generator().manual_seed(5)
    lengths = [6 + 3 * index for index in range(ROWS)]
    return [
        {"input_ids": [2, *torch.randint(5, V, (length,), generator=generator).tolist(), 3]}
        for length in lengths
    ]


def model(dropout=0.0):
    torch.manual_seed(0)
    config = ElectraConfig(
        vocab_size=V,
        embedding_size=16,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=48,
        max_position_embeddings=64,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
        initializer_range=0.2,
    )
    return ReplacedTokenDetection(
        ElectraForMaskedLM(config), ElectraForPreTraining(config), tokenizer=tokenizer()
    )


class KeepGradients(TrainerCallback):
    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        self.gradients = gradients(model)


def gradients(model):
    model = getattr(model, "module", model)
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


def trainer_gradients(batch_size, accumulation):
    keep = KeepGradients()
    with tempfile.TemporaryDirectory() as directory:
        arguments = TrainingArguments(
            directory,
            per_device_train_batch_size=batch_size,
            gradient_accumulation_steps=accumulation,
            max_steps=1,
            max_grad_norm=0.0,
            report_to=[],
            save_strategy="no",
            disable_tqdm=True,
            use_cpu=True,
            seed=1,
        )
        trainer = Trainer(
            model(),
            arguments,
            train_dataset=rows(),
            data_collator=DataCollatorForReplacedTokens(tokenizer()),
            callbacks=[keep],
        )
        loss = trainer.train().training_loss
    return keep.gradients, loss


def accelerate_gradients(batch_size):
    """The loop of the README of integrations: count the whole batch, multiply the loss by the number of ranks."""
    accelerator = Accelerator(cpu=True)
    loader = DataLoader(rows(), batch_size, collate_fn=DataCollatorForReplacedTokens(tokenizer()))
    prepared, loader = accelerator.prepare(model(), loader)
    batches = list(loader)
    count = accelerator.reduce(sum((batch["labels"] != -100).sum() for batch in batches))
    for batch in batches:
        loss = prepared(**batch, num_items_in_batch=count).loss
        accelerator.backward(loss * accelerator.num_processes)
    return gradients(prepared)


def uneven_gradients(count):
    """Rank 0 has the first ``count`` rows, rank 1 the rest, each with its slice of the uniforms of one batch."""
    accelerator = Accelerator(cpu=True)
    prepared = accelerator.prepare(model())
    mine = slice(0, count) if accelerator.process_index == 0 else slice(count, ROWS)
    batch = DataCollatorForReplacedTokens(tokenizer())(rows()[mine])
    slots = max(1, int(0.15 * batch["input_ids"].shape[1] + 0.5))
    numbers = row_uniforms(2 * torch.arange(ROWS)[mine], 3 * slots, seed=0).view(-1, slots, 3)
    items = accelerator.reduce((batch["labels"] != -100).sum())
    loss = prepared(
        **batch,
        num_items_in_batch=items,
        masking_uniforms=numbers[..., :2],
        sampling_uniforms=numbers[..., 2],
    ).loss
    accelerator.backward(loss * accelerator.num_processes)
    return gradients(prepared)


if __name__ == "__main__":
    found = {
        "trainer": trainer_gradients(4, 2)[0],
        "accelerate": accelerate_gradients(4),
        "uneven": uneven_gradients(10),
    }
    if torch.distributed.get_rank() == 0:
        assert torch.distributed.get_world_size() == 2
        torch.save(found, sys.argv[1])
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()
