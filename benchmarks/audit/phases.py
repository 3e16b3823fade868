"""What the threads of each kernel do again and again, of both back ends: counted by hand from their sources.

A phase is gone through in turns, each of which takes a thread some elements further. What a kernel does beside its
phases is counted once for each of its threads, as the cheapest route through it.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from benchmarks.audit.routes import NOTHING, Cost, Routes, Work
from electra_kernels.triton.rows import TILE


class Phase(NamedTuple):
    """
    Attributes:
        of: what it goes over, as `cases.Case.elements` names it.
        elements: of a thread in a turn; less than one where several threads take part in each.
        work: what tells the turn from what is rarer.
    """

    of: str
    elements: float
    work: Work


_WARP = 32
# Of a token beside its logit: a label of one byte, a mask of eight.
_TERMS = 1 + 8


class Shape(NamedTuple):
    """Of a call by CUDA C++: bytes of a float, width of the hidden states, and whether a float32 bias is added."""

    itemsize: int
    width: int = 0
    has_bias: bool = False

    @property
    def logit(self) -> int:
        """Bytes to load for one."""
        return self.itemsize + 4 * self.has_bias


def _load(elements: float, itemsize: int, **more: float) -> Work:
    return Work({"load": elements * itemsize, **more})


def _visit(of: str, elements: float, itemsize: int) -> Phase:
    """An exponential of each logit that is read."""
    return Phase(of, elements, _load(elements, itemsize, special=elements))


def _rewrite(of: str, elements: float, itemsize: int, **more: float) -> Phase:
    return Phase(of, elements, _load(elements, itemsize, store=elements * itemsize, **more))


# ---- Triton: by the kernel's constants, the threads of a program and the bytes of a float ----------------------


def _sample_rows(c: Mapping[str, Any], lanes: int, itemsize: int) -> list[Phase]:
    return [_visit("logits", TILE.value * c["WARPS"] / lanes, itemsize)] if c["VISITS"] else []


def _cross_entropy_rows(c: Mapping[str, Any], lanes: int, itemsize: int) -> list[Phase]:
    elements = TILE.value * c["WARPS"] / lanes
    gradient = (
        [_rewrite("logits", elements, itemsize, special=elements)] if c["WRITES"] and c["DRAWS"] else []
    )
    return _sample_rows(c, lanes, itemsize) + gradient


def _softmax_rows(c: Mapping[str, Any], lanes: int, itemsize: int) -> list[Phase]:
    elements = c["BLOCK"] / lanes
    return [_rewrite("logits", elements, itemsize, special=elements)]


def _scale_rows(c: Mapping[str, Any], lanes: int, itemsize: int) -> list[Phase]:
    return [_rewrite("logits", c["BLOCK"] / lanes, itemsize)]


def _bce_forward(c: Mapping[str, Any], lanes: int, itemsize: int) -> list[Phase]:
    return [Phase("tokens", c["BLOCK"] / lanes, _load(c["BLOCK"] / lanes, itemsize + _TERMS))]


def _bce_backward(c: Mapping[str, Any], lanes: int, itemsize: int) -> list[Phase]:
    elements = c["BLOCK"] / lanes
    return [Phase("tokens", elements, _load(elements, itemsize + _TERMS, store=elements * itemsize))]


def _head_forward(c: Mapping[str, Any], lanes: int, itemsize: int) -> list[Phase]:
    elements = c["ROWS"] * c["PIECES"] * c["WIDTH"] / lanes
    return [
        Phase("hidden", elements, _load(elements, itemsize)),
        Phase("tokens", 1, _load(1, 4 + _TERMS)),  # with its logit
    ]


def _head_backward(c: Mapping[str, Any], lanes: int, itemsize: int) -> list[Phase]:
    elements = c["ROWS"] * c["PIECES"] * c["WIDTH"] / lanes
    return [Phase("hidden", elements, Work({"store": elements * itemsize}))]


def _mask_rows(c: Mapping[str, Any], lanes: int, itemsize: int) -> list[Phase]:
    elements = c["TOKENS"] / lanes
    return [
        _rewrite("tokens", elements, itemsize),
        Phase("slots", 1 / lanes, _load(1, 8, double=1)),  # a step back, by all
    ]


def _replace_rows(c: Mapping[str, Any], lanes: int, itemsize: int) -> list[Phase]:
    elements = c["BLOCK"] / lanes
    return [Phase("tokens", elements, Work({"load": 8 * elements, "store": 9 * elements}))]


TRITON: dict[str, Callable[[Mapping[str, Any], int, int], list[Phase]]] = {
    "sample_rows": _sample_rows,
    "cross_entropy_rows": _cross_entropy_rows,
    "softmax_rows": _softmax_rows,
    "scale_rows_": _scale_rows,
    "bce_forward": _bce_forward,
    "bce_backward": _bce_backward,
    "head_forward": _head_forward,
    "head_backward": _head_backward,
    "mask_rows": _mask_rows,
    "replace_rows": _replace_rows,
}

# ---- CUDA C++: by the shape of a call --------------------------------------------------------------------------
#
# Bytes are exact where the code has slower ways, or a second pass of exponentials for a temperature, that move more.

_LANE = 32  # logits of a lane in a tile
_RUN = 8  # tokens of a thread
# One warp draws from a row: two prefix sums in float64, and the exponentials of a tile.
_DRAW = Phase("rows", 1 / _WARP, Work({"double": 60, "special": _LANE}))


def _cuda_visit(shape: Shape) -> Phase:
    return Phase("logits", _LANE, Work({"load": _LANE * shape.logit, "special": _LANE}, ("load",)))


def _cuda_in_place(shape: Shape) -> list[Phase]:
    """The logits come from shared memory for their gradient, the bias once more from global memory."""
    amounts = {"store": _LANE * shape.itemsize, "special": _LANE}
    if shape.has_bias:
        amounts["load"] = _LANE * 4
    return [_cuda_visit(shape), Phase("logits", _LANE, Work(amounts, ("store",))), _DRAW]


def _cuda_gradient(shape: Shape) -> list[Phase]:
    amounts = {"load": _LANE * shape.logit, "store": _LANE * shape.itemsize, "special": _LANE}
    return [Phase("logits", _LANE, Work(amounts, ("store",)))]


def _cuda_bce(is_backward: bool) -> Callable[[Shape], list[Phase]]:
    """Of these types alone, the kernel has a way for each: vectors of logits, one of 8 bytes of labels, four of the
    mask. Special: each token's exponential, its mask of 64 bits made a float; backward a reciprocal too."""

    def phases(shape: Shape) -> list[Phase]:
        amounts = {
            "load": _RUN * (shape.itemsize + _TERMS),
            "LDG": _RUN * shape.itemsize // 16 + 1 + 4,
            "special": _RUN * (3 if is_backward else 2),
        }
        if is_backward:
            amounts["store"] = _RUN * shape.itemsize
        return [Phase("tokens", _RUN, Work(amounts, ("load", "LDG", "store")))]

    return phases


def _cuda_head_forward(shape: Shape) -> list[Phase]:
    """A warp has `held_rows` rows of pieces of 16 bytes a lane: two products of each number, and of one of the rows in
    each lane the exponential and the reciprocal of its logit."""
    pieces = -(-shape.width // 256) * 256 * shape.itemsize // (_WARP * 16)
    rows = 8 if pieces <= 2 else 4 if pieces <= 4 else 2
    elements = rows * pieces * 16 // shape.itemsize
    return [Phase("hidden", elements, _load(elements, shape.itemsize, FFMA=2 * elements, MUFU=2))]


def _cuda_head_backward(shape: Shape) -> list[Phase]:
    """16 bytes of each of 8 rows; before the first of them, the denominator's reciprocal, and of one of the rows in a
    lane the exponential and the reciprocal of its logit."""
    rows = 8
    return [
        Phase("hidden", rows * 16 // shape.itemsize, Work({"store": rows * 16})),
        Phase("tokens", rows / _WARP, Work({"MUFU": 3})),
    ]


CUDA: dict[str, Callable[[Shape], list[Phase]]] = {
    "sample_row": lambda shape: [_cuda_visit(shape), _DRAW],
    "cross_entropy_row": lambda shape: [_cuda_visit(shape), _DRAW],
    "cross_entropy_row_": _cuda_in_place,
    "gradient_row": _cuda_gradient,
    "scale_row": lambda shape: [_rewrite("logits", _LANE, shape.itemsize)],
    "bce/forward": _cuda_bce(is_backward=False),
    "bce/backward": _cuda_bce(is_backward=True),
    "forward_held": _cuda_head_forward,
    "rtd_head/backward": _cuda_head_backward,
    "mask_row": lambda shape: [
        Phase("tokens", 1, _load(1, 8 + 1, store=8)),
        # A warp takes a token out, one of its lanes finds it.
        Phase("slots", 1 / _WARP, Work({"SHFL": 2, "POPC": 5})),
    ],
    "replace_row": lambda shape: [Phase("tokens", 1, _load(1, 8, store=8 + 1))],
}


def record_of(name: str, routes: Routes, phases: Sequence[Phase]) -> dict[str, Any]:
    """What a thread of a kernel does once, and in a turn of each phase.

    Raises:
        ValueError: no route does the work of a phase.
    """
    once = routes.through(Work({}))
    if once is None:
        raise ValueError(f"{name} has no route from its beginning to its end")
    found = []
    for phase in phases:
        turn = routes.turn(phase.work)
        if turn is None and (through := routes.through(phase.work)) is not None:
            # Each thread takes one turn, and no more; or some do something beside the other phases.
            turn, once = (through, NOTHING) if len(phases) == 1 else (through.less(once), once)
        if turn is None:
            raise ValueError(f"{name} has no route that does {dict(phase.work.amounts)}")
        found.append({"of": phase.of, "elements": phase.elements, **_rounded(turn)})
    return {"once": _rounded(once), "phases": found}


def _rounded(cost: Cost) -> dict[str, float]:
    return {kind: round(amount, 2) for kind, amount in cost._asdict().items()}
