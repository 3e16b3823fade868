"""The one table of ops: schema, compute dtype and value check of each op, and the order in which back ends serve.

Everything else follows from it. ``electra_kernels::X`` and the ops of the compiled libraries are declared with these
schemas, and a back end serves op ``X`` of idea ``I`` by the function ``X`` in its module ``I``.
"""

from collections.abc import Callable
from dataclasses import dataclass

from electra_kernels.backends import value_checks

# Per device, the back ends that may serve, best first. On a GPU this order holds until a measurement says otherwise.
ORDER = {"cpu": ("cpp", "reference"), "cuda": ("cuda", "triton", "reference")}
DEVICES = tuple(ORDER)
KERNELS = ("cpp", "cuda", "triton")  # the back ends besides the reference, which serves every op
BACKENDS = ("reference", *KERNELS)


@dataclass(frozen=True)
class Op:
    """One op.

    Attributes:
        name: X of ``torch.ops.electra_kernels.X``.
        idea: the module, in every back end, that has the function.
        arguments, returns: the two sides of the schema.
        computes_in: the argument whose dtype the op computes in; None if the op has integers only.
        check: called with the arguments of a call; raises a ValueError for a value out of range.
        served_by: the back ends besides the reference that have the op.
    """

    name: str
    idea: str
    arguments: str
    returns: str
    computes_in: str | None
    check: Callable[..., None] | None
    served_by: tuple[str, ...] = KERNELS

    @property
    def schema(self) -> str:
        return f"{self.name}({self.arguments}) -> {self.returns}"

    @property
    def float_options(self) -> tuple[int, ...]:
        """Positions of the float arguments."""
        return tuple(i for i, (kind, _) in enumerate(self._split()) if kind == "float")

    @property
    def compute_position(self) -> int | None:
        """Position of ``computes_in`` among the arguments."""
        if self.computes_in is None:
            return None
        return [name for _, name in self._split()].index(self.computes_in)

    def _split(self) -> list[tuple[str, str]]:
        """Type and name of each argument."""
        pairs = (argument.split(" ") for argument in self.arguments.split(", "))
        return [(kind, name) for kind, name in pairs]


_DRAW = "float temperature, bool ban_original"
_ROWS = (
    "Tensor targets, Tensor uniforms, Tensor? normalizer, int ignore_index, str reduction, float z_loss, "
    f"{_DRAW}"
)
_LABELS = "Tensor labels, Tensor? mask, Tensor? pos_weight"
_REPLACED = "(Tensor input_ids, Tensor is_replaced)"

_TABLE = (
    Op(
        "mask_tokens",
        "masking",
        "Tensor input_ids, Tensor maskable, Tensor uniforms, int mask_token_id, int vocab_size, float probability, "
        "float mask_fraction, float random_fraction",
        "(Tensor input_ids, Tensor positions, Tensor targets)",
        None,
        value_checks.mask_tokens,
    ),
    Op(
        "sample_tokens",
        "sampling",
        "Tensor logits, Tensor? banned, Tensor uniforms, float temperature",
        "(Tensor logsumexp, Tensor tokens, Tensor logsumexp_parts)",
        "logits",
        value_checks.sample_tokens,
    ),
    Op(
        "sample_tokens_backward",
        "sampling",
        "Tensor grad_logsumexp, Tensor logits, Tensor logsumexp_parts",
        "Tensor",
        "logits",
        None,
    ),
    Op(
        "replace_tokens",
        "replacing",
        "Tensor input_ids, Tensor positions, Tensor tokens",
        _REPLACED,
        None,
        value_checks.replace_tokens,
    ),
    Op(
        "sample_replacements",
        "replacing",
        f"Tensor logits, Tensor input_ids, Tensor positions, Tensor targets, Tensor uniforms, {_DRAW}",
        _REPLACED,
        "logits",
        value_checks.sample_replacements,
    ),
    Op(
        "cross_entropy_sample",
        "mlm_head",
        f"Tensor logits, {_ROWS}",
        "(Tensor loss, Tensor tokens, Tensor is_top1, Tensor logsumexp, Tensor logsumexp_parts, Tensor denominator)",
        "logits",
        value_checks.cross_entropy_sample,
    ),
    Op(
        "cross_entropy_sample_backward",
        "mlm_head",
        "Tensor grad_loss, Tensor? grad_logsumexp, Tensor logits, Tensor targets, Tensor logsumexp_parts, "
        "Tensor denominator, int ignore_index, float z_loss",
        "Tensor",
        "logits",
        None,
    ),
    Op(
        "cross_entropy_sample_",
        "mlm_head",
        f"Tensor(a!) logits, {_ROWS}",
        "(Tensor loss, Tensor tokens, Tensor is_top1, Tensor logsumexp, Tensor factor)",
        "logits",
        value_checks.cross_entropy_sample,
    ),
    Op("scale_gradient_", "mlm_head", "Tensor(a!) gradient, Tensor scale", "()", "gradient", None),
    Op(
        "linear_cross_entropy_sample",
        "linear_head",
        f"Tensor hidden, Tensor weight, Tensor? bias, {_ROWS}, bool[3] needs_gradient",
        "(Tensor loss, Tensor tokens, Tensor is_top1, Tensor logsumexp, Tensor logsumexp_parts, Tensor denominator, "
        "Tensor grad_hidden, Tensor grad_parameters)",
        "hidden",
        value_checks.linear_cross_entropy_sample,
    ),
    Op(
        "linear_cross_entropy_sample_backward",
        "linear_head",
        "Tensor grad_loss, Tensor hidden, Tensor weight, Tensor? bias, Tensor targets, Tensor logsumexp_parts, "
        "Tensor denominator, Tensor grad_hidden, Tensor grad_parameters, int ignore_index, str reduction, "
        "float z_loss, bool[3] needs_gradient",
        "(Tensor, Tensor, Tensor)",
        "hidden",
        None,
    ),
    Op(
        "masked_bce_with_logits",
        "bce",
        f"Tensor logits, {_LABELS}, Tensor? normalizer, float label_smoothing, str reduction",
        "(Tensor loss, Tensor counts, Tensor denominator)",
        "logits",
        value_checks.masked_bce_with_logits,
    ),
    Op(
        "masked_bce_with_logits_backward",
        "bce",
        f"Tensor grad_loss, Tensor logits, {_LABELS}, Tensor denominator, float label_smoothing",
        "Tensor",
        "logits",
        None,
    ),
    Op(
        "linear_masked_bce",
        "rtd_head",
        f"Tensor hidden, Tensor weight, Tensor? bias, {_LABELS}, Tensor? normalizer, float label_smoothing, "
        "str reduction, bool needs_parameter_gradients",
        "(Tensor loss, Tensor logits, Tensor counts, Tensor denominator, Tensor grad_weight, Tensor grad_bias)",
        "hidden",
        value_checks.linear_masked_bce,
    ),
    Op(
        "linear_masked_bce_backward",
        "rtd_head",
        f"Tensor grad_loss, Tensor hidden, Tensor weight, Tensor logits, {_LABELS}, Tensor denominator, "
        "Tensor grad_weight, Tensor grad_bias, float label_smoothing, str reduction",
        "(Tensor, Tensor, Tensor)",
        "hidden",
        None,
    ),
)
OPS = {op.name: op for op in _TABLE}


def ops_of(backend: str) -> dict[str, Op]:
    """The ops that a back end has, by name."""
    return {name: op for name, op in OPS.items() if backend == "reference" or backend in op.served_by}


# The back ends whose row kernels add the bias. For the others it is part of the GEMMs.
ADDS_BIAS = ("reference", "cpp")


def row_kernels(backend: str) -> dict[str, str]:
    """Schemas of the row kernels, by name, that a back end gives to `backends.linear_head` and `vocab_parallel`.

    They are no ops of ``electra_kernels``.
    """
    rows = f"logits, {'Tensor? bias, ' if backend in ADDS_BIAS else ''}Tensor targets"
    options = f"int ignore_index, float z_loss, {_DRAW}, bool writes_gradient"
    results = (
        "Tensor(b!) losses, Tensor(c!) tokens, Tensor(d!) is_top1, Tensor(e!) logsumexp, Tensor(f!) parts"
    )
    statistics = "Tensor logsumexp_parts, int ignore_index, float z_loss"
    return {
        "cross_entropy_rows_": f"(Tensor(a!) {rows}, Tensor uniforms, {options}, {results}) -> ()",
        "cross_entropy_rows_backward_": f"(Tensor(a!) {rows}, {statistics}) -> ()",
        "cross_entropy_rows_loss": "(Tensor losses, Tensor targets, Tensor? normalizer, int ignore_index, "
        "str reduction) -> (Tensor loss, Tensor denominator)",
        "row_sums": f"(Tensor {rows}, int ignore_index, {_DRAW}, Tensor(a!) sums) -> ()",
    }
