import threading

import pytest
import torch

import electra_kernels
from electra_kernels import backends, reference, routing, use_backend
from electra_kernels.routing import BACKENDS, register_backend


def test_every_op_is_served_on_every_device():
    report = backends()
    for op in reference.IMPLEMENTATIONS:
        assert report.serving[op, "cpu"] in report.available
        assert report.serving[op, "cuda"] in report.available


def test_every_back_end_is_available_or_says_why_not():
    report = backends()
    for name in BACKENDS:
        assert (name in report.available) != (name in report.unavailable)
    assert all(report.unavailable.values())


def test_the_report_prints_as_a_table_with_the_reasons():
    text = str(backends())
    for op in reference.IMPLEMENTATIONS:
        assert op in text
    for name, reason in backends().unavailable.items():
        assert f"{name}: not available: {reason}" in text


def test_every_registered_op_has_a_reference():
    registered = {
        name.removeprefix("electra_kernels::").removesuffix(".tensors")
        for name in torch._C._dispatch_get_all_op_names()
        if name.startswith("electra_kernels::")
    }
    # Once the integrations are imported, their op is there too, which has no kernels.
    assert registered - {"row_uniforms"} == reference.IMPLEMENTATIONS.keys()


def test_an_unknown_back_end_is_a_value_error():
    with pytest.raises(ValueError, match="name is 'fast', should be one of reference"), use_backend("fast"):
        pass


def test_a_missing_back_end_says_why():
    missing = next(iter(backends().unavailable))
    with pytest.raises(RuntimeError, match=f"'{missing}' is not available"), use_backend(missing):
        pass


def test_a_level_of_a_missing_back_end_says_why_too():
    missing = next(iter(backends().unavailable))
    with pytest.raises(RuntimeError, match=f"'{missing}' is not available"), use_backend(f"{missing}:level"):
        pass


@pytest.fixture
def registered(monkeypatch):
    """A back end that counts the calls of one op, registered for the duration of a test."""
    for table in ("_implementations", "_devices", "_unavailable", "_routes"):
        monkeypatch.setattr(routing, table, dict(getattr(routing, table)))
    calls = []

    def replace_tokens(*arguments):
        calls.append(arguments)
        return reference.IMPLEMENTATIONS["replace_tokens"](*arguments)

    register_backend("cpp", ("cpu",), {"replace_tokens": replace_tokens})
    return calls


def _replace():
    ids = torch.tensor([[5, 6, 7]])
    return electra_kernels.replace_tokens(ids, torch.tensor([[1]]), torch.tensor([[9]]))


def test_a_registered_back_end_serves_what_it_implements(registered):
    assert backends().serving["replace_tokens", "cpu"] == "cpp"
    assert backends().serving["mask_tokens", "cpu"] == "reference"
    assert _replace().input_ids.tolist() == [[5, 9, 7]]
    assert len(registered) == 1


def test_the_choice_holds_for_the_block_and_the_thread(registered):
    with use_backend("reference"):
        _replace()
        other = threading.Thread(target=_replace)
        other.start()
        other.join()
    assert len(registered) == 1, "the other thread is served by default, this one by its choice"
    _replace()
    assert len(registered) == 2


def test_a_chosen_back_end_without_the_op_says_so(registered):
    with use_backend("cpp"), pytest.raises(RuntimeError, match="'cpp' does not implement sample_tokens"):
        electra_kernels.sample_tokens(torch.zeros(2, 3))


def test_the_backward_runs_on_the_back_end_of_its_forward(registered, monkeypatch):
    calls = []

    def backward(*arguments):
        calls.append("cpp")
        return reference.IMPLEMENTATIONS["masked_bce_with_logits_backward"](*arguments)

    forward = reference.IMPLEMENTATIONS["masked_bce_with_logits"]
    register_backend(
        "cpp", ("cpu",), {"masked_bce_with_logits": forward, "masked_bce_with_logits_backward": backward}
    )
    assert routing.current_choice() is None
    logits = torch.zeros(3, requires_grad=True)
    with use_backend("reference"):
        loss = electra_kernels.masked_bce_with_logits(logits, torch.ones(3))
    loss.backward()
    assert calls == []
    electra_kernels.masked_bce_with_logits(logits, torch.ones(3)).backward()
    assert calls == ["cpp"]


def test_an_implementation_of_no_op_is_refused():
    with pytest.raises(ValueError, match=r"implementations: .'sample'. are no ops"):
        register_backend("cpp", ("cpu",), {"sample": lambda: None})


OPS = sorted(reference.IMPLEMENTATIONS)


@pytest.fixture
def on_gpu(registered, monkeypatch):
    """Both back ends for GPUs, which register but do not run."""
    for name in ("cuda", "triton"):
        register_backend(name, ("cuda",), dict.fromkeys(OPS, lambda *arguments: None))
    monkeypatch.setattr(
        routing,
        "_ON_GPU",
        {op: {"order": ["cuda", "triton"], "kind": "predicted"} for op in OPS}
        | {"mask_tokens": {"order": ["triton", "cuda"], "kind": "measured"}},
    )


def test_on_a_gpu_the_table_decides(on_gpu):
    report = backends()
    assert report.serving["mask_tokens", "cuda"] == "triton"
    assert {report.serving[op, "cuda"] for op in OPS if op != "mask_tokens"} == {"cuda"}
    assert report.basis["mask_tokens"] == "measured"
    assert "cuda or triton: the faster one of each op, measured and predicted" in str(report)


def test_without_the_first_the_second_serves(on_gpu):
    del routing._implementations["cuda"]
    assert {backends().serving[op, "cuda"] for op in OPS} == {"triton"}


@pytest.fixture
def one_gpu(on_gpu, monkeypatch):
    """A machine with one GPU, on which the kernels of "cuda" fail as with an older driver; tensors are on the CPU."""
    monkeypatch.setattr(routing, "_probed", {})
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    probe, probes = routing._probe, []

    def probe_on_cpu(implementations, device):
        probes.append(device)
        return probe(implementations, torch.device("cpu"))

    def fail(*arguments):
        raise RuntimeError("CUDA: no kernel image is available for execution on the device\nand more")

    monkeypatch.setattr(routing, "_probe", probe_on_cpu)
    register_backend("cuda", ("cuda",), dict.fromkeys(OPS, fail))
    return probes


def test_a_back_end_whose_kernels_do_not_run_on_a_gpu_serves_nothing_there(one_gpu):
    report = backends()
    assert {report.serving[op, "cuda"] for op in OPS} == {"triton"}
    reason = "on cuda:0: RuntimeError: CUDA: no kernel image is available for execution on the device"
    assert report.unavailable["cuda"] == reason
    assert "cuda" not in report.available
    assert f"cuda: not available: {reason}" in str(report)
    assert (
        routing.implementation("mask_tokens", "cuda", 0) is routing._implementations["triton"]["mask_tokens"]
    )


def test_each_gpu_is_probed_once(one_gpu):
    for gpu in (0, 0, 1, 1):
        for op in OPS:
            routing.implementation(op, "cuda", gpu)
    assert sorted(one_gpu, key=str) == [torch.device("cuda", gpu) for gpu in (0, 0, 1, 1)], (
        "cuda, then triton"
    )


def test_where_no_kernel_runs_the_reference_serves(one_gpu):
    register_backend("triton", ("cuda",), routing._implementations["cuda"])
    assert {backends().serving[op, "cuda"] for op in OPS} == {"reference"}


def test_a_back_end_that_is_asked_for_is_not_probed(one_gpu):
    with use_backend("cuda"), pytest.raises(RuntimeError, match="no kernel image"):
        routing.implementation("replace_tokens", "cuda", 0)()
    assert one_gpu == []
