"""`electra_kernels.nn`: the two heads, their parameters, and models that tie or shard them."""

import copy
import math
import pickle
import subprocess
import sys
import warnings
from functools import partial

import pytest
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.utils import parametrize, skip_init

import electra_kernels
from electra_kernels import nn

HEADS = {
    "generator": partial(nn.GeneratorHead, 64, 500),
    "discriminator": partial(nn.DiscriminatorHead, 4096),
}
for_both_heads = pytest.mark.parametrize("make_head", HEADS.values(), ids=HEADS)


def test_ranks_that_share_a_vocabulary_need_the_count_of_their_rows():
    """Without it each rank would divide by its own; in evaluation the ranks do not wait for one another."""
    head = nn.GeneratorHead(8, 20)
    head.mesh = object()
    hidden, targets = torch.randn(3, 8), torch.randint(0, 20, (3,))
    with pytest.raises(ValueError, match="normalizer is None and reduction 'mean', should be a number"):
        head(hidden, targets)
    assert head.eval()(hidden, targets).loss.isfinite()


def test_the_generator_head_calls_the_op_with_its_parameters():
    head = nn.GeneratorHead(8, 20)
    hidden, targets = torch.randn(2, 3, 8), torch.randint(0, 20, (2, 3))
    uniforms = electra_kernels.draw_uniforms((2, 3))
    ours = head(hidden, targets, uniforms=uniforms)
    theirs = electra_kernels.linear_cross_entropy_sample(
        hidden, head.weight, head.bias, targets, uniforms=uniforms
    )
    for one, other in zip(ours, theirs, strict=True):
        assert torch.equal(one, other)


def test_a_tied_weight_is_the_embedding_itself():
    embedding = torch.nn.Embedding(20, 8)
    head = nn.GeneratorHead(8, 20, weight=embedding.weight)
    assert head.weight is embedding.weight
    head(torch.randn(4, 8), torch.randint(0, 20, (4,))).loss.backward()
    assert embedding.weight.grad is not None
    assert head.bias.grad is not None


def test_a_tied_weight_of_another_shape_is_refused():
    with pytest.raises(ValueError, match=r"weight has shape \[20, 9\], should be \[V, E\] = \[20, 8\]"):
        nn.GeneratorHead(8, 20, weight=torch.nn.Embedding(20, 9).weight)


def test_the_discriminator_head_calls_the_op_with_its_parameters():
    head = nn.DiscriminatorHead(8)
    hidden, labels = torch.randn(2, 3, 8), torch.randint(0, 2, (2, 3))
    mask = torch.tensor([[1, 1, 1], [1, 0, 0]])
    ours = head(hidden, labels, mask, label_smoothing=0.1, pos_weight=2.0)
    theirs = electra_kernels.linear_masked_bce(
        hidden, head.weight, head.bias, labels, mask, label_smoothing=0.1, pos_weight=2.0
    )
    for one, other in zip(ours, theirs, strict=True):
        assert torch.equal(one, other)
    ours.loss.backward()
    assert head.weight.grad.shape == (1, 8)
    assert head.bias.grad.shape == (1,)


def test_weights_start_as_in_the_original_electra():
    torch.manual_seed(0)
    for weight in (nn.GeneratorHead(64, 500).weight, nn.DiscriminatorHead(4096).weight):
        assert weight.abs().max() <= 0.04
        assert weight.std().item() == pytest.approx(0.0176, rel=0.1), (
            "should be a normal of 0.02 truncated at 0.04"
        )


def assert_initialised(head):
    """Asserts a bias of 0 and a weight from a normal of 0.02 that is truncated at two standard deviations."""
    weight = head.weight.double()
    assert weight.isfinite().all()
    assert weight.abs().max() <= 0.0401, "should be at most 0.04, rounded to bfloat16"
    assert weight.std().item() == pytest.approx(0.0176, rel=0.1)
    assert not head.bias.any()


@for_both_heads
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_a_head_has_the_dtype_and_device_that_it_is_given(make_head, dtype):
    head = make_head(device="cpu", dtype=dtype)
    assert {parameter.dtype for parameter in head.parameters()} == {dtype}
    assert_initialised(head)
    assert {parameter.device.type for parameter in make_head(device="meta").parameters()} == {"meta"}


@for_both_heads
def test_reset_parameters_initialises_a_head_from_the_meta_device(make_head):
    head = make_head(device="meta").to_empty(device="cpu")
    for parameter in head.parameters():
        torch.nn.init.constant_(parameter, math.nan)
    head.reset_parameters()
    assert_initialised(head)
    assert all(parameter.requires_grad for parameter in head.parameters())


def test_skip_init_makes_a_head():
    head = skip_init(nn.GeneratorHead, 8, 20)
    assert (head.weight.device.type, head.weight.shape) == ("cpu", (20, 8))


@for_both_heads
def test_a_copied_pickled_or_loaded_head_has_the_same_state(make_head):
    head = make_head()
    torch.nn.init.normal_(head.bias)
    loaded = make_head(device="meta").to_empty(device="cpu")
    loaded.load_state_dict(head.state_dict())
    for other in (copy.deepcopy(head), pickle.loads(pickle.dumps(head)), loaded):
        assert list(other.state_dict()) == ["weight", "bias"]
        for name, value in head.state_dict().items():
            assert torch.equal(other.state_dict()[name], value)
        other.reset_parameters()
        assert_initialised(other)
    assert head.bias.any(), "resetting a copy changed the original"


def test_the_repr_of_a_head_shows_its_sizes():
    embedding = torch.nn.Embedding(20, 8)
    assert repr(nn.GeneratorHead(8, 20)) == "GeneratorHead(embedding_size=8, vocab_size=20, tied=False)"
    assert "tied=True" in repr(nn.GeneratorHead(8, 20, weight=embedding.weight))
    assert repr(nn.DiscriminatorHead(8)) == "DiscriminatorHead(hidden_size=8)"


def test_a_head_uses_its_parametrized_weight():
    class Double(torch.nn.Module):
        def forward(self, weight):
            return 2 * weight

    head = nn.GeneratorHead(8, 20)
    original = head.weight
    hidden, targets = torch.randn(4, 8), torch.randint(0, 20, (4,))
    uniforms = electra_kernels.draw_uniforms((4,))
    expected = electra_kernels.linear_cross_entropy_sample(
        hidden, 2 * original.detach(), head.bias.detach(), targets, uniforms=uniforms
    )
    parametrize.register_parametrization(head, "weight", Double())
    ours = head(hidden, targets, uniforms=uniforms)
    assert torch.equal(ours.loss, expected.loss)
    ours.loss.backward()
    assert original.grad is not None


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_the_bias_beside_a_tied_weight_has_the_same_dtype(dtype):
    embedding = torch.nn.Embedding(20, 8, dtype=dtype)
    head = nn.GeneratorHead(8, 20, weight=embedding.weight)
    assert head.bias.dtype == dtype
    head(torch.randn(4, 8, dtype=dtype), torch.randint(0, 20, (4,))).loss.backward()
    assert head.bias.grad.dtype == embedding.weight.grad.dtype == dtype


def test_the_bias_beside_a_tied_weight_is_on_the_same_device():
    embedding = torch.nn.Embedding(20, 8, device="meta")
    assert nn.GeneratorHead(8, 20, weight=embedding.weight).bias.is_meta
    assert nn.GeneratorHead(8, 20, weight=embedding.weight, device="meta").bias.is_meta
    with torch.device("meta"):
        embedding = torch.nn.Embedding(20, 8, device="cpu")
        assert nn.GeneratorHead(8, 20, weight=embedding.weight).bias.device.type == "cpu"


@pytest.mark.parametrize("options", [{"dtype": torch.float64}, {"device": "meta"}])
def test_a_tied_weight_of_another_dtype_or_device_is_refused(options):
    weight = torch.nn.Embedding(20, 8).weight
    with pytest.raises(ValueError, match=r"weight is torch\.float32 on cpu, should be torch\.float.* on"):
        nn.GeneratorHead(8, 20, weight=weight, **options)


@pytest.mark.parametrize("weight", [torch.zeros(20, 8), [[0.0] * 8] * 20], ids=["tensor", "list"])
def test_a_tied_weight_that_is_not_a_parameter_is_refused(weight):
    expected = f"weight is {type(weight).__name__}, should be a torch.nn.Parameter"
    with pytest.raises(TypeError, match=expected):
        nn.GeneratorHead(8, 20, weight=weight)


def test_reset_parameters_leaves_a_tied_weight_alone():
    embedding = torch.nn.Embedding(20, 8, padding_idx=0)
    before = embedding.weight.detach().clone()
    head = nn.GeneratorHead(8, 20, weight=embedding.weight)
    torch.nn.init.ones_(head.bias)
    for other in (head, copy.deepcopy(head), pickle.loads(pickle.dumps(head))):
        other.reset_parameters()
        assert torch.equal(other.weight, before)
        assert not other.bias.any()
    assert torch.equal(embedding.weight, before)


class TiedModel(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = torch.nn.Embedding(20, 8)
        self.generator = nn.GeneratorHead(8, 20, weight=self.embedding.weight)
        self.discriminator = nn.DiscriminatorHead(8)

    def forward(self, ids):
        hidden = self.embedding(ids)
        return self.generator(hidden, ids).loss + self.discriminator(hidden, ids > 9).loss


def reset(model):
    for module in model.modules():
        if callable(getattr(module, "reset_parameters", None)):
            module.reset_parameters()


def test_a_copy_of_a_tied_model_is_tied():
    model = TiedModel()
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert other.generator.weight is other.embedding.weight
        assert other.generator.weight is not model.embedding.weight


def test_a_model_from_the_meta_device_can_be_tied_again():
    with torch.device("meta"):
        model = TiedModel()
    model.to_empty(device="cpu")
    model.generator.weight = model.embedding.weight
    reset(model)
    assert model.embedding.weight.std().item() == pytest.approx(1, rel=0.3), (
        "the embedding should initialise the tied weight"
    )
    model(torch.randint(0, 20, (2, 5))).backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


@pytest.fixture
def mesh():
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield init_device_mesh("cpu", (1,))
    dist.destroy_process_group()


def test_a_sharded_model_from_the_meta_device_is_initialised_and_stays_tied(mesh):
    with torch.device("meta"):
        model = TiedModel()
    fully_shard(model, mesh=mesh)
    model.to_empty(device="cpu")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="DTensor random operators")
        reset(model)
    model(torch.randint(0, 20, (2, 5))).backward()
    assert model.generator.weight is model.embedding.weight
    for parameter in model.parameters():
        assert parameter.full_tensor().isfinite().all()
        assert parameter.grad.full_tensor().isfinite().all()
    assert not model.generator.bias.full_tensor().any()
    assert 0 < model.discriminator.weight.full_tensor().abs().max() <= 0.04


def test_the_generator_head_ignores_targets_of_ignore_index():
    head = nn.GeneratorHead(8, 20)
    hidden, targets = torch.randn(3, 8), torch.tensor([4, -1, 7])
    ours = head(hidden, targets, ignore_index=-1)
    expected = torch.nn.functional.cross_entropy(hidden @ head.weight.T, targets, ignore_index=-1)
    torch.testing.assert_close(ours.loss, expected)
    assert (ours.tokens < 0).tolist() == [False, True, False]


def test_nn_is_loaded_at_its_first_use():
    program = (
        "import sys, electra_kernels; before = 'electra_kernels.nn' in sys.modules; "
        "print(before, electra_kernels.nn.GeneratorHead.__name__)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "GeneratorHead"]
