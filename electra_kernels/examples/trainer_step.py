"""What a Trainer step costs, ours beside the same two models as transformers runs them: seconds and peak memory.

"plain" has the generator's logits at every position, as its forward with labels computes them; "gathered" only at the
masked ones, as a careful user writes it. Both sample with Gumbel noise and take transformers' losses.

Each side is a process of its own, because peak memory is that of a process. They take turns step by step, so that a
slow moment of the machine hits all.
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

KINDS = ("plain", "gathered", "ours")
VOCABULARY, MASK, SPECIAL = 30_522, 103, [0, 100, 101, 102, 103]  # of BERT
_SIZES = ("vocab_size", "embedding_size", "hidden_size", "num_hidden_layers", "num_attention_heads")


class PlainPair(nn.Module):
    """The joint step in plain torch; its masking is that of `DataCollatorForLanguageModeling`, without random ids."""

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


class Turns(TrainerCallback):
    """A step begins when the other end of the connection says so, and tells it the seconds that it took."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection

    def on_step_begin(self, *arguments: Any, **named: Any) -> None:
        self.connection.recv()
        self.start = time.perf_counter()

    def on_step_end(self, *arguments: Any, **named: Any) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.connection.send(time.perf_counter() - self.start)


def train(kind: str, options: argparse.Namespace, connection: Connection) -> None:
    """One side: after the seconds of each step it sends the peak memory in MiB, before the training and after it."""
    torch.manual_seed(0)
    config = electra_config(options.size, vocab_size=VOCABULARY, mask_token_id=MASK)
    assert config.generator is not None
    generator = ElectraForMaskedLM(_their_config(config.generator, options.layers))
    discriminator = ElectraForPreTraining(_their_config(config.discriminator, options.layers))
    if kind == "ours":
        model: nn.Module = ReplacedTokenDetection(
            generator, discriminator, mask_token_id=MASK, special_token_ids=SPECIAL
        )
    else:
        model = PlainPair(generator, discriminator, gathered=kind == "gathered")
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
        trainer = Trainer(model, arguments, train_dataset=rows, callbacks=[Turns(connection)])
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
    """Of each kind: the seconds of its steps but for the first, and its peak memory before and after."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = zip(*(context.Pipe() for _ in KINDS))
    sides = [
        context.Process(target=train, args=(kind, options, end), daemon=True)
        for kind, end in zip(KINDS, theirs)
    ]
    for side, end in zip(sides, theirs):
        side.start()
        end.close()  # so that a side that dies is seen as the end of its messages
    seconds: list[list[float]] = [[] for _ in KINDS]
    for _ in range(options.steps):
        for times, connection in zip(seconds, ours):
            connection.send("step")
            times.append(connection.recv())
    peaks = [connection.recv() for connection in ours]
    return [times[1:] for times in seconds], peaks


def line(kind: str, seconds: Sequence[float], plain: Sequence[float], peak: tuple[float, float]) -> str:
    ratio = statistics.median(one / other for one, other in zip(seconds, plain))
    return (
        f"{kind:9}{statistics.median(seconds):8.3f} s a step (median of {len(seconds)}), {ratio:4.2f} of plain, "
        f"peak {peak[1]:6.0f} MiB, {peak[0]:.0f} of them before the first step"
    )


def main(arguments: list[str] | None = None) -> None:
    known = argparse.ArgumentParser(description=__doc__)
    known.add_argument("--size", choices=("small", "base", "large"), default="small", help="of ELECTRA")
    known.add_argument("--layers", type=int, help="of both models, by default those of the size")
    known.add_argument("--batch-size", type=int, default=16, help="rows (default: %(default)s)")
    known.add_argument("--length", type=int, default=128, help="tokens a row (default: %(default)s)")
    known.add_argument("--steps", type=int, default=8, help="the first is not timed (default: %(default)s)")
    options = known.parse_args(arguments)
    seconds, peaks = take_turns(options)
    for kind, times, peak in zip(KINDS, seconds, peaks):
        print(line(kind, times, seconds[0], peak), flush=True)


if __name__ == "__main__":
    main()
