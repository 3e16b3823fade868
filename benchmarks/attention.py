"""What it costs to confine attention to the pieces of packed rows: forward and backward of an encoder.

    OMP_NUM_THREADS=1 python -m benchmarks.attention [--layers 2] [--rounds 5] [--device cuda]

Prints one line per row length. The baseline has rows of one piece without padding, and no mask. Each other column is
the time over that of the baseline, as the median over rounds in which all variants run one after the other. All
variants have the same number of tokens, 2,048. Pieces have lengths of mean 100, exponentially distributed, at least 10.
On a CPU the time is processor time of all threads, which other work on the machine changes least. On a GPU the encoder
computes in bfloat16, so packed rows use varlen attention.
"""

import argparse
import contextlib
import time
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from benchmarks.harness import Case, Measurement, measure
from benchmarks.timers import HostTimer, Run, StreamTimer
from electra_kernels.models import Encoder, electra_config

TOKENS, LENGTHS, WORDS = 2048, (128, 512, 1024), 30_522
MEAN_PIECE, SHORTEST_PIECE = 100.0, 10


class ProcessorTimer(HostTimer):
    """The mean processor time of consecutive runs."""

    def seconds(self, run: Run, runs: int, back_to_back: bool) -> float:
        start = time.process_time()
        for _ in range(runs):
            run()
        return (time.process_time() - start) / runs


def segments_of(rows: int, length: int) -> Tensor:
    """Full rows of pieces, [rows, length]; the last piece of a row is cut."""
    lengths = (
        torch.empty(rows, length).exponential_(1 / (MEAN_PIECE - SHORTEST_PIECE)).long() + SHORTEST_PIECE
    )
    column = torch.arange(length).expand(rows, length).contiguous()
    return torch.searchsorted(lengths.cumsum(-1), column, right=True) + 1


def case(length: int, layers: int, device: torch.device) -> Case:
    """An encoder like the discriminator of ELECTRA "small", without dropout, for rows of this length."""
    config = electra_config("small", vocab_size=WORDS, mask_token_id=103).discriminator
    config = replace(config, num_hidden_layers=layers, max_position_embeddings=length, dropout=0.0)
    encoder = Encoder(config).to(device)
    rows = TOKENS // length
    ids = torch.randint(1000, WORDS, (rows, length), device=device)
    segments = segments_of(rows, length).to(device)
    pieces = segments.amax(-1)
    mask, most = torch.ones_like(ids), int(pieces.max())

    def step(max_pieces: int | None = None, recompute: bool = False, **inputs: Tensor) -> Run:
        def run() -> None:
            encoder.max_pieces, encoder.checkpoint_layers = max_pieces, recompute
            half = device.type == "cuda"
            with torch.autocast("cuda", torch.bfloat16) if half else contextlib.nullcontext():
                hidden = encoder(ids, **inputs)
            hidden.backward(torch.ones_like(hidden))
            encoder.zero_grad()

        return run

    variants = {
        "plain": step(),
        "padding mask": step(attention_mask=mask),
        "packed": step(segments=segments),
        "packed, max_pieces": step(most, segments=segments),
        "layers recomputed": step(recompute=True),
    }
    sizes = {"B": rows, "T": length, "pieces": int(pieces.sum())}
    return Case("attention", sizes, variants, bytes_read=ids.nbytes)


def line(case: Case, measured: Sequence[Measurement]) -> str:
    plain, *others = measured
    ratios = [f"{1 / one.speedup:.2f}" for one in others]
    pieces = case.sizes["pieces"] / case.sizes["B"]
    return (
        "| "
        + " | ".join([str(case.sizes["T"]), f"{pieces:.1f}", f"{plain.median * 1e3:.0f}", *ratios])
        + " |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.attention", description=__doc__)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    timer = StreamTimer(device) if device.type == "cuda" else ProcessorTimer()
    torch.manual_seed(0)
    for number, length in enumerate(LENGTHS):
        one = case(length, arguments.layers, device)
        if number == 0:
            columns = ["T", "pieces a row", "plain, ms", *list(one.variants)[1:]]
            print("| " + " | ".join(columns) + " |\n" + "|---" * len(columns) + "|")
        print(line(one, measure(one, budget=0, rounds=arguments.rounds, timer=timer)), flush=True)


if __name__ == "__main__":
    main()
