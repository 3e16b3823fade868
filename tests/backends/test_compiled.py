"""Properties of the compiled back end only: levels, exponential, rounding, threads, chunks and refused values."""

import pytest
import torch

import electra_kernels as ek
from electra_kernels import backends, use_backend
from electra_kernels.backends import linear_head, registry
from electra_kernels.backends.implementations import checking_itself
from electra_kernels.backends.table import OPS

LEVELS = backends().levels.get("cpp", ())
ops = torch.ops.electra_kernels

pytestmark = pytest.mark.skipif(not LEVELS, reason=backends().unavailable.get("cpp", ""))


@pytest.fixture(params=LEVELS)
def level(request):
    with use_backend("cpp", isa=request.param):
        yield request.param


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def _inputs(rows=37, vocabulary=3001, dtype=torch.float32):
    torch.manual_seed(0)
    targets = torch.randint(0, vocabulary, (rows,)).masked_fill(torch.rand(rows) < 0.2, -100)
    return torch.randn(rows, vocabulary).to(dtype), targets, torch.rand(rows, dtype=torch.float64)


def test_every_compiled_op_serves_the_cpu():
    serving = backends().serving
    for name in OPS:
        assert serving[name, "cpu"] == "cpp"


def test_the_best_level_serves_unless_another_is_asked_for():
    assert f"cpp: instruction set {LEVELS[0]}" in str(backends())
    with use_backend("cpp"):
        default = registry.implementation("sample_tokens", "cpu")
    assert default is registry.implementation("sample_tokens", "cpu")
    for name in LEVELS:
        with use_backend("cpp", isa=name):
            chosen = registry.implementation("sample_tokens", "cpu")
            assert (chosen is default) == (name == LEVELS[0])


def test_an_unknown_level_is_a_value_error():
    with pytest.raises(ValueError, match="isa is 'mmx', should be '"), use_backend("cpp", isa="mmx"):
        pass
    with (
        pytest.raises(ValueError, match="isa is 'avx2', should be left out for back end 'reference'"),
        use_backend("reference", isa="avx2"),
    ):
        pass


def test_the_backward_runs_at_the_level_of_its_forward(monkeypatch):
    lowest = f"cpp:{LEVELS[-1]}"
    calls = []
    functions = dict(registry._implementations[lowest])
    backward = functions["sample_tokens_backward"]
    functions["sample_tokens_backward"] = lambda *arguments: calls.append(lowest) or backward(*arguments)
    monkeypatch.setitem(registry._implementations, lowest, functions)
    logits = torch.randn(3, 5, requires_grad=True)
    with use_backend("cpp", isa=LEVELS[-1]):
        _, logsumexp = ek.sample_tokens(logits)
    logsumexp.sum().backward()
    assert calls == [lowest]


def _exponential(x):
    """exp(x), as the gradient of a log-sum-exp of 0 with an upstream gradient of 1."""
    return ops.sample_tokens_backward(torch.ones(1), x[None], torch.zeros(1, 2))[0]


def test_the_exponential_is_within_2_ulp(level):
    """Every 1009th float from -0 to -104; below -87.3 the results are denormal."""
    zero, last = (torch.tensor(x).view(torch.int32).item() for x in (-0.0, -104.0))
    x = torch.arange(zero, last, 1009, dtype=torch.int32).view(torch.float32)
    truth = x.double().exp()
    ulp = torch.exp2(truth.log2().floor() - 23).clamp(min=2.0**-149)
    error = (_exponential(x).double() - truth).abs() / ulp
    assert error.max() <= 2, f"{error.max().item()} ulp at {x[error.argmax()].item()!r}"


def test_the_exponential_of_infinity_nan_and_extremes(level):
    x = torch.tensor([-torch.inf, torch.nan, 0.0, -0.0, -1e30, -105.0, 1e-30])
    assert _exponential(x).nan_to_num(nan=7.0).tolist() == [0.0, 7.0, 1.0, 1.0, 0.0, 0.0, 1.0]


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
def test_half_precision_is_rounded_as_torch_rounds(level, half):
    """Every number of the type, times factors that put it between neighbours. AVX-512 BF16 instructions treat denormal
    numbers as zeros."""
    smallest = torch.finfo(half).smallest_normal if (level, half) == ("avx512_bf16", torch.bfloat16) else 0.0
    every = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(half)
    finite = every[every.isfinite()]
    gradient = finite.clone()[None]
    for factor in (1.5, 1 + 2.0**-9, 0.3, 2.0**-5, 2.0**-12, 3e38):
        ours = gradient.clone()
        ops.scale_gradient_(ours, torch.tensor(factor))
        exact = gradient.float() * factor
        assert torch.equal(ours, exact.where(exact.abs() >= smallest, 0.0).to(half))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_results_do_not_depend_on_the_number_of_threads(level, threads, dtype):
    logits, targets, uniforms = _inputs(dtype=dtype)
    results = []
    for count in (1, 2, 5):
        threads(count)
        overwritten = logits.clone()
        arguments = (targets, uniforms, None, -100, "mean", 0.01, 0.8, True)
        *outputs, parts, denominator = ops.cross_entropy_sample(logits, *arguments)
        ops.cross_entropy_sample_(overwritten, *arguments)
        gradient = ops.cross_entropy_sample_backward(
            torch.ones(()), None, logits, targets, parts, denominator, -100, 0.01
        )
        results.append([*outputs, parts, gradient, overwritten])
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other))


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_the_linear_head_gives_the_same_in_chunks(level, monkeypatch, reduction):
    """Seven chunks, the last of which is not full, give the results of one chunk."""
    hidden, weight, bias = torch.randn(400, 8), torch.randn(203, 8), torch.randn(203)
    _, targets, uniforms = _inputs(400, 203)
    results = []
    for most in (64, 512):
        monkeypatch.setattr(linear_head, "MOST_ROWS", most)
        leaves = [value.clone().requires_grad_() for value in (hidden, weight, bias)]
        out = ek.linear_cross_entropy_sample(*leaves, targets, uniforms=uniforms, reduction=reduction)
        out.loss.sum().backward()
        results.append([out.loss, out.tokens, *(leaf.grad for leaf in leaves)])
    for one, other in zip(*results):
        torch.testing.assert_close(one, other)


def test_offsets_beyond_32_bits(level):
    """Two rows 2^31 elements apart. The memory between them is never touched, so the system does not allocate it."""
    memory = torch.empty(2**31 + 1000, dtype=torch.bfloat16)
    rows = memory.as_strided((2, 600), (2**31, 1))
    logits, _, uniforms = _inputs(2, 600, torch.bfloat16)
    rows.copy_(logits)
    expected = ek.sample_tokens(logits, uniforms=uniforms)
    assert all(torch.equal(a, b) for a, b in zip(ek.sample_tokens(rows, uniforms=uniforms), expected))


def test_float64_goes_to_the_reference(level):
    logits, targets, uniforms = _inputs(dtype=torch.float64)
    ours = ek.cross_entropy_sample(logits, targets, uniforms=uniforms)
    with use_backend("reference"):
        expected = ek.cross_entropy_sample(logits, targets, uniforms=uniforms)
    assert ours.loss.dtype == torch.float64
    assert torch.equal(ours.loss, expected.loss)


def test_a_refused_value_is_named_and_nothing_is_written(level):
    logits, targets, uniforms = _inputs()
    targets[5] = 3001
    before = logits.clone()
    with pytest.raises(ValueError, match=r"targets\[5\] is 3001, should be in \[0, 3001\) or ignore_index"):
        ops.cross_entropy_sample_(logits, targets, uniforms, None, -100, "mean", 0.0, 1.0, False)
    assert torch.equal(logits, before)
    uniforms[2] = 1.0
    with pytest.raises(ValueError, match=r"uniforms\[2\] is 1.0, should be in \[0, 1\)"):
        ek.sample_tokens(logits, uniforms=uniforms)
    with pytest.raises(ValueError, match=r"banned\[0\] is 3001, should be below 3001"):
        ek.sample_tokens(logits, banned=torch.full((37,), 3001))


def test_a_kernel_that_fails_is_not_followed_by_another_run(level):
    """A caller that catches, say, an out-of-memory error and tries again must find the logits unchanged."""

    def fail(*arguments):
        raise torch.OutOfMemoryError("no memory")

    run = checking_itself(OPS["cross_entropy_sample_"], fail, 0)
    logits, targets, uniforms = _inputs()
    before = logits.clone()
    with pytest.raises(torch.OutOfMemoryError, match="no memory"):
        run(logits, targets, uniforms, None, -100, "mean", 0.0, 1.0, False)
    assert torch.equal(logits, before)


def test_an_error_that_only_a_kernel_raises_is_not_swallowed():
    op = torch.ops.electra_kernels_cpp.sample_tokens.default
    run = checking_itself(OPS["sample_tokens"], op, 99)
    logits, _, uniforms = _inputs()
    with pytest.raises(RuntimeError, match="no such instruction-set level here"):
        run(logits, None, uniforms, 1.0)
