"""Measure how far `ReplacedTokenDetection` is from plain transformers, and a cut batch from the whole batch.

``python -m tests.integrations.parity`` prints the differences. The tests check them against limits.
"""

import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import torch

from electra_kernels.integrations import ReplacedTokenDetection

from . import gradients
from .tiny import ARCHITECTURES, MASK, SPECIAL, batch, pair, plain_step, uniforms


class Parity(NamedTuple):
    """Largest absolute differences from plain transformers; the gradient's is relative to its model's largest entry."""

    loss: float
    logits: float
    gradient: float


def parity(ours, theirs, **options):
    """Compare two pairs of equal weights, asserting that both replace the same tokens and train the same weights."""
    ids, attention_mask = batch()
    model = ReplacedTokenDetection(
        *ours, mask_token_id=MASK, special_token_ids=SPECIAL, embeddings="separate", **options
    ).eval()
    output = model(ids, attention_mask, **uniforms())
    *losses, logits, is_replaced = plain_step(*theirs, ids, attention_mask, **uniforms())
    assert torch.equal(output.is_replaced, is_replaced)
    assert is_replaced.any()
    output.loss.backward()
    losses[0].backward()
    pairs = zip((output.loss, output.mlm_loss, output.rtd_loss), losses)
    real = attention_mask.bool()
    return Parity(
        max((got - expected).abs().item() for got, expected in pairs),
        (output.logits - logits)[real].abs().max().item(),
        max(_gradient_difference(*both) for both in zip(ours, theirs)),
    )


def _gradient_difference(ours, theirs):
    expected = {name: p.grad for name, p in theirs.named_parameters() if p.grad is not None}
    return relative_difference(
        {name: p.grad for name, p in ours.named_parameters() if p.grad is not None}, expected
    )


def relative_difference(got, expected):
    """Largest difference between gradients, relative to the largest entry of all gradients."""
    assert got.keys() == expected.keys()
    largest = max(gradient.abs().max().item() for gradient in expected.values())
    assert largest > 0.1
    return max((got[name] - expected[name]).abs().max().item() for name in expected) / largest


def two_ranks():
    """The output of `gradients` run as two gloo processes by ``accelerate launch``."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    options = "--multi_gpu --num_processes 2 --num_machines 1 --mixed_precision no --dynamo_backend no"
    launch = [
        sys.executable,
        "-m",
        "accelerate.commands.launch",
        *options.split(),
        "--main_process_port",
        port,
    ]
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory, "gradients.pt")
        process = subprocess.Popen(
            [*launch, gradients.__file__, str(file)],
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        try:
            output, _ = process.communicate(timeout=200)
        finally:
            process.terminate()  # a launcher that has not finished ends its ranks
            process.wait()
        assert process.returncode == 0, output
        return torch.load(file)


def main():
    print(f"{'largest difference from plain transformers':44}{'loss':>10}{'logits':>10}{'gradient':>10}")
    for architecture in ARCHITECTURES:
        found = parity(pair(architecture), pair(architecture))
        print(f"{architecture:44}{found.loss:10.1e}{found.logits:10.1e}{found.gradient:10.1e}")
    one, plain_loop = gradients.trainer_gradients(16, 1)[0], gradients.accelerate_gradients(16)
    ranks = two_ranks()
    accumulated = gradients.trainer_gradients(4, 4)[0]
    gradients.ReplacedTokenDetection.accepts_loss_kwargs = False
    means = gradients.trainer_gradients(4, 4)[0]
    print(
        "gradient compared with that of one batch of 16 rows of unequal length, relative to its largest entry"
    )
    for name, got, expected in (
        ("Trainer, 4 accumulated micro-batches", accumulated, one),
        ("Trainer, 2 ranks of 2 micro-batches", ranks["trainer"], one),
        ("loop with accelerate, 2 ranks", ranks["accelerate"], plain_loop),
        ("loop, 2 ranks of 10 and 6 rows", ranks["uneven"], plain_loop),
        ("for comparison: a mean of 4 means", means, one),
    ):
        print(f"{name:44}{relative_difference(got, expected):30.1e}")


if __name__ == "__main__":
    main()
