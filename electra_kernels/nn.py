"""The ops as torch modules, which add parameters and buffers and nothing else."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from electra_kernels.ops import (
    SampledLoss,
    TokenLoss,
    linear_cross_entropy_sample,
    linear_masked_bce,
    masked_bce_with_logits,
)
from electra_kernels.ops._checks import check_weight

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh


def _initialize_weight(weight: Tensor) -> None:
    """Normal with standard deviation 0.02, truncated at two of them (google-research/electra, create_initializer)."""
    nn.init.trunc_normal_(weight, std=0.02, a=-0.04, b=0.04)


class MaskedBCEWithLogitsLoss(nn.Module):
    """`electra_kernels.masked_bce_with_logits` with its options kept; ``forward(logits, labels, mask=None)``.

    Args:
        pos_weight: a number, a tensor that broadcasts to the logits, or None. It is a buffer, and a number becomes a
            float64 tensor []. The buffer moves with the module. ``double()`` widens its dtype, but ``half()``,
            ``bfloat16()`` and ``float()`` do not narrow it, because a weight of 70,000 would be inf in float16.
        label_smoothing, reduction: as for the op.

    Raises:
        TypeError, ValueError: pos_weight is not a number, or is negative or not finite.
    """

    pos_weight: Tensor | None

    def __init__(
        self,
        *,
        pos_weight: float | Tensor | None = None,
        label_smoothing: float = 0.0,
        reduction: str = "mean",
    ) -> None:
        super().__init__()
        self.label_smoothing, self.reduction = label_smoothing, reduction
        if not (pos_weight is None or isinstance(pos_weight, Tensor)):
            pos_weight = _number_tensor(pos_weight)
        self.register_buffer("pos_weight", pos_weight)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "MaskedBCEWithLogitsLoss":
        """torch calls this for every conversion and move of the module or of a module that contains it."""
        before = self.pos_weight
        super()._apply(fn, recurse)
        after = self.pos_weight
        if before is not None and after is not None and not before.is_meta:
            holds_all = torch.promote_types(before.dtype, after.dtype) == after.dtype
            self.pos_weight = before.to(after.device, after.dtype if holds_all else before.dtype)
        return self

    def forward(
        self,
        logits: Tensor,
        labels: Tensor,
        mask: Tensor | None = None,
        *,
        normalizer: float | Tensor | None = None,
    ) -> Tensor:
        return masked_bce_with_logits(
            logits,
            labels,
            mask,
            pos_weight=_on_device_of(logits, self.pos_weight),
            label_smoothing=self.label_smoothing,
            reduction=self.reduction,
            normalizer=normalizer,
        )


def _number_tensor(pos_weight: float) -> Tensor:
    """float64 [] on the default device, or on the CPU if that is meta, which would lose the number."""
    check_weight("pos_weight", pos_weight)
    device = torch.get_default_device()
    return torch.tensor(
        float(pos_weight), dtype=torch.float64, device="cpu" if device.type == "meta" else device
    )


def _on_device_of(logits: Tensor, weight: Tensor | None) -> Tensor | None:
    """A 0-dim CPU weight combines with logits on any device without a copy, as in torch's own operations."""
    if weight is None or weight.dim() > 0 or weight.device.type != "cpu" or not isinstance(logits, Tensor):
        return weight
    if logits.device == weight.device:
        return weight
    return weight * torch.ones((), dtype=weight.dtype, device=logits.device)


class GeneratorHead(nn.Module):
    """The projection to the vocabulary with the loss and the sample: `linear_cross_entropy_sample`.

    Args:
        embedding_size: E, the width of ``hidden``.
        vocab_size: V.
        weight: [V, E], the parameter of the token embedding to tie to; by default the head has its own parameter.
        device, dtype: those of the parameters; by default those of ``weight`` if it is given, else torch's.

    Attributes:
        mesh: None, or ranks that share the work in training mode: each has rows of its own, as many as the others, and
            computes a slice of the vocabulary for the rows of all. ``normalizer`` and ``uniforms`` are required then.

    The bias starts at 0. The head's own weight starts as a normal with standard deviation 0.02, truncated at two of
    them. A tied weight belongs to its embedding: neither ``__init__`` nor ``reset_parameters`` changes it.

    ``to_empty()`` unties parameters on the meta device, as everywhere in torch. Tie them again afterwards:
    ``head.weight = embedding.weight``. FSDP2 (``fully_shard`` before ``to_empty()``) keeps them tied.

    Raises:
        TypeError: weight is not a `torch.nn.Parameter`.
        ValueError: weight has another shape, or not the given device or dtype.
    """

    mesh: "DeviceMesh | None" = None

    def __init__(
        self,
        embedding_size: int,
        vocab_size: int,
        *,
        weight: nn.Parameter | None = None,
        device: torch.device | str | int | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.embedding_size, self.vocab_size, self.tied = embedding_size, vocab_size, weight is not None
        shape = (vocab_size, embedding_size)
        if weight is None:
            weight = nn.Parameter(torch.empty(shape, device=device, dtype=dtype))
        if not isinstance(weight, nn.Parameter):
            raise TypeError(
                f"weight is {type(weight).__name__}, should be a torch.nn.Parameter, or it would not be trained"
            )
        if weight.shape != shape:
            raise ValueError(f"weight has shape {list(weight.shape)}, should be [V, E] = {list(shape)}")
        device, dtype = weight.device if device is None else device, weight.dtype if dtype is None else dtype
        bias = torch.empty(vocab_size, device=device, dtype=dtype)
        if (weight.device, weight.dtype) != (bias.device, bias.dtype):
            raise ValueError(
                f"weight is {weight.dtype} on {weight.device}, should be {bias.dtype} on {bias.device} as dtype and "
                "device say"
            )
        self.weight, self.bias = weight, nn.Parameter(bias)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialise the bias, and the weight unless it is tied, in place."""
        if not self.tied:
            _initialize_weight(self.weight)
        nn.init.zeros_(self.bias)

    def extra_repr(self) -> str:
        return f"embedding_size={self.embedding_size}, vocab_size={self.vocab_size}, tied={self.tied}"

    def forward(
        self,
        hidden: Tensor,
        targets: Tensor,
        *,
        ignore_index: int = -100,
        reduction: str = "mean",
        normalizer: float | Tensor | None = None,
        temperature: float = 1.0,
        ban_original: bool = False,
        uniforms: Tensor | None = None,
    ) -> SampledLoss:
        """hidden [..., E] and targets [...] → `SampledLoss`; rows with ``ignore_index`` have no loss and no draw."""
        if self.mesh is not None and self.training:
            if normalizer is None or uniforms is None or reduction != "mean":
                raise ValueError(
                    f"normalizer is {normalizer} and reduction {reduction!r}, should be a number of rows and "
                    '"mean", and uniforms given, where ranks share the vocabulary (mesh)'
                )
            # Not at the top, because it imports torch.distributed.tensor.
            from electra_kernels.ops._dtensor import shared_vocabulary_sample

            operands = (hidden, self.weight, self.bias, targets, normalizer, uniforms, self.mesh)
            return shared_vocabulary_sample(*operands, ignore_index, temperature, ban_original)
        return linear_cross_entropy_sample(
            hidden,
            self.weight,
            self.bias,
            targets,
            ignore_index=ignore_index,
            reduction=reduction,
            normalizer=normalizer,
            temperature=temperature,
            ban_original=ban_original,
            uniforms=uniforms,
        )


class DiscriminatorHead(nn.Module):
    """The last Linear(H → 1) fused with its loss: `linear_masked_bce`.

    Args:
        hidden_size: H, the width of ``hidden``.
        device, dtype: those of the parameters weight [1, H] and bias [1]; by default torch's.

    The parameters are initialised as in `GeneratorHead`.
    """

    def __init__(
        self,
        hidden_size: int,
        *,
        device: torch.device | str | int | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.hidden_size = hidden_size
        self.weight = nn.Parameter(torch.empty(1, hidden_size, device=device, dtype=dtype))
        self.bias = nn.Parameter(torch.empty(1, device=device, dtype=dtype))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialise both parameters in place."""
        _initialize_weight(self.weight)
        nn.init.zeros_(self.bias)

    def extra_repr(self) -> str:
        return f"hidden_size={self.hidden_size}"

    def forward(
        self,
        hidden: Tensor,
        labels: Tensor,
        mask: Tensor | None = None,
        *,
        pos_weight: float | Tensor | None = None,
        label_smoothing: float = 0.0,
        reduction: str = "mean",
        normalizer: float | Tensor | None = None,
    ) -> TokenLoss:
        """hidden [..., H], labels [...] and a mask that broadcasts to [...] → `TokenLoss`."""
        return linear_masked_bce(
            hidden,
            self.weight,
            self.bias,
            labels,
            mask,
            pos_weight=pos_weight,
            label_smoothing=label_smoothing,
            reduction=reduction,
            normalizer=normalizer,
        )
