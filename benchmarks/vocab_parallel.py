"""``python -m benchmarks.vocab_parallel``: loss and sample with a vocabulary spread over gloo ranks of this machine.

It times `vocab_parallel_linear_cross_entropy_sample`, forward and backward, beside the version that gathers the logits
of all ranks and calls `cross_entropy_sample` on them, in alternating rounds of one run. It prints the ratio, the peak
extra memory of a rank, and the bytes that a rank receives per row. With ``--equality`` it compares tokens, loss and
gradients with one process and with float64 instead, for 1, 2 and 3 ranks on each back end; under TRITON_INTERPRET=1
that is Triton.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from tempfile import TemporaryDirectory

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

import electra_kernels as ek
from benchmarks.memory import can_measure, peak_extra_bytes

VOCABULARY, WIDTH, ROWS, ROUNDS = 30_522, 128, 1024, 5
TEMPERATURE, Z_LOSS = 0.8, 1e-4


class _GatherLogits(torch.autograd.Function):
    """Logits [N, V / R] of each rank → [N, V] on every rank; the gradient is this rank's columns."""

    @staticmethod
    def forward(ctx: object, logits: Tensor) -> Tensor:
        parts = [torch.empty_like(logits) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, logits.contiguous())
        return torch.cat(parts, -1)

    @staticmethod
    def backward(ctx: object, grad: Tensor) -> Tensor:
        return grad.chunk(dist.get_world_size(), -1)[dist.get_rank()]


class _SumGradient(torch.autograd.Function):
    """Hidden states as they are; their gradient is the sum over the ranks."""

    @staticmethod
    def forward(ctx: object, hidden: Tensor) -> Tensor:
        return hidden.view_as(hidden)

    @staticmethod
    def backward(ctx: object, grad: Tensor) -> Tensor:
        grad = grad.clone()
        dist.all_reduce(grad)
        return grad


def _inputs(rows: int, vocabulary: int, width: int) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    hidden, weight = torch.randn(rows, width), torch.randn(vocabulary, width) / width**0.5
    return (
        hidden,
        weight,
        torch.randn(vocabulary),
        torch.randint(0, vocabulary, (rows,)),
        ek.draw_uniforms((rows,)),
    )


def _slice(rank: int, ranks: int, vocabulary: int) -> slice:
    """Equal slices but for the last: the gathered logits need equal ones."""
    share = -(-vocabulary // ranks)
    return slice(rank * share, min((rank + 1) * share, vocabulary))


def _steps(rows: int) -> dict[str, Callable[[], Tensor]]:
    rank, ranks = dist.get_rank(), dist.get_world_size()
    hidden, weight, bias, targets, uniforms = _inputs(rows, VOCABULARY, WIDTH)
    mine = _slice(rank, ranks, VOCABULARY)
    own, own_weight, own_bias = leaves = [
        value.clone().requires_grad_() for value in (hidden, weight[mine], bias[mine])
    ]

    def ours() -> Tensor:
        out = ek.vocab_parallel_linear_cross_entropy_sample(
            *(own, own_weight, own_bias, targets),
            group=None,
            first_token=mine.start,
            uniforms=uniforms,
            temperature=TEMPERATURE,
            z_loss=Z_LOSS,
        )
        torch.autograd.grad(out.loss, leaves)
        return out.tokens

    def gathered() -> Tensor:
        logits = _GatherLogits.apply(F.linear(_SumGradient.apply(leaves[0]), *leaves[1:]))
        out = ek.cross_entropy_sample(
            logits, targets, uniforms=uniforms, inplace_backward=True, temperature=TEMPERATURE, z_loss=Z_LOSS
        )
        torch.autograd.grad(out.loss, leaves)
        return out.tokens

    return {"vocabulary-parallel": ours, "gather logits": gathered}


def compare(rows: int) -> None:
    """Times both versions in turns; rank 0 prints."""
    steps = _steps(rows)
    tokens = [step() for step in steps.values()]
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(ROUNDS):
        for name, step in steps.items():
            dist.barrier()
            start = time.perf_counter()
            step()
            dist.barrier()
            seconds[name].append(time.perf_counter() - start)
    peaks = {name: peak_extra_bytes(step, torch.device("cpu")) for name, step in steps.items()}
    if dist.get_rank() > 0:
        return
    ranks, row = dist.get_world_size(), VOCABULARY * 4
    received = {"vocabulary-parallel": 16 * ranks + 8, "gather logits": row * (ranks - 1) // ranks}
    print(
        f"{ranks} ranks, N = {rows}, V = {VOCABULARY}, E = {WIDTH}, float32, {torch.get_num_threads()} thread each"
    )
    for name in steps:
        megabytes = f"{(peaks[name] or 0) / 1e6:8.1f}" if can_measure() else "       –"
        print(
            f"{name:20} {statistics.median(seconds[name]) * 1e3:8.1f} ms {megabytes} MB  {received[name]:7} bytes a row"
        )
    ratios = [b / a for a, b in zip(*seconds.values())]
    differ = int((tokens[0] != tokens[1]).sum())
    print(f"gathering takes {statistics.median(ratios):.2f} times as long; {differ} of {rows} tokens differ")


def equality(rows: int) -> None:
    """A row of the table for each back end: ours against one process, and both against float64."""
    rank, ranks = dist.get_rank(), dist.get_world_size()
    hidden, weight, bias, targets, uniforms = _inputs(rows, VOCABULARY, WIDTH)
    mine = _slice(rank, ranks, VOCABULARY)
    truth = [value.double().requires_grad_() for value in (hidden, weight, bias)]
    x = F.linear(*truth)
    loss = F.cross_entropy(x, targets) + Z_LOSS * x.logsumexp(-1).square().mean()
    expected = torch.autograd.grad(loss, truth)
    available = [name for name, devices in ek.backends().available.items() if "cpu" in devices]
    for name in [one for one in available if one == "triton"] or available:
        with ek.use_backend(name):
            h, w, b = (value.clone().requires_grad_() for value in (hidden, weight[mine], bias[mine]))
            ours = ek.vocab_parallel_linear_cross_entropy_sample(
                *(h, w, b, targets),
                group=None,
                first_token=mine.start,
                uniforms=uniforms,
                temperature=TEMPERATURE,
                z_loss=Z_LOSS,
            )
            own = torch.autograd.grad(ours.loss, (h, w, b))
            h, w, b = (value.clone().requires_grad_() for value in (hidden, weight, bias))
            alone = ek.linear_cross_entropy_sample(
                h, w, b, targets, uniforms=uniforms, temperature=TEMPERATURE, z_loss=Z_LOSS
            )
            whole = torch.autograd.grad(alone.loss, (h, w, b))
        parts = (slice(None), mine, mine)
        errors = torch.tensor(
            [
                [_relative(one, true[part]), _relative(other[part], true[part])]
                for one, other, true, part in zip(own, whole, expected, parts)
            ]
        )
        dist.all_reduce(errors, dist.ReduceOp.MAX)
        if rank == 0:
            differ = int((ours.tokens != alone.tokens).sum())
            columns = [
                f"{float((one.loss.detach() - loss.detach()).abs() / loss.detach()):.1e}"
                for one in (ours, alone)
            ]
            columns += [f"{a:.1e} ({b:.1e})" for a, b in errors.tolist()]
            print(
                f"| {ranks} | {name} | {differ} of {rows} | {columns[0]} ({columns[1]}) | {' | '.join(columns[2:])} |"
            )


def _relative(value: Tensor, truth: Tensor) -> float:
    """Largest error relative to the largest element."""
    return float((value.double() - truth).abs().max() / truth.abs().max())


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--rows", type=int)
    parser.add_argument("--equality", action="store_true")
    options = parser.parse_args()
    if "RANK" in os.environ:
        torch.set_num_threads(1)
        rank, ranks = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        dist.init_process_group(
            "gloo", init_method=f"file://{os.environ['STORE']}", rank=rank, world_size=ranks
        )
        equality(options.rows or 64) if options.equality else compare(options.rows or ROWS)
        dist.destroy_process_group()
        return
    if options.equality:
        print(
            "| ranks | back end | tokens that differ | loss | hidden | weight | bias |\n|--|--|--|--|--|--|--|",
            flush=True,
        )
    for ranks in (1, 2, 3) if options.equality else (options.ranks,):
        with TemporaryDirectory() as folder:
            base = os.environ | {"WORLD_SIZE": str(ranks), "STORE": f"{folder}/store", "OMP_NUM_THREADS": "1"}
            command = [sys.executable, "-m", "benchmarks.vocab_parallel", *sys.argv[1:]]
            started = [subprocess.Popen(command, env=base | {"RANK": str(rank)}) for rank in range(ranks)]
            statuses = [process.wait() for process in started]
            if any(statuses):
                sys.exit("a rank has failed")


if __name__ == "__main__":
    main()
