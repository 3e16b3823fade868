"""What a Trainer step costs, ours beside the same two models as transformers runs them: seconds and peak memory.

The plain pair computes logits at every position, samples with Gumbel noise at the masked ones, and takes its losses
from transformers. Each side runs in a process of its own, because peak memory is that of a process.
"""

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    ElectraConfig,
    ElectraForMaskedLM,
    ElectraForPreTraining,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from electra_kernels.integrations import ReplacedTokenDetection

MASK, SPECIAL = 103, [0, 100, 101, 102, 103]


class PlainPair(nn.Module):
    """The joint step in plain torch; its masking is that of `DataCollatorForLanguageModeling`, without random ids."""

    def __init__(self, generator: ElectraForMaskedLM, discriminator: ElectraForPreTraining) -> None:
        super().__init__()
        self.generator, self.discriminator = generator, discriminator
        discriminator.electra.embeddings.word_embeddings = generator.electra.embeddings.word_embeddings

    def forward(self, input_ids: Tensor, attention_mask: Tensor, labels: Tensor) -> dict[str, Tensor]:
        chosen = (torch.rand(input_ids.shape, device=input_ids.device) < 0.15) & (input_ids > MASK)
        masked = input_ids.masked_fill(chosen, MASK)
        mlm = self.generator(masked, attention_mask, labels=input_ids.masked_fill(~chosen, -100))
        with torch.no_grad():
            logits = mlm.logits[chosen].float()
            sampled = (logits - torch.empty_like(logits).exponential_().log()).argmax(-1)
        replaced = input_ids.clone()
        replaced[chosen] = sampled
        rtd = self.discriminator(replaced, attention_mask, labels=(replaced != input_ids).long())
        return {"loss": mlm.loss + 50 * rtd.loss}


class Clock(TrainerCallback):
    def __init__(self) -> None:
        self.times: list[float] = []

    def on_step_end(self, *arguments: Any, **named: Any) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.times.append(time.perf_counter())


def measure(kind: str, options: argparse.Namespace) -> str:
    torch.manual_seed(0)
    generator = ElectraForMaskedLM(_config(options.layers, 64))
    discriminator = ElectraForPreTraining(_config(options.layers, 256))
    model: nn.Module = PlainPair(generator, discriminator)
    if kind == "ours":
        model = ReplacedTokenDetection(
            generator, discriminator, mask_token_id=MASK, special_token_ids=SPECIAL
        )
    ids = torch.randint(
        1_000, ElectraConfig().vocab_size, (options.batch_size * options.steps, options.length)
    )
    rows: Any = [{"input_ids": row, "attention_mask": torch.ones_like(row), "labels": row} for row in ids]
    clock = Clock()
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
        Trainer(model, arguments, train_dataset=rows, callbacks=[clock]).train()
    steps = torch.tensor(clock.times).double().diff()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    if torch.cuda.is_available():
        peak = torch.cuda.max_memory_allocated() / 2**20
    return f"{kind:6} {steps.median().item():8.3f} s a step (median of {len(steps)}), peak {peak:6.0f} MiB"


def _config(layers: int, width: int) -> ElectraConfig:
    return ElectraConfig(
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=width // 64,
        intermediate_size=4 * width,
    )


def main(arguments: list[str] | None = None) -> None:
    known = argparse.ArgumentParser(description=__doc__)
    known.add_argument("--layers", type=int, default=12, help="of both models (default: %(default)s)")
    known.add_argument("--batch-size", type=int, default=16, help="rows (default: %(default)s)")
    known.add_argument("--length", type=int, default=128, help="tokens a row (default: %(default)s)")
    known.add_argument("--steps", type=int, default=6, help="the first is not timed (default: %(default)s)")
    known.add_argument("--kind", choices=("plain", "ours"), help="only this one, in this process")
    options = known.parse_args(arguments)
    if options.kind:
        print(measure(options.kind, options), flush=True)
        return
    for kind in ("plain", "ours"):
        command = [sys.executable, "-m", "electra_kernels.examples.trainer_step", "--kind", kind]
        for name in ("layers", "batch_size", "length", "steps"):
            command += [f"--{name.replace('_', '-')}", str(getattr(options, name))]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            sys.exit(done.stderr)
        print(done.stdout.splitlines()[-1], flush=True)


if __name__ == "__main__":
    main()
