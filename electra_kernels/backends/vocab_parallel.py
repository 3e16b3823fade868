"""The masked-LM head with a vocabulary that is spread over the ranks of a process group.

Every rank has the logits x of its own tokens, for the same rows. A log-sum-exp is a sum over slices of the vocabulary,
and so is the CDF that the draw inverts. Three steps find loss and draw without any rank seeing the others' logits:

1. Each rank reduces a row to four numbers (`row_sums`), and one all-gather gives them to all ranks.
2. Each rank combines the R x 4 numbers of the row in float64. All get the same loss and the same owner of the draw.
3. The owner draws with the rest of the uniform, a fraction of its own sum. One all-reduce spreads the tokens.

A rank receives 16 R bytes per row and 8 for the token, whatever the size of the vocabulary.
"""

import zlib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from electra_kernels.backends.linear_head import Gradients, RowKernels, chunk_rows, new_logits
from electra_kernels.backends.linear_operands import Operands, operands_of
from electra_kernels.backends.value_checks import reads_values, require_rows
from electra_kernels.reference.common import accumulation_dtype
from electra_kernels.reference.vocab_parallel import combine

# torch 2.13 has renamed the function and warns of the former name. A torch without torch.distributed has neither.
_all_gather: Any = getattr(dist, "all_gather_single", getattr(dist, "all_gather_into_tensor", None))
# Rows whose logits a rank holds at once; while their numbers travel, it computes the next ones. A number of rows and
# not of bytes, because ranks with slices of different sizes must agree on the number of collectives.
BLOCK_ROWS = {"cpu": 512, "cuda": 2048}
# What a rank's kernels read instead of a target: a token of the slice, or one of these.
IGNORED, ELSEWHERE = -1, -2


class Slice(NamedTuple):
    """The tokens [first, first + size) of the vocabulary. The slices lie in the order of the ranks of ``group``."""

    group: "dist.ProcessGroup | None"
    first: int
    size: int

    def local(self, targets: Tensor, ignore_index: int) -> Tensor:
        """Targets of the whole vocabulary → targets within the slice, IGNORED or ELSEWHERE."""
        local = targets - self.first
        local = local.where((local >= 0) & (local < self.size), ELSEWHERE)
        return local.masked_fill(targets == ignore_index, IGNORED)


class Options(NamedTuple):
    """Arguments of the public functions, of the same names."""

    ignore_index: int
    reduction: str
    z_loss: float
    temperature: float
    ban_original: bool


class ParallelRows:
    """N rows of logits of which every rank of a group has a slice: their losses and draws, block by block.

    Args:
        kernels: of the back end.
        slice_: of this rank.
        like: has the dtype and the device of the logits.
        targets: [N] int64, of the whole vocabulary.
        uniforms: [N] float64, the same on every rank.
        bias: as in `Operands`.
    """

    def __init__(
        self,
        kernels: RowKernels,
        slice_: Slice,
        like: Tensor,
        targets: Tensor,
        uniforms: Tensor,
        normalizer: Tensor | None,
        bias: tuple[Tensor | None, ...],
        options: Options,
    ) -> None:
        count, dtype = len(targets), accumulation_dtype(like.dtype)
        self.kernels, self.slice, self.options = kernels, slice_, options
        self.rank, self.ranks = dist.get_rank(slice_.group), dist.get_world_size(slice_.group)
        self.targets, self.uniforms, self.bias = targets, uniforms, bias
        self.local_targets = slice_.local(targets, options.ignore_index)
        self.losses, self.logsumexp_parts = (
            like.new_empty(shape, dtype=dtype) for shape in (count, (count, 2))
        )
        self.is_top1, self.tokens = (targets.new_empty(count, dtype=t) for t in (torch.bool, torch.int64))
        self._draw = (options.temperature, options.ban_original)
        self._normalizer, self._disagree = normalizer, targets.new_zeros((), dtype=torch.bool)

    def new_sums(self, block: slice) -> Tensor:
        """Memory [n + 1, 4] for the sums of n rows, and in the last row what ranks must agree on."""
        sums = self.losses.new_zeros(block.stop - block.start + 1, 4)
        if block.start == 0:
            agreement = sums[-1].view(torch.int32)
            agreement[0], agreement[1] = self.slice.first, self.slice.size
            agreement[2:4] = self._checksum().view(torch.int32)
        return sums

    def scan(self, chunk: slice, logits: Tensor, sums: Tensor) -> None:
        """Reduce a chunk of this rank's logits [n, size] to ``sums`` [n, 4]."""
        self.kernels.sums(logits, *self.bias, self.local_targets[chunk], IGNORED, *self._draw, sums)

    def gather(self, sums: Tensor) -> tuple[Tensor, Any]:
        """Start to send the sums of a block to all ranks. Returns those of all ranks [R, n + 1, 4], and the handle."""
        gathered = sums.new_empty(self.ranks * len(sums), 4)
        work = _all_gather(gathered, sums, group=self.slice.group, async_op=True)
        return gathered.view(self.ranks, -1, 4), work

    def draw(self, block: slice, logits: Tensor, gathered: Tensor) -> None:
        """Loss and statistics of a block, and the tokens of those rows whose draw falls into this rank's slice."""
        if block.start == 0:
            agreements = gathered[:, -1].contiguous().view(torch.int32)[:, :4]
            if reads_values(gathered):
                self._check(agreements.tolist())
            else:
                self._disagree = disagree(agreements)
        counted = self.targets[block] != self.options.ignore_index
        options = (self.options.z_loss, *self._draw)
        row = combine(gathered[:, :-1], counted, self.uniforms[block], *options)
        self.losses[block], self.is_top1[block], self.logsumexp_parts[block] = row[:3]
        drawn_here = self.local_targets[block].where(row.owner == self.rank, IGNORED)
        tokens = self.tokens[block]
        unused = torch.empty_like(row.losses), torch.empty_like(row.is_top1), row.losses, row.logsumexp_parts
        results = (unused[0], tokens, *unused[1:])
        self.kernels.forward(
            logits, *self.bias, drawn_here, row.fraction, IGNORED, 0.0, *self._draw, False, *results
        )
        tokens.copy_((tokens + self.slice.first).where(tokens >= 0, -1))

    def write_gradient(self, chunk: slice, logits: Tensor) -> None:
        """Overwrite a chunk of this rank's logits by their unnormalised gradient."""
        statistics = (self.local_targets[chunk], self.logsumexp_parts[chunk])
        self.kernels.backward(logits, *self.bias, *statistics, IGNORED, self.options.z_loss)

    def finish(self) -> tuple[Tensor, Tensor]:
        """Spread the tokens, and reduce the losses. Returns the loss and its denominator []."""
        dist.all_reduce(self.tokens, dist.ReduceOp.MAX, group=self.slice.group)
        self.losses.masked_fill_(self._disagree, torch.nan)
        if self.options.reduction == "none":
            return self.losses, self.losses.new_ones((), dtype=torch.float64)
        settings = (self._normalizer, self.options.ignore_index, self.options.reduction)
        return self.kernels.loss(self.losses, self.targets, *settings)

    def _checksum(self) -> Tensor:
        """int64 [1], of what must be the same on every rank."""
        odd = 2 * torch.arange(len(self.targets), device=self.targets.device) + 1
        checksum = (self.targets * odd).sum() + (self.uniforms.view(torch.int64) * odd).sum() * 3
        if self._normalizer is not None:
            checksum = checksum + self._normalizer.view(torch.int64) * 5
        return (checksum + zlib.crc32(repr(self.options).encode()))[None]

    def _check(self, rows: list[list[int]]) -> None:
        """Raise the same ValueError on every rank unless the slices tile the vocabulary and the arguments agree.

        A row has the first token and the size of a rank's slice, and its checksum.
        """
        end = 0
        for rank, (first, size, *checksum) in enumerate(rows):
            if checksum != rows[0][2:]:
                raise ValueError(
                    f"targets, uniforms, normalizer or options of rank {rank} differ from those of rank 0, should be "
                    "the same on every rank (a DTensor weight is a slice of the vocabulary, not a shard of FSDP)"
                )
            if first != end:
                raise ValueError(
                    f"first_token is {first} on rank {rank}, should be {end}: ranks before it have {end} tokens"
                )
            end = first + size
        require_rows(self.targets, self.uniforms, self._normalizer, self.options.ignore_index, end)


def disagree(agreements: Tensor) -> Tensor:
    """Whether `ParallelRows._check` would raise for agreements [R, 4], as bool []: a GPU is not waited for."""
    first, size = agreements[:, 0], agreements[:, 1]
    has_gap = (first != size.cumsum(0) - size).any()
    return has_gap | (agreements[:, 2:] != agreements[0, 2:]).any()


def cross_entropy_sample(
    kernels: RowKernels,
    logits: Tensor,
    targets: Tensor,
    uniforms: Tensor,
    normalizer: Tensor | None,
    options: Options,
    slice_: Slice,
) -> tuple[Tensor, ...]:
    """logits [..., size] of this rank → loss, tokens, is_top1, logsumexp, and for the backward logsumexp_parts,
    denominator and the local targets.
    """
    bias = (None,) if kernels.adds_bias else ()
    flat = (targets.reshape(-1), uniforms.reshape(-1))
    rows = ParallelRows(kernels, slice_, logits, *flat, normalizer, bias, options)
    matrix, block = logits.reshape(-1, slice_.size), slice(0, targets.numel())
    # The kernels of the linear head may read behind a row: rows that do not follow one another need their padding.
    if len(matrix) == 1 or not matrix.is_contiguous():
        matrix = new_logits(matrix, len(matrix), slice_.size).copy_(matrix)
    sums = rows.new_sums(block)
    rows.scan(block, matrix, sums[:-1])
    gathered, work = rows.gather(sums)
    work.wait()
    rows.draw(block, matrix, gathered)
    return _outputs(rows, targets.shape)


def linear_cross_entropy_sample(
    kernels: RowKernels,
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    uniforms: Tensor,
    normalizer: Tensor | None,
    options: Options,
    slice_: Slice,
    needs_gradient: Sequence[bool],
) -> tuple[Tensor, ...]:
    """hidden [..., E], weight [size, E] and bias [size] of this rank → as `cross_entropy_sample`, and the unnormalised
    gradients of hidden (this rank's part of the sum) and of the `parameter_columns`, empty unless needed.

    While the sums of a block of rows travel, the logits of the next block are computed into a second buffer.
    """
    flat = (targets.reshape(-1), uniforms.reshape(-1))
    needs = [needed and options.reduction != "none" for needed in needs_gradient]
    counted = flat[0] != options.ignore_index
    operands = operands_of(hidden, weight, bias, counted, adds_bias=kernels.adds_bias)
    rows = ParallelRows(kernels, slice_, hidden, *flat, normalizer, operands.bias, options)
    gradients = Gradients(operands, needs)

    def finish(block: slice, logits: Tensor, gathered: Tensor, work: Any) -> None:
        work.wait()
        rows.draw(block, logits, gathered)
        if not any(needs):
            return
        for chunk, part in _chunks(block, logits, operands.width):
            rows.write_gradient(chunk, part)
            gradients.add(chunk, part, operands.rows[chunk])

    pending: tuple[slice, Tensor, Tensor, Any] | None = None
    for block, logits in _blocks(operands):
        sums = rows.new_sums(block)
        for chunk, part in _chunks(block, logits, operands.width):
            torch.mm(operands.rows[chunk], operands.projection.T, out=part)
            rows.scan(chunk, part, sums[chunk.start - block.start : chunk.stop - block.start])
        sent = (block, logits, *rows.gather(sums))
        if pending is not None:
            finish(*pending)
        pending = sent
    if pending is not None:
        finish(*pending)
    grad_hidden, grad_parameters = gradients.finish()
    grad_hidden = grad_hidden.reshape(hidden.shape) if needs[0] else grad_hidden
    return *_outputs(rows, targets.shape), grad_hidden, grad_parameters


def _outputs(rows: ParallelRows, shape: torch.Size) -> tuple[Tensor, ...]:
    loss, denominator = rows.finish()
    loss = loss.reshape(shape) if rows.options.reduction == "none" else loss
    parts = rows.logsumexp_parts.reshape(*shape, 2)
    per_row = (rows.tokens.reshape(shape), rows.is_top1.reshape(shape), parts.sum(-1), parts)
    return loss, *per_row, denominator, rows.local_targets.reshape(shape)


def _blocks(operands: Operands) -> Iterator[tuple[slice, Tensor]]:
    """Ranges of rows, each with memory for its logits [n, size]. Two buffers take turns."""
    matrix, size = operands.rows, len(operands.projection)
    count, most = len(matrix), BLOCK_ROWS[matrix.device.type]
    buffers = [new_logits(matrix, min(most, count), size) for _ in range(min(2, -(-count // most)))]
    for index, start in enumerate(range(0, count, most)):
        stop = min(start + most, count)
        yield slice(start, stop), buffers[index % 2][: stop - start]


def _chunks(block: slice, logits: Tensor, width: int) -> Iterator[tuple[slice, Tensor]]:
    """The rows of a block that pass through the GEMMs at once, with their logits."""
    most = chunk_rows(logits.shape[1], width, logits.dtype, logits.device)
    for start in range(block.start, block.stop, most):
        stop = min(start + most, block.stop)
        yield slice(start, stop), logits[start - block.start : stop - block.start]
