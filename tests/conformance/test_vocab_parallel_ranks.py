"""The vocabulary-parallel losses on 1, 2 and 3 ranks, against the whole vocabulary in one process and float64."""

import math
import os
import subprocess
import sys
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch
import torch.nn.functional as F

from electra_kernels import backends
from electra_kernels.triton.launch import is_interpreted

from . import oracle
from .oracle import IGNORED
from .vocab_ranks import BLOCK, CASES, bounds, make, run

SCRIPT = Path(__file__).with_name("vocab_ranks.py")
_ON_CPU = [name for name, devices in backends().available.items() if "cpu" in devices]
# Triton's interpreter and the fibers (tests/cuda_on_cpu, a plugin) have test runs of their own.
BACKENDS = [name for name in _ON_CPU if name in ("triton", "cuda")] or _ON_CPU
RANKS = (1, 2, 3) if BACKENDS == _ON_CPU else (3,)
PLUGINS = [name for name in ("fiber_backend",) if name in sys.modules]


@cache
def results(ranks):
    """What each rank has saved."""
    with TemporaryDirectory() as folder:
        arguments = [ranks, folder, ",".join(BACKENDS), *PLUGINS]
        commands = [[sys.executable, SCRIPT, rank, *arguments] for rank in range(ranks)]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
        started = [subprocess.Popen([*map(str, command)], env=environment) for command in commands]
        try:
            assert [process.wait(timeout=300) for process in started] == [0] * ranks
        finally:
            for process in started:  # those that wait for a rank that has failed
                process.kill()
        return [torch.load(Path(folder) / f"{rank}.pt") for rank in range(ranks)]


def _eager(case, operands, targets, dtype):
    """The same by torch's own functions in ``dtype``."""

    def call(*leaves):
        x = F.linear(*leaves) if case.linear else leaves[0]
        counted = targets != IGNORED
        logsumexp = x.logsumexp(-1).where(counted, 0)
        losses = oracle.cross_entropy(x, targets) + case.options.get("z_loss", 0) * logsumexp.square()
        reduction, normalizer = case.options.get("reduction", "mean"), case.options.get("normalizer")
        loss = oracle.reduce(losses, counted.to(dtype), "sum" if normalizer else reduction)
        return Results(loss if normalizer is None else loss / normalizer, logsumexp)

    return run(case, [None if value is None else value.to(dtype) for value in operands], call)


class Results:
    """Stands for a SampledLoss, of which only loss and logsumexp have a truth in float64."""

    def __init__(self, loss, logsumexp):
        self.loss, self.logsumexp = loss, logsumexp

    def _asdict(self):
        return {"loss": self.loss, "logsumexp": self.logsumexp}


def _joined(case, ranks):
    """The gradients of the whole operands from those of the ranks: hidden's is the same on all."""
    sharded = range(1, 3) if case.linear else range(1)
    grads = list(ranks[0]["grads"])
    for index in sharded:
        if grads[index] is not None:
            grads[index] = torch.cat([rank["grads"][index] for rank in ranks], 0 if case.linear else -1)
    return grads


def _assert_same_on_every_rank(case, ranks):
    for rank in ranks[1:]:
        for field in ("loss", "tokens", "is_top1", "logsumexp"):
            torch.testing.assert_close(rank[field], ranks[0][field], rtol=0, atol=0, equal_nan=True)
        if case.linear and rank["grads"][0] is not None:
            torch.testing.assert_close(rank["grads"][0], ranks[0]["grads"][0], rtol=0, atol=0, equal_nan=True)


def _assert_as_the_whole(ours, grads, whole):
    """Same tokens, and what is no number is in the same places."""
    assert torch.equal(ours["tokens"], whole["tokens"])
    assert torch.equal(ours["is_top1"], whole["is_top1"])
    for one, other in zip(
        [ours["loss"], ours["logsumexp"], *grads], [whole["loss"], whole["logsumexp"], *whole["grads"]]
    ):
        assert (one is None) == (other is None)
        if one is not None:
            assert (one.shape, one.dtype) == (other.shape, other.dtype)
            torch.testing.assert_close(one.isfinite(), other.isfinite())
            torch.testing.assert_close(one.isnan(), other.isnan())


def _assert_accurate(case, ours, grads):
    operands, targets, _ = make(case)
    truth, eager = (_eager(case, operands, targets, dtype) for dtype in (torch.float64, case.dtype))
    rows, precision = max(1, case.rows), torch.bfloat16 if case.autocast else case.dtype
    for name in ("loss", "logsumexp"):
        scale = (1 + truth[name].abs()).amax() if truth[name].numel() else torch.ones(())
        floor = precision if case.linear else torch.float32
        oracle.assert_accurate(name, ours[name], truth[name], eager[name], scale=scale, precision=floor)
    for index, gradient in enumerate(grads):
        if gradient is None or gradient.numel() == 0:
            continue
        # Chunks of logits and their gradient are held in the dtype of hidden, and each rank's part is rounded.
        scale = truth["grads"][index].abs().amax() * (rows if index else 8)
        values = (gradient, truth["grads"][index], eager["grads"][index])
        oracle.assert_accurate(f"gradient {index}", *values, scale=scale, precision=precision)


@pytest.mark.parametrize("ranks", RANKS)
@pytest.mark.parametrize("backend", BACKENDS, ids=lambda name: f"{name}-cpu")
def test_ranks_have_loss_sample_and_gradient_of_the_whole_vocabulary(backend, ranks):
    found = [rank[backend] for rank in results(ranks)]
    for name, case in CASES.items():
        parts, whole = [rank[name] for rank in found], found[0]["whole"][name]
        grads = _joined(case, parts)
        try:
            _assert_same_on_every_rank(case, parts)
            _assert_as_the_whole(parts[0], grads, whole)
            if not (case.bad or case.ignored or case.rows == 0):
                _assert_accurate(case, parts[0], grads)
        except AssertionError as error:
            raise AssertionError(f"{name}: {error}") from error


@pytest.mark.skipif(
    is_interpreted(),
    reason="20,000 rows take minutes in Triton's interpreter; the other tests compare its tokens",
)
@pytest.mark.parametrize("ranks", RANKS[1:] or RANKS)
@pytest.mark.parametrize("backend", BACKENDS, ids=lambda name: f"{name}-cpu")
def test_tokens_are_drawn_as_often_as_the_soft_max_says(backend, ranks):
    observed, expected = results(ranks)[0][backend]["draws"]
    assert oracle.chi_square(observed, expected) > 1e-3


@pytest.mark.parametrize("ranks", RANKS)
def test_collectives_and_their_bytes(ranks):
    """ceil(N / block) + 1 in a forward, with 16 bytes per row and rank, and 8 per row; one in a backward."""
    width = CASES["linear-sum"].width
    for result in results(ranks):
        for rows, seen in result["traffic"].items():
            blocks = math.ceil(rows / BLOCK)
            gathers = {"_allgather_base_": blocks} if blocks else {}
            assert seen["f"][0] == {**gathers, "allreduce_": 1}
            assert sum(seen["f"][1].values()) == rows * (16 * ranks + 8) + blocks * 16 * ranks
            assert seen["b"] == ({"allreduce_": 1}, {"allreduce_": rows * width * 4})


@pytest.mark.parametrize("ranks", RANKS[1:] or RANKS)
def test_what_does_not_fit_together_is_refused_on_every_rank(ranks):
    start, last = bounds(10, ranks)[-2], ranks - 1
    differ = "ValueError: targets, uniforms, normalizer or options of rank {} differ from those of rank 0"
    expected = {
        "offset": f"ValueError: first_token is {start + 1} on rank {last}, should be {start}: ranks before it have "
        f"{start} tokens",
        "target": "ValueError: targets[1] is 10, should be in [0, 10) or ignore_index (-100)",
        "uniform": "ValueError: uniforms[0] is 1.0, should be in [0, 1)",
        "no uniforms": "ValueError: uniforms is None, should be the same tensor on every rank: with numbers of its "
        "own, each would draw another token",
        "other uniforms": differ.format(last),
        "other targets": differ.format(1),
        "normalizer": "ValueError: normalizer is 0.0, should be a positive, finite number",
        "other normalizer": differ.format(1),
        "other options": differ.format(last),
        "negative": "ValueError: first_token is -1, should be in [0, 2**31)",
        "type": "TypeError: first_token is float, should be an int",
    }
    for rank, result in enumerate(results(ranks)):
        refused = result["refusals"]
        beginning = {name: refused[name][: len(message)] for name, message in expected.items()}
        assert beginning == expected
        assert rank == 0 or "group does not have this rank" in refused["group"]


@pytest.mark.parametrize("ranks", [ranks for ranks in RANKS if ranks > 1])
@pytest.mark.parametrize("placement", ["plain", "replicated", "sharded"])
def test_a_dtensor_as_weight(ranks, placement):
    for result in results(ranks):
        ours, whole = result["dtensors"][placement], result["dtensors"]["whole"]
        assert torch.equal(ours["tokens"], whole["tokens"])
        for name in ("loss", "logsumexp"):
            torch.testing.assert_close(ours[name], whole[name])
        torch.testing.assert_close(ours["grads"], whole["grads"])


@pytest.mark.parametrize("ranks", [ranks for ranks in RANKS if ranks > 1])
def test_other_dtensors_are_refused_in_one_line(ranks):
    for result in results(ranks):
        refused = result["dtensors"]
        assert refused["columns"].startswith("ValueError: weight has placements (Shard(dim=1),) on ")
        assert refused["columns"].endswith("should have (Shard(dim=0),) on one mesh of one dimension")
        assert refused["bias"] == "TypeError: bias is a plain tensor, should be a DTensor as weight"
        assert "should have (Replicate(),) or (Shard(dim=0),)" in refused["hidden"]
        assert refused["few"] == f"ValueError: weight has 1 rows, too few to give each of {ranks} ranks some"
        assert "logits is a DTensor, should be a plain tensor" in refused["logits"]
        assert "hidden is a DTensor, should be a plain tensor" in refused["plain weight"]
        assert not any("\n" in message for message in refused.values() if isinstance(message, str))
