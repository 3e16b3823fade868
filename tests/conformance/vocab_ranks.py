"""The vocabulary-parallel losses on one rank of several over gloo.

`test_vocab_parallel_ranks` starts this file: ``vocab_ranks.py RANK RANKS FOLDER BACKEND,... [PLUGIN]``. The rank runs
every case on these back ends with its own slice of the vocabulary, and saves what it got to FOLDER/RANK.pt.
"""

import importlib
import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor
from torch.utils._python_dispatch import TorchDispatchMode

import electra_kernels as ek
from electra_kernels.backends import vocab_parallel
from electra_kernels.triton.launch import is_interpreted

# Triton's interpreter takes 10 ms for a row.
ROWS = 12 if is_interpreted() else 50
BLOCK = ROWS // 3  # rows of a block, so that there are several
IGNORED = -100


@dataclass(frozen=True)
class Case:
    """A call of one of the two functions with these inputs, and its options.

    Attributes:
        linear: whether from hidden states.
        bad: puts NaN, infinities and rows without a finite logit into the logits, by the bias or directly.
        frozen: the operands that need no gradient.
        autocast: whether the call is under autocast to bfloat16.
    """

    linear: bool
    options: dict[str, Any] = field(default_factory=dict)
    dtype: torch.dtype = torch.float32
    vocabulary: int = 37
    rows: int = ROWS
    width: int = 6
    bias: bool = True
    bad: bool = False
    ignored: bool = False
    frozen: tuple[int, ...] = ()
    autocast: bool = False


EVERYTHING = {"z_loss": 0.02, "temperature": 0.6, "ban_original": True}
CASES = {
    **{
        f"{'linear' if linear else 'logits'}-{name}": Case(linear, **settings)
        for linear in (False, True)
        for name, settings in {
            "plain": {},
            "cold": {"options": {"temperature": 0.3}},
            "hot": {"options": {"temperature": 3.0}},
            "banned": {"options": {"ban_original": True}},
            "z_loss": {"options": {"z_loss": 0.02}},
            "sum": {"options": {"reduction": "sum", **EVERYTHING}},
            "none": {"options": {"reduction": "none", **EVERYTHING}},
            "normalizer": {"options": {"normalizer": 7.5}},
            "bfloat16": {"dtype": torch.bfloat16, "options": EVERYTHING},
            "float16": {"dtype": torch.float16, "options": {"reduction": "none", **EVERYTHING}},
            "float64": {"dtype": torch.float64, "options": EVERYTHING},
            "large": {"vocabulary": 30_522, "rows": 12, "options": EVERYTHING},
            "tiles": {"vocabulary": 1500, "rows": 20, "dtype": torch.bfloat16},
            "bad": {"bad": True, "options": {"reduction": "none"}},
            "bad-banned": {"bad": True, "options": {"reduction": "none", "ban_original": True}},
            "ignored": {"ignored": True},
            "one-row": {"rows": 1},
            "no-rows": {"rows": 0},
        }.items()
    },
    "linear-autocast": Case(True, EVERYTHING, autocast=True),
    "linear-no-bias": Case(True, bias=False),
    "linear-no-bias-none": Case(True, {"reduction": "none"}, bias=False),
    "linear-frozen-hidden": Case(True, frozen=(0,)),
    "linear-frozen-weight": Case(True, {"reduction": "none"}, frozen=(1,)),
    "linear-frozen-all": Case(True, frozen=(0, 1, 2)),
}

if is_interpreted():
    chosen = (
        "linear-sum",
        "linear-bfloat16",
        "linear-bad-banned",
        "linear-one-row",
        "logits-none",
        "logits-bad-banned",
    )
    CASES = {name: CASES[name] for name in chosen}


def bounds(vocabulary: int, ranks: int) -> list[int]:
    """Ends of slices of unequal sizes: the later ranks have more."""
    steps = ranks * (ranks + 1) // 2
    return [vocabulary * r * (r + 1) // 2 // steps for r in range(ranks + 1)]


def make(case: Case) -> tuple[list[Tensor | None], Tensor, Tensor]:
    """Operands (hidden, weight and bias; or logits), targets and uniforms of the whole vocabulary."""
    torch.manual_seed(0)
    hidden = torch.randn(case.rows, case.width)
    weight = torch.randn(case.vocabulary, case.width) / case.width**0.5
    bias = torch.randn(case.vocabulary)
    targets = torch.randint(0, case.vocabulary, (case.rows,))
    targets[1::4] = IGNORED
    if case.ignored:
        targets.fill_(IGNORED)
    uniforms = ek.draw_uniforms((case.rows,))
    if case.linear:
        if case.bad:  # hidden is bad in some rows; and the bias bans a token that is a target
            hidden[0, 0], hidden[3, 1], hidden[1, 2] = torch.nan, torch.inf, torch.nan
            bias[targets[2]] = -torch.inf
        operands = [hidden, weight, bias if case.bias else None]
    else:
        logits = hidden @ weight.T + bias
        if case.bad:
            last = case.vocabulary - 1
            logits[0, 2], logits[2, last], logits[3] = torch.nan, torch.inf, -torch.inf
            logits[4, targets[4]], logits[6, targets[6]] = -torch.inf, torch.nan
            logits[7, targets[7]], logits[8, : last - 3] = torch.inf, -torch.inf
            logits[1] = torch.nan  # ignored
            logits[10] = -torch.inf
            logits[10, targets[10]] = 3.0  # nothing is left to draw if the target is banned
        operands = [logits]
    operands = [None if value is None else value.to(case.dtype) for value in operands]
    return operands, targets, uniforms


def upstream(loss: Tensor) -> Tensor:
    return torch.linspace(-1, 2, loss.numel(), dtype=loss.dtype).reshape(loss.shape)


def run(case: Case, operands: list[Tensor | None], call: Any) -> dict[str, Any]:
    """Outputs and gradients of ``call(*leaves)``."""
    leaves = [
        None if value is None else value.detach().clone().requires_grad_(index not in case.frozen)
        for index, value in enumerate(operands)
    ]
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=case.autocast):
        out = call(*leaves)
    if out.loss.requires_grad:
        total = (out.loss * upstream(out.loss)).sum() if out.loss.dim() else out.loss * 1.5
        if not case.linear:
            total = total + (out.logsumexp * 0.1).nan_to_num().sum()
        total.backward()
    grads = [None if leaf is None else leaf.grad for leaf in leaves]
    return {**{name: value.detach() for name, value in out._asdict().items()}, "grads": grads}


def sharded(case: Case, rank: int, ranks: int) -> dict[str, Any]:
    operands, targets, uniforms = make(case)
    first, last = bounds(case.vocabulary, ranks)[rank : rank + 2]
    options = {"group": None, "first_token": first, "uniforms": uniforms, **case.options}
    if not case.linear:
        return run(
            case,
            [operands[0][:, first:last]],
            lambda logits: ek.vocab_parallel_cross_entropy_sample(logits, targets, **options),
        )
    hidden, weight, bias = operands
    parts = [hidden, weight[first:last], None if bias is None else bias[first:last]]
    return run(
        case,
        parts,
        lambda *leaves: ek.vocab_parallel_linear_cross_entropy_sample(*leaves, targets, **options),
    )


def whole(case: Case) -> dict[str, Any]:
    """The same without ranks."""
    operands, targets, uniforms = make(case)
    function = ek.linear_cross_entropy_sample if case.linear else ek.cross_entropy_sample
    return run(case, operands, lambda *leaves: function(*leaves, targets, uniforms=uniforms, **case.options))


class Traffic(TorchDispatchMode):
    """Counts the collectives, and the bytes that a rank receives in each kind."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()
        self.received: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == "c10d":
            name = func.name().removeprefix("c10d::")
            output = args[0][0] if isinstance(args[0], (list, tuple)) else args[0]
            self.calls[name] += 1
            self.received[name] += output.nbytes
        return func(*args, **(kwargs or {}))


def traffic(rows: int) -> dict[str, Any]:
    """Collectives and bytes of a linear forward, and of its backward."""
    case = Case(True, rows=rows)
    operands, targets, uniforms = make(case)
    first, last = bounds(case.vocabulary, dist.get_world_size())[dist.get_rank() :][:2]
    hidden, weight, bias = operands
    leaves = [hidden.requires_grad_(), weight[first:last].requires_grad_(), bias[first:last].requires_grad_()]
    with Traffic() as forward:
        out = ek.vocab_parallel_linear_cross_entropy_sample(
            *leaves, targets, group=None, first_token=first, uniforms=uniforms
        )
    with Traffic() as backward:
        out.loss.backward()
    return {name: (dict(t.calls), dict(t.received)) for name, t in (("f", forward), ("b", backward))}


def draws(count: int) -> Tensor:
    """How often each token of one row is drawn, in ``count`` rows."""
    torch.manual_seed(1)
    row = torch.randn(37)
    first, last = bounds(37, dist.get_world_size())[dist.get_rank() :][:2]
    out = ek.vocab_parallel_cross_entropy_sample(
        row[first:last].expand(count, -1),
        torch.zeros(count, dtype=torch.int64),
        group=None,
        first_token=first,
        temperature=1.3,
        uniforms=ek.draw_uniforms((count,)),
    )
    return torch.stack([torch.bincount(out.tokens, minlength=37), (row / 1.3).softmax(0) * count])


def refusals() -> dict[str, str]:
    """The messages of calls that must fail on every rank."""
    rank, ranks = dist.get_rank(), dist.get_world_size()
    targets, uniforms = torch.tensor([3, 8, IGNORED, 1]), torch.full((4,), 0.5, dtype=torch.float64)
    starts = bounds(10, ranks)
    logits = torch.randn(4, starts[rank + 1] - starts[rank])
    good: dict[str, Any] = {"targets": targets, "first_token": starts[rank], "uniforms": uniforms}
    changes: dict[str, dict[str, Any]] = {
        "offset": {"first_token": starts[rank] + (rank == ranks - 1)},
        "target": {"targets": targets + 2},
        "uniform": {"uniforms": uniforms + 0.5},
        "no uniforms": {"uniforms": None},
        "other uniforms": {"uniforms": uniforms - 0.1 * (rank == ranks - 1)},
        "other targets": {"targets": targets.where(targets != 3, 3 - rank)},
        "normalizer": {"normalizer": torch.tensor(0.0)},
        "other normalizer": {"normalizer": torch.tensor(1 + rank)},
        "other options": {"z_loss": 0.1 * (rank == ranks - 1)},
        "negative": {"first_token": -1},
        "type": {"first_token": 1.0},
        "group": {"group": dist.new_group([0])},
    }
    messages = {}
    for name, change in changes.items():
        try:
            ek.vocab_parallel_cross_entropy_sample(logits, **{"group": None, **good, **change})
        except (ValueError, TypeError) as error:
            messages[name] = f"{type(error).__name__}: {error}"
    return messages


def cases(backend: str, rank: int, ranks: int) -> dict[str, Any]:
    with ek.use_backend(backend):
        found: dict[str, Any] = {name: sharded(case, rank, ranks) for name, case in CASES.items()}
        if not is_interpreted():
            found["draws"] = draws(20_000)
        if rank == 0:
            found["whole"] = {name: whole(case) for name, case in CASES.items()}
    return found


def dtensors() -> dict[str, Any]:
    """`linear_cross_entropy_sample` with a sharded weight, for each placement of hidden; and what is refused."""
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    case = Case(True, {"reduction": "sum", **EVERYTHING}, rows=13)
    (hidden, weight, bias), targets, uniforms = make(case)

    def call(placed: Any, w: Any = None, b: Any = None) -> Any:
        w, b = distribute_tensor(weight, mesh, [Shard(0)]) if w is None else w, b
        b = distribute_tensor(bias, mesh, [Shard(0)]) if b is None else b
        leaves = [value.detach().requires_grad_() for value in (placed, w, b)]
        out = ek.linear_cross_entropy_sample(*leaves, targets, uniforms=uniforms, **case.options)
        (out.loss * 1.5).backward()
        grads = [leaf.grad.full_tensor() if isinstance(leaf, DTensor) else leaf.grad for leaf in leaves]
        return {**{name: value.detach() for name, value in out._asdict().items()}, "grads": grads}

    replicated, scattered = (
        distribute_tensor(hidden, mesh, [placement]) for placement in (Replicate(), Shard(0))
    )
    found: dict[str, Any] = {
        "plain": call(hidden),
        "replicated": call(replicated),
        "sharded": call(scattered),
    }
    found["whole"] = run(
        case,
        [hidden, weight, bias],
        lambda *leaves: ek.linear_cross_entropy_sample(*leaves, targets, uniforms=uniforms, **case.options),
    )
    columns = distribute_tensor(weight, mesh, [Shard(1)])
    refused = {
        "columns": lambda: call(hidden, w=columns),
        "bias": lambda: call(hidden, b=bias),
        "hidden": lambda: call(distribute_tensor(hidden, mesh, [Shard(1)])),
        "few": lambda: call(hidden, w=distribute_tensor(weight[:1], mesh, [Shard(0)])),
        "logits": lambda: ek.cross_entropy_sample(replicated, targets),
        "plain weight": lambda: ek.linear_cross_entropy_sample(replicated, weight, bias, targets),
    }
    for name, function in refused.items():
        try:
            function()
        except (TypeError, ValueError) as error:
            found[name] = f"{type(error).__name__}: {error}"
    return found


def main() -> None:
    rank, ranks, folder, backends, *plugins = sys.argv[1:]
    for name in plugins:
        importlib.import_module(name)
    torch.set_num_threads(1)
    place = {"rank": int(rank), "world_size": int(ranks)}
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", **place)
    vocab_parallel.BLOCK_ROWS["cpu"] = BLOCK
    found: dict[str, Any] = {name: cases(name, int(rank), int(ranks)) for name in backends.split(",")}
    found["traffic"] = {count: traffic(count) for count in (0, 1, BLOCK, BLOCK + 1, 5 * BLOCK)}
    found["refusals"], found["dtensors"] = refusals(), dtensors()
    torch.save(found, Path(folder) / f"{rank}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
