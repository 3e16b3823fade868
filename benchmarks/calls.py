"""``python -m benchmarks.calls``: the overhead of calling an op, in microseconds and Python calls, on tiny inputs.

Each op runs on each back end, forward alone and forward with backward ("f+b"); beside a loss stands eager torch's loss
of the same kind. Times are the minimum of interleaved rounds on one thread. For the default back end, "Python calls" is
the number of Python functions that one call enters, and "package frames" the largest number of the package's functions
on the stack at once. The module uses public names only, so a copy of it also runs in an older checkout.
"""

import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

import torch
from torch import Tensor
from torch.nn import functional as F

import electra_kernels as ek

ROUNDS, CALLS = 15, 100
_B, _T, _K, _V, _E = 2, 8, 2, 16, 4

Call = Callable[[], object]


def _calls() -> Iterator[tuple[str, Call, Call | None]]:
    """Name, a call of the op, and a call of eager torch's loss if there is one."""
    ids, positions = torch.arange(_B * _T).reshape(_B, _T), torch.arange(_K).expand(_B, _K).contiguous()
    targets, uniforms = ids[:, :_K].contiguous() % _V, ek.draw_uniforms((_B, _K))
    pairs = ek.draw_uniforms((_B, _K, 2))
    logits, hidden = torch.randn(_B, _K, _V), torch.randn(_B, _K, _E)

    def mask() -> object:
        return ek.mask_tokens(
            ids, ids > 2, mask_token_id=3, vocab_size=_V, max_predictions=_K, uniforms=pairs
        )

    yield "mask_tokens", mask, None
    yield "replace_tokens", lambda: ek.replace_tokens(ids, positions, targets), None
    yield "sample_tokens", lambda: ek.sample_tokens(logits, uniforms=uniforms), None
    sampled = (logits, ids, positions, targets)
    yield "sample_replacements", lambda: ek.sample_replacements(*sampled, uniforms=uniforms), None
    for grad in (False, True):
        yield from _losses(logits, hidden, targets, uniforms, grad)


def _losses(
    logits: Tensor, hidden: Tensor, targets: Tensor, uniforms: Tensor, grad: bool
) -> Iterator[tuple[str, Call, Call | None]]:
    suffix = " f+b" if grad else ""
    x, h = logits.clone().requires_grad_(grad), hidden.clone().requires_grad_(grad)
    weight, bias = torch.randn(_V, _E, requires_grad=grad), torch.zeros(_V, requires_grad=grad)
    w, b = torch.randn(_E, requires_grad=grad), torch.zeros(1, requires_grad=grad)
    scores, labels = torch.randn(_B, _K, requires_grad=grad), (targets > 8).float()

    def step(loss: Callable[[], Tensor]) -> Call:
        return (lambda: loss().backward()) if grad else loss

    yield (
        f"cross_entropy_sample{suffix}",
        step(lambda: ek.cross_entropy_sample(x, targets, uniforms=uniforms).loss),
        step(lambda: F.cross_entropy(x.flatten(0, 1), targets.flatten())),
    )
    yield (
        f"linear_cross_entropy_sample{suffix}",
        step(lambda: ek.linear_cross_entropy_sample(h, weight, bias, targets, uniforms=uniforms).loss),
        step(lambda: F.cross_entropy(F.linear(h, weight, bias).flatten(0, 1), targets.flatten())),
    )
    yield (
        f"masked_bce_with_logits{suffix}",
        step(lambda: ek.masked_bce_with_logits(scores, labels)),
        step(lambda: F.binary_cross_entropy_with_logits(scores, labels)),
    )
    yield (
        f"linear_masked_bce{suffix}",
        step(lambda: ek.linear_masked_bce(h, w, b, labels).loss),
        step(lambda: F.binary_cross_entropy_with_logits(F.linear(h, w[None], b).squeeze(-1), labels)),
    )


def _python_calls(call: Call) -> tuple[int, int]:
    """Python functions that one warm call enters, and the most of the package's that are on the stack at once."""
    package = str(Path(ek.__file__).parent)
    calls = depth = deepest = 0

    def count(frame: FrameType, event: str, argument: object) -> None:
        nonlocal calls, depth, deepest
        calls += event == "call"
        if event in ("call", "return") and frame.f_code.co_filename.startswith(package):
            depth += 1 if event == "call" else -1
            deepest = max(deepest, depth)

    call()
    sys.setprofile(count)
    try:
        call()
    finally:
        sys.setprofile(None)
    return calls - 1, deepest  # without `call` itself, which is not the op


def _microseconds(call: Call) -> float:
    start = time.perf_counter()
    for _ in range(CALLS):
        call()
    return (time.perf_counter() - start) / CALLS * 1e6


def main() -> None:
    torch.set_num_threads(1)
    names = [name for name, devices in ek.backends().available.items() if "cpu" in devices]
    columns = ["µs a call", *names, "eager torch", "Python calls", "package frames"]
    print("| " + " | ".join(columns) + " |\n|" + "---|" * len(columns))
    for op, call, eager in _calls():
        rounds: dict[str, list[float]] = {name: [] for name in [*names, "eager torch"]}
        for _ in range(ROUNDS):
            for name in names:
                with ek.use_backend(name):
                    rounds[name].append(_microseconds(call))
            if eager is not None:
                rounds["eager torch"].append(_microseconds(eager))
        cells = [f"{min(times):.0f}" if times else "–" for times in rounds.values()]
        cells += map(str, _python_calls(call))
        print(f"| {op} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
