"""Integration with PyTorch: opcheck, gradcheck, one compilation for every N, export, autocast and meta tensors."""

import io
from dataclasses import replace

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend
from torch.utils._python_dispatch import TorchDispatchMode

import electra_kernels as ek

from . import views
from .cases import (
    CASES,
    CUSTOM_OPS,
    DIFFERENTIABLE,
    DIFFERENTIABLE_CUSTOM_OPS,
    LOSSES,
    VOCABULARY,
    WIDTH,
    as_list,
    build,
    differentiable_outputs,
    workload,
)
from .oracle import assert_equal

WITHOUT_REDUCTION = ("gather_rows", "sample_tokens")


@pytest.fixture(autouse=True)
def _forget_compilations():
    torch._dynamo.reset()


def _copy(tensor):
    """A copy in new memory with the same strides."""
    return tensor.detach().clone(memory_format=torch.preserve_format)


class _Recorder(TorchDispatchMode):
    """Records each call of a registered op, including the backward ops below the public functions."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def __torch_dispatch__(self, op, types, args=(), kwargs=None):
        if op.namespace == "electra_kernels":
            copies = [_copy(arg) if isinstance(arg, torch.Tensor) else arg for arg in args]
            self.calls.append((op, copies))
        return op(*args, **kwargs or {})


def _raw_calls(case, **options):
    """The (op, arguments) of a forward and backward. Arguments of differentiable ops require grad."""
    with _Recorder() as recorder:
        leaves = case.leaves()
        inputs = (
            {name: leaf * 1 for name, leaf in leaves.items()} if options.get("inplace_backward") else leaves
        )
        outputs = case.outputs(**inputs, **options)
        if leaves:
            differentiable_outputs(outputs).sum().backward()
    for op, args in recorder.calls:
        if not op._opname.endswith(("_backward", "_")):
            for index, argument in enumerate(op._schema.arguments):
                if argument.name in case.differentiable:
                    args[index] = args[index].requires_grad_()
    return recorder.calls


OPCHECKED = [
    *[(name, {}) for name in CUSTOM_OPS],
    ("cross_entropy_sample", {"inplace_backward": True}),
    ("cross_entropy_sample", {"inplace_backward": True, "normalizer": 3.0}),
    *[(name, options) for name in LOSSES for options in ({"normalizer": 3.0}, {"reduction": "none"})],
]


@pytest.mark.parametrize(("name", "options"), OPCHECKED, ids=str)
@pytest.mark.parametrize("layout", ["contiguous", "transposed"])
def test_opcheck(device, name, options, layout):
    case = build(name, device)
    if layout == "transposed":
        tensors = {key: views.transposed(value)[0] for key, value in case.tensors.items()}
        case = replace(case, tensors=tensors)
    calls = _raw_calls(case, **options)
    assert calls
    for op, args in calls:
        torch.library.opcheck(op, tuple(args))
        packet = getattr(torch.ops.electra_kernels, op._opname)
        if "tensors" in packet.overloads():
            floats = [
                torch.tensor(arg, dtype=torch.float64) if isinstance(arg, float) else arg for arg in args
            ]
            torch.library.opcheck(packet.tensors, tuple(floats))


def test_opcheck_covers_every_registered_op():
    seen = {op._opname for name, options in OPCHECKED for op, _ in _raw_calls(build(name), **options)}
    assert seen == {op for op, _ in ek.backends().serving}


@pytest.mark.parametrize("name", DIFFERENTIABLE)
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_gradcheck_of_the_reference_in_float64(name, reduction):
    case = build(name, dtype=torch.float64, batch=1, slots=3)
    options = {} if name in WITHOUT_REDUCTION else {"reduction": reduction}
    leaves = case.leaves()

    def differentiable(*values):
        return differentiable_outputs(case.outputs(**dict(zip(leaves, values)), **options))

    with ek.use_backend("reference"):
        assert torch.autograd.gradcheck(differentiable, tuple(leaves.values()), fast_mode=True)


@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("name", DIFFERENTIABLE_CUSTOM_OPS)
def test_a_second_backward_is_right_and_a_double_backward_is_refused(device, dtype, name, reduction):
    case = build(name, device, dtype)
    leaves, options = case.leaves(), {} if name in WITHOUT_REDUCTION else {"reduction": reduction}
    loss = differentiable_outputs(case.outputs(**leaves, **options)).sum()
    once = torch.autograd.grad(loss, list(leaves.values()), retain_graph=True)
    twice = torch.autograd.grad(loss, list(leaves.values()), retain_graph=True)
    assert_equal(once, twice)
    gradients = torch.autograd.grad(loss, list(leaves.values()), create_graph=True)
    with pytest.raises(
        RuntimeError, match=f"{name} cannot be differentiated twice: its gradient has no gradient"
    ):
        sum(gradient.sum() for gradient in gradients).backward()


@pytest.mark.parametrize("name", CASES)
def test_one_compilation_without_a_graph_break_serves_every_n(device, name):
    counter = CompileCounterWithBackend("aot_eager")
    options, op = build(name).options, build(name).function
    compiled = torch.compile(
        lambda **tensors: op(**tensors, **options), fullgraph=True, backend=counter, dynamic=True
    )
    compilations = 0  # counted after the first batch, as dynamo may restart its first compilation
    for batch in (3, 5, 8, 13)[: workload(4, interpreted=3)]:
        case = build(name, device, batch=batch)
        leaves, other = case.leaves(), case.leaves()
        ours, theirs = as_list(compiled(**{**case.tensors, **leaves})), case.outputs(**other)
        assert_equal(ours, theirs)
        if leaves:
            differentiable_outputs(ours).sum().backward()
            differentiable_outputs(theirs).sum().backward()
        for leaf, expected in zip(leaves.values(), other.values()):
            torch.testing.assert_close(leaf.grad, expected.grad)
        compilations = compilations or counter.frame_count
    assert counter.frame_count == compilations, "another N caused another compilation"


@pytest.mark.parametrize("name", CASES)
def test_an_exported_op_is_saved_loaded_and_takes_any_batch_size(device, name):
    case = build(name, device)

    class Module(torch.nn.Module):
        def forward(self, tensors):
            return case.function(**tensors, **case.options)

    batch = torch.export.Dim("batch", min=2, max=100)
    shapes = {key: {} if key in ("weight", "bias") else {0: batch} for key in case.tensors}
    exported = torch.export.export(Module(), (case.tensors,), dynamic_shapes=(shapes,))
    file = io.BytesIO()
    torch.export.save(exported, file)
    file.seek(0)
    loaded = torch.export.load(file).module()
    for other in (case, build(name, device, batch=7)):
        assert_equal(as_list(loaded(other.tensors)), other.outputs())


@pytest.mark.parametrize("name", DIFFERENTIABLE_CUSTOM_OPS)
def test_a_strictly_exported_op_has_its_gradients(device, name):
    """Strict export traces with dynamo, which would take an autograd.Function apart and drop its backward."""
    case = build(name, device)

    class Module(torch.nn.Module):
        def forward(self, tensors):
            return as_list(case.function(**tensors, **case.options))

    leaves, expected = case.leaves(), case.leaves()
    exported = torch.export.export(Module(), ({**case.tensors, **leaves},), strict=True).module()
    differentiable_outputs(exported({**case.tensors, **leaves})).sum().backward()
    differentiable_outputs(case.outputs(**expected)).sum().backward()
    assert_equal([leaf.grad for leaf in leaves.values()], [leaf.grad for leaf in expected.values()])


@pytest.mark.parametrize("name", DIFFERENTIABLE_CUSTOM_OPS)
def test_a_double_backward_of_a_compiled_op_is_refused(device, name):
    case = build(name, device)
    leaves = case.leaves()
    compiled = torch.compile(lambda **leaves: differentiable_outputs(case.outputs(**leaves)), backend="eager")
    gradients = torch.autograd.grad(compiled(**leaves).sum(), list(leaves.values()), create_graph=True)
    with pytest.raises(RuntimeError, match=f"{name} cannot be differentiated twice"):
        sum(gradient.sum() for gradient in gradients).backward()


@pytest.mark.parametrize("name", CASES)
def test_meta_tensors_give_shapes_and_dtypes(device, name):
    case = build(name, device)
    ours = case.outputs(**{key: value.to("meta") for key, value in case.tensors.items()})
    for one, expected in zip(ours, case.outputs()):
        assert one.device.type == "meta"
        assert (one.shape, one.dtype) == (expected.shape, expected.dtype)


def test_autocast_casts_activations_and_keeps_the_dtype_of_weight_gradients(device):
    for name in ("linear_cross_entropy_sample", "linear_masked_bce"):
        case = build(name, device)
        leaves = case.leaves()
        with torch.autocast(device.type, torch.bfloat16):
            inside = case(**leaves)
            inside.loss.backward()
        half = case(hidden=case.tensors["hidden"].bfloat16())
        assert torch.equal(inside.loss, half.loss)
        assert inside.loss.dtype == torch.float32
        for key, leaf in leaves.items():
            assert leaf.grad.dtype == torch.float32, key
            if key != "hidden":
                assert not torch.equal(leaf.grad, leaf.grad.bfloat16().float())


def _parameters(device):
    hidden = {"generator": torch.randn(VOCABULARY, WIDTH), "discriminator": torch.randn(VOCABULARY, WIDTH)}
    heads = {
        "weight": torch.randn(VOCABULARY, WIDTH),
        "bias": torch.randn(VOCABULARY),
        "w": torch.randn(WIDTH),
        "b": torch.randn(1),
    }
    return {name: value.to(device).requires_grad_() for name, value in (hidden | heads).items()}


def _joint_step(p, input_ids, maskable, mask_uniforms, uniforms):
    masked = ek.mask_tokens(
        input_ids, maskable, mask_token_id=3, vocab_size=VOCABULARY, uniforms=mask_uniforms
    )
    hidden = ek.gather_rows(p["generator"][masked.input_ids], masked.positions)
    mlm = ek.linear_cross_entropy_sample(hidden, p["weight"], p["bias"], masked.targets, uniforms=uniforms)
    replaced = ek.replace_tokens(input_ids, masked.positions, mlm.tokens)
    rtd = ek.linear_masked_bce(
        p["discriminator"][replaced.input_ids], p["w"], p["b"], replaced.is_replaced, maskable
    )
    return mlm.loss + 50 * rtd.loss


def _joint_step_inputs(device, batch):
    case = build("mask_tokens", device, batch=batch)
    ids, maskable = case.tensors["input_ids"], case.tensors["maskable"]
    return (
        ids,
        maskable,
        ek.draw_uniforms((batch, 3, 2), device=device),
        ek.draw_uniforms((batch, 3), device=device),
    )


@pytest.mark.parametrize("compiler", ["aot_eager", "inductor"])
def test_the_joint_step_compiles_once(device, compiler):
    counter = CompileCounterWithBackend(compiler)
    compiled = torch.compile(_joint_step, fullgraph=True, backend=counter, dynamic=True)
    parameters, compilations = _parameters(device), 0
    for batch in (5, 7, 11):
        inputs = _joint_step_inputs(device, batch)
        results = []
        for step in (compiled, _joint_step):
            loss = step(parameters, *inputs)
            results.append((loss.detach(), *torch.autograd.grad(loss, list(parameters.values()))))
        torch.testing.assert_close(*results)
        compilations = compilations or counter.frame_count
    assert counter.frame_count == compilations


def test_the_joint_step_draws_its_own_uniforms_compiled(device):
    compiled = torch.compile(_joint_step, fullgraph=True, backend="aot_eager")
    ids, maskable, *_ = _joint_step_inputs(device, 4)
    first, second = (compiled(_parameters(device), ids, maskable, None, None) for _ in range(2))
    assert first.isfinite()
    assert first.item() != second.item()


@pytest.mark.parametrize(
    "name", ["sample_tokens", "sample_replacements", "cross_entropy_sample", "masked_bce_with_logits"]
)
def test_inductor_gives_the_same_outputs_and_gradients(device, name):
    """The other four ops are tested in the graph of the joint step."""
    case = build(name, device)
    compiled = replace(case, function=torch.compile(case.function, fullgraph=True))
    torch.testing.assert_close(compiled.outputs_and_gradients(), case.outputs_and_gradients())
