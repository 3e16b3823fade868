"""``python -m benchmarks.trainer_step``: time and peak memory of a step of transformers' Trainer, on a CPU or GPU.

Three variants train the same two models. "plain" computes the generator's logits at every position, as its forward with
labels does. "gathered" computes them only at the masked positions, as a careful user would. Both draw tokens with
Gumbel noise and use transformers' losses. "ours" is `integrations.ReplacedTokenDetection`.

Each variant runs in a process of its own, because peak memory is a property of a process. They take turns step by step,
so that a slow moment of the machine hits all of them.
"""

import argparse
import multiprocessing
import resource
import statistics
import tempfile
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import (
    ElectraConfig,
    ElectraForMaskedLM,
    ElectraForPreTraining,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from electra_kernels.integrations import ReplacedTokenDetection
from electra_kernels.models import EncoderConfig, electra_config

VARIANTS = ("plain", "gathered", "ours")
VOCABULARY, MASK, SPECIAL = 30_522, 103, [0, 100, 101, 102, 103]  # BERT's
_SIZES = ("vocab_size", "embedding_size", "hidden_size", "num_hidden_layers", "num_attention_heads")


class PlainPair(nn.Module):
    """The joint step in plain torch, masked like `DataCollatorForLanguageModeling` but without random ids."""

    def __init__(
        self, generator: ElectraForMaskedLM, discriminator: ElectraForPreTraining, *, gathered: bool
    ) -> None:
        super().__init__()
        self.generator, self.discriminator, self.gathered = generator, discriminator, gathered
        discriminator.electra.embeddings.word_embeddings = generator.electra.embeddings.word_embeddings

    def forward(self, input_ids: Tensor, attention_mask: Tensor, labels: Tensor) -> dict[str, Tensor]:
        chosen = (torch.rand(input_ids.shape, device=input_ids.device) < 0.15) & (input_ids > MASK)
        masked = input_ids.masked_fill(chosen, MASK)
        mlm, logits = self._propose(masked, attention_mask, input_ids, chosen)
        logits = logits.detach().float()
        replaced = input_ids.clone()
        replaced[chosen] = (logits - torch.empty_like(logits).exponential_().log()).argmax(-1)
        rtd = self.discriminator(replaced, attention_mask, labels=(replaced != input_ids).long())
        return {"loss": mlm + 50 * rtd.loss}

    def _propose(
        self, masked: Tensor, attention_mask: Tensor, input_ids: Tensor, chosen: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Loss [] and logits [n, V] of the chosen positions."""
        if not self.gathered:
            labels = input_ids.masked_fill(~chosen, -100)
            output = self.generator(masked, attention_mask, labels=labels)
            return output.loss, output.logits[chosen]
        hidden = self.generator.electra(masked, attention_mask).last_hidden_state[chosen]
        logits = self.generator.generator_lm_head(self.generator.generator_predictions(hidden))
        return F.cross_entropy(logits, input_ids[chosen]), logits


class StepGate(TrainerCallback):
    """Waits for a message before each step, and sends the seconds that the step took."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection

    def on_step_begin(self, *arguments: Any, **named: Any) -> None:
        self.connection.recv()
        self.start = time.perf_counter()

    def on_step_end(self, *arguments: Any, **named: Any) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.connection.send(time.perf_counter() - self.start)


def train(variant: str, options: argparse.Namespace, connection: Connection) -> None:
    """Train one variant; sends the seconds of each step, then the peak memory in MiB before and after training."""
    torch.manual_seed(0)
    config = electra_config(options.size, vocab_size=VOCABULARY, mask_token_id=MASK)
    assert config.generator is not None
    generator = ElectraForMaskedLM(_their_config(config.generator, options.layers))
    discriminator = ElectraForPreTraining(_their_config(config.discriminator, options.layers))
    if variant == "ours":
        model: nn.Module = ReplacedTokenDetection(
            generator, discriminator, mask_token_id=MASK, special_token_ids=SPECIAL
        )
    else:
        model = PlainPair(generator, discriminator, gathered=variant == "gathered")
    shape = (options.batch_size * options.steps, options.length)
    ids = torch.randint(1_000, VOCABULARY, shape)
    rows: Any = [{"input_ids": row, "attention_mask": torch.ones_like(row), "labels": row} for row in ids]
    with tempfile.TemporaryDirectory() as directory:
        arguments = TrainingArguments(
            directory,
            max_steps=options.steps,
            per_device_train_batch_size=options.batch_size,
            report_to=[],
            save_strategy="no",
            logging_strategy="no",
            disable_tqdm=True,
            dataloader_pin_memory=torch.cuda.is_available(),
        )
        trainer = Trainer(model, arguments, train_dataset=rows, callbacks=[StepGate(connection)])
        before = _peak()
        trainer.train()
    connection.send((before, _peak()))


def _their_config(config: EncoderConfig, layers: int | None) -> ElectraConfig:
    sizes = {name: getattr(config, name) for name in (*_SIZES, "intermediate_size")}
    if layers is not None:
        sizes["num_hidden_layers"] = layers
    return ElectraConfig(**sizes)


def _peak() -> float:
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def take_turns(options: argparse.Namespace) -> tuple[list[list[float]], list[tuple[float, float]]]:
    """For each variant: seconds of its steps without the first, and peak memory before and after training."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = zip(*(context.Pipe() for _ in VARIANTS))
    processes = [
        context.Process(target=train, args=(variant, options, end), daemon=True)
        for variant, end in zip(VARIANTS, theirs)
    ]
    for process, end in zip(processes, theirs):
        process.start()
        end.close()  # so that the end of a process ends its messages
    seconds: list[list[float]] = [[] for _ in VARIANTS]
    for _ in range(options.steps):
        for times, connection in zip(seconds, ours):
            connection.send("step")
            times.append(connection.recv())
    peaks = [connection.recv() for connection in ours]
    return [times[1:] for times in seconds], peaks


def line(variant: str, seconds: Sequence[float], plain: Sequence[float], peak: tuple[float, float]) -> str:
    ratio = statistics.median(one / other for one, other in zip(seconds, plain))
    return (
        f"{variant:9}{statistics.median(seconds):8.3f} s a step (median of {len(seconds)}), {ratio:4.2f} of plain, "
        f"peak {peak[1]:6.0f} MiB, {peak[0]:.0f} of them before the first step"
    )


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.trainer_step", description=__doc__)
    parser.add_argument("--size", choices=("small", "base", "large"), default="small", help="ELECTRA size")
    parser.add_argument(
        "--layers", type=int, help="number of layers of both models (default: as the size has)"
    )
    parser.add_argument("--batch-size", type=int, default=16, help="rows (default: %(default)s)")
    parser.add_argument("--length", type=int, default=128, help="tokens a row (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=8, help="the first is not timed (default: %(default)s)")
    options = parser.parse_args(arguments)
    seconds, peaks = take_turns(options)
    for variant, times, peak in zip(VARIANTS, seconds, peaks):
        print(line(variant, times, seconds[0], peak), flush=True)


if __name__ == "__main__":
    main()
