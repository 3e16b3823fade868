"""`linear_cross_entropy_sample` on a mesh: with a weight that is a ``DTensor``, and with rows of their own per rank."""

import torch
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard

from electra_kernels.backends.vocab_parallel import Options
from electra_kernels.ops._autograd import not_compiled
from electra_kernels.ops._results import SampledLoss
from electra_kernels.ops.vocab_parallel import sample_linear


@not_compiled
def sharded_cross_entropy_sample(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    normalizer: float | Tensor | None,
    uniforms: Tensor | None,
    settings: Options,
) -> SampledLoss:
    """`vocab_parallel_linear_cross_entropy_sample` for a weight sharded on dimension 0 over a mesh of one dimension.

    ``hidden`` is a plain tensor, the same on every rank, or a DTensor of the mesh that is replicated or sharded on
    dimension 0 (a part of the sequence per rank): its gradient is then reduced and scattered instead of summed on all.
    The results are plain tensors, the same on every rank, for all rows.

    Raises:
        TypeError, ValueError: as the function; another placement or mesh.
    """
    assert isinstance(weight, DTensor)
    mesh = weight.device_mesh
    _require("weight", weight, mesh, (Shard(0),))
    if bias is not None:
        bias = _require("bias", bias, mesh, (Shard(0),)).to_local()
    sums_hidden = not isinstance(hidden, DTensor)
    if not sums_hidden:
        hidden = _require("hidden", hidden, mesh, (Replicate(),), (Shard(0),))
        hidden = hidden.redistribute(placements=[Replicate()]).to_local(grad_placements=[Partial()])
    size, ranks = weight.shape[0], mesh.size()
    share = -(-size // ranks)  # DTensor cuts as torch.chunk
    if share * (ranks - 1) >= size:
        raise ValueError(f"weight has {size} rows, too few to give each of {ranks} ranks some")
    return sample_linear(
        *(hidden, weight.to_local(), bias, targets, normalizer, uniforms, settings),
        mesh.get_group(),
        mesh.get_local_rank() * share,
        sums_hidden=sums_hidden,
    )


def _require(name: str, value: Tensor, mesh: DeviceMesh, *expected: tuple[object, ...]) -> DTensor:
    """``value`` if it is a DTensor on the mesh, which has one dimension, with one of the placements."""
    if not isinstance(value, DTensor):
        raise TypeError(f"{name} is a plain tensor, should be a DTensor as weight")
    order = mesh.mesh.flatten().tolist()
    if order != sorted(order):
        raise ValueError(f"{name} is on a mesh of the ranks {order}, should have them in ascending order")
    if mesh.ndim != 1 or value.device_mesh != mesh or value.placements not in expected:
        allowed = " or ".join(str(placements) for placements in expected)
        raise ValueError(
            f"{name} has placements {value.placements} on {value.device_mesh}, should have {allowed} on one mesh of "
            "one dimension"
        )
    return value


@not_compiled
def shared_vocabulary_sample(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    normalizer: float | Tensor,
    uniforms: Tensor,
    mesh: DeviceMesh,
    ignore_index: int,
    temperature: float,
    ban_original: bool,
) -> SampledLoss:
    """`linear_cross_entropy_sample` of this rank's rows, computed together with the other ranks of the mesh.

    Each rank has rows of its own, as many as the others, and the whole weight, as in data parallelism. It computes its
    slice of the vocabulary for the rows of all. A rank's weight gets the gradient of that slice from all rows and 0
    elsewhere, so the sum over the ranks is that of data parallelism.

    Args:
        hidden, weight, bias, targets, normalizer, uniforms, ignore_index, temperature, ban_original: as for the op,
            with reduction "mean".
        mesh: of one dimension.

    Returns:
        As the op for this rank's rows; ``loss`` [] is the mean over the ranks of their losses, so that the sums over
        the ranks agree.
    """
    rank, ranks, size = mesh.get_local_rank(), mesh.size(), weight.shape[0]
    share = -(-size // ranks)
    mine = slice(rank * share, min((rank + 1) * share, size))

    def placed(part: Tensor, whole: torch.Size) -> DTensor:
        stride = torch.empty(whole, device="meta").stride()
        return DTensor.from_local(part, mesh, [Shard(0)], run_check=False, shape=whole, stride=stride)

    def gathered(value: Tensor) -> Tensor:
        return DTensor.from_local(value.reshape(-1), mesh, [Shard(0)], run_check=False).full_tensor()

    rows = hidden.reshape(-1, hidden.shape[-1])
    out = sharded_cross_entropy_sample(
        placed(rows, torch.Size((ranks * len(rows), rows.shape[1]))),
        placed(weight[mine], weight.shape),
        None if bias is None else placed(bias[mine], bias.shape),
        gathered(targets),
        normalizer,
        gathered(uniforms),
        Options(ignore_index, "mean", 0.0, temperature, ban_original),
    )
    own = slice(rank * len(rows), (rank + 1) * len(rows))
    tokens, is_top1, logsumexp = (value[own].reshape(targets.shape) for value in out[1:])
    # The value is this rank's share of the loss of all rows; the gradient is this rank's part of that of all.
    if out.loss.requires_grad:
        out.loss.register_hook(lambda gradient: gradient * ranks)
    loss = out.loss / ranks
    return SampledLoss(loss, tokens, is_top1, logsumexp)
