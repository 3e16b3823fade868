"""`linear_cross_entropy_sample` with a weight that is a ``DTensor``: rows of the vocabulary spread over a mesh."""

import torch
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard

from electra_kernels.backends.vocab_parallel import Options
from electra_kernels.ops._results import SampledLoss
from electra_kernels.ops.vocab_parallel import sample_linear


@torch.compiler.disable
def sharded_cross_entropy_sample(
    hidden: Tensor,
    weight: DTensor,
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
    if mesh.ndim != 1 or value.device_mesh != mesh or value.placements not in expected:
        allowed = " or ".join(str(placements) for placements in expected)
        raise ValueError(
            f"{name} has placements {value.placements} on {value.device_mesh}, should have {allowed} on one mesh of "
            "one dimension"
        )
    return value
