import copy
import dataclasses

import pytest
import torch

from electra_kernels.models import Encoder, EncoderConfig
from electra_kernels.models.layers import rotate, rotations

CONFIG = EncoderConfig(100, 16, 32, 2, 4, 64, max_position_embeddings=20)
KINDS = {
    "electra": {},
    "modern": {"family": "modern", "embedding_size": 32},
    "modern-bias": {"family": "modern", "embedding_size": 32, "bias": True},
    "modern-local": {"family": "modern", "embedding_size": 32, "global_every": 2, "local_window": 6},
}
EVERY_KIND = list(KINDS)


def encoder(**changes):
    torch.manual_seed(0)
    module = Encoder(dataclasses.replace(CONFIG, **changes)).eval()
    for parameter in module.parameters():
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    return module


def batch(length=12):
    ids = torch.randint(0, 100, (3, length), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(ids)
    mask[1, 7:] = 0
    mask[2, 1:] = 0
    return ids, mask


def torch_layer(layer):
    """torch.nn's Transformer layer with the weights of our layer."""
    reference = torch.nn.TransformerEncoderLayer(32, 4, 64, 0.0, "gelu", 1e-12, batch_first=True).eval()
    renamed = {
        "self_attn.in_proj_": layer.attention.qkv,
        "self_attn.out_proj.": layer.attention.output,
        "linear1.": layer.intermediate,
        "linear2.": layer.output,
        "norm1.": layer.attention_norm,
        "norm2.": layer.output_norm,
    }
    reference.load_state_dict(
        {
            f"{name}{kind}": getattr(ours, kind)
            for name, ours in renamed.items()
            for kind in ("weight", "bias")
        }
    )
    return reference


def test_layers_equal_torch_transformer_layers():
    ours, (ids, mask) = encoder(), batch()
    hidden = ours.projection(ours.embeddings(ids))
    for layer in ours.layers:
        hidden = torch_layer(layer)(hidden, src_key_padding_mask=mask == 0)
    real = mask.bool()
    assert (hidden - ours(ids, mask))[real].abs().max() <= 2e-6


def test_rotary_positions_rotate_pairs_as_complex_numbers():
    vectors = torch.randn(2, 9, 2, 3, 8, dtype=torch.float64)
    cosine, sine = rotations(9, 8, vectors.device)
    frequencies = 10_000.0 ** (-torch.arange(0, 8, 2, dtype=torch.float64) / 8)
    angles = torch.arange(9, dtype=torch.float64)[:, None, None, None] * frequencies
    turned = torch.complex(*vectors.chunk(2, -1)) * torch.polar(torch.ones_like(angles), angles)
    expected = torch.cat([turned.real, turned.imag], -1)
    assert (rotate(vectors, cosine, sine) - expected).abs().max() <= 2e-6


def test_rotary_attention_depends_on_distances_only():
    query, key = torch.randn(2, 8, generator=torch.Generator().manual_seed(0))
    cosine, sine = rotations(30, 8, query.device)
    queries, keys = (rotate(each.expand(1, 30, 1, 1, 8), cosine, sine)[0, :, 0, 0] for each in (query, key))
    scores = queries @ keys.T
    for distance in (-7, 0, 11):
        assert torch.diagonal(scores, distance).std() <= 1e-4
    assert (scores[0, 0] - scores[0, 11]).abs() > 0.1


@pytest.mark.parametrize("kind", EVERY_KIND)
def test_padding_does_not_change_other_tokens(kind):
    ours, (ids, mask) = encoder(**KINDS[kind]), batch()
    hidden = ours(ids, mask)
    assert torch.isfinite(hidden).all()
    others = ours(ids.where(mask == 1, 99), mask)
    assert torch.equal(others[mask == 1], hidden[mask == 1])
    alone = ours(ids[1:2, :7])
    assert (alone[0] - hidden[1, :7]).abs().max() <= 2e-6


@pytest.mark.parametrize("kind", EVERY_KIND)
def test_the_order_of_the_words_matters(kind):
    ours, (ids, _) = encoder(**KINDS[kind]), batch()
    assert (ours(ids.flip(1)).flip(1) - ours(ids)).abs().max() > 1e-2


@pytest.mark.parametrize(
    "mask", [torch.ones(3, 12, dtype=kind) for kind in (torch.bool, torch.int64, torch.float32)]
)
def test_no_mask_equals_a_mask_of_ones(mask):
    ours, (ids, _) = encoder(), batch()
    assert (ours(ids, mask) - ours(ids)).abs().max() <= 2e-6


def test_a_row_of_only_padding_is_finite():
    ours, (ids, mask) = encoder(), batch()
    mask[0] = 0
    hidden = ours(ids, mask)
    hidden[mask == 1].sum().backward()
    assert torch.isfinite(hidden).all()
    assert all(torch.isfinite(parameter.grad).all() for parameter in ours.parameters())


def test_token_types_default_to_type_0():
    ours, (ids, _) = encoder(), batch()
    assert torch.equal(ours(ids, None, torch.zeros_like(ids)), ours(ids))
    assert (ours(ids, None, torch.ones_like(ids)) - ours(ids)).abs().max() > 1e-2


def test_only_absolute_positions_have_a_limit():
    ids, _ = batch(21)
    with pytest.raises(
        ValueError, match=r"input_ids has shape \[3, 21\], should be \[B, T\] with T at most 20"
    ):
        encoder()(ids)
    rotary = encoder(**KINDS["modern"])
    assert rotary(ids).shape == (3, 21, 32)
    assert "embeddings.position.weight" not in rotary.state_dict()


def test_dropout_is_active_in_training_only_and_can_be_disabled():
    ours, (ids, mask) = encoder(dropout=0.3), batch()
    expected = ours(ids, mask)
    ours.train()
    assert (ours(ids, mask) - ours(ids, mask)).abs().max() > 1e-2
    assert torch.equal(ours(ids, mask, dropout=False), expected)


@pytest.mark.parametrize("family, embedding", [("electra", 64), ("modern", 128)])
def test_weights_are_initialised_as_in_the_original(family, embedding):
    module = Encoder(EncoderConfig(2_000, embedding, 128, 2, 2, 256, family=family))
    for name, parameter in module.named_parameters():
        if "norm" in name:
            assert torch.equal(parameter, torch.full_like(parameter, float(name.endswith("weight"))))
        elif name.endswith("bias"):
            assert parameter.abs().max() == 0
        else:
            # A normal distribution cut at two standard deviations keeps 0.88 of its standard deviation.
            assert parameter.abs().max() <= 0.04
            assert parameter.std().item() == pytest.approx(0.0176, rel=0.15)


def test_embeddings_can_be_shared():
    first = Encoder(CONFIG)
    second = Encoder(dataclasses.replace(CONFIG, hidden_size=8), first.embeddings)
    assert second.embeddings is first.embeddings
    ids, _ = batch()
    assert second(ids).shape == (3, 12, 8)


@pytest.mark.parametrize("kind", EVERY_KIND)
def test_bfloat16_autocast_stays_close(kind):
    ours, (ids, mask) = encoder(**KINDS[kind]), batch()
    with torch.autocast("cpu", torch.bfloat16):
        hidden = ours(ids, mask)
    assert (hidden.float() - ours(ids, mask))[mask == 1].abs().max() <= 0.1


def test_an_encoder_compiles_into_one_graph_under_autocast_and_in_half_precision():
    ours, (ids, mask) = encoder(), batch()
    compiled = torch.compile(ours, fullgraph=True, backend="aot_eager")
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(compiled(ids, mask), ours(ids, mask))
    assert (
        torch.compile(ours.bfloat16(), fullgraph=True, backend="aot_eager")(ids, mask).dtype == torch.bfloat16
    )


@pytest.mark.parametrize("std", [0.02, 0.09])
def test_initial_weights_are_normal_and_cut_at_two_standard_deviations(std):
    torch.manual_seed(0)
    encoder = Encoder(EncoderConfig(500, 64, 128, 1, 2, 256, initializer_range=std))
    for name, parameter in encoder.named_parameters():
        if parameter.dim() >= 2 and parameter.numel() > 1_000:
            assert parameter.abs().max() <= 2 * std, name
            assert parameter.std().item() == pytest.approx(0.88 * std, rel=0.1), name


def packed_batch(*pieces):
    """Ids and segments of rows of 12 with pieces of these lengths, and padding at the end."""
    rows = [[number for number, size in enumerate(row, 1) for _ in range(size)] for row in pieces]
    segments = torch.tensor([row + [0] * (12 - len(row)) for row in rows])
    return torch.randint(0, 100, segments.shape), segments


def states_and_gradients(module, *inputs, **options):
    torch.manual_seed(5)
    module.zero_grad()
    hidden = module(*inputs, **options)
    (hidden * torch.linspace(-1, 1, hidden.numel()).view_as(hidden)).sum().backward()
    return [hidden.detach(), torch.rand(1), *(parameter.grad.clone() for parameter in module.parameters())]


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("kind", EVERY_KIND)
def test_recomputed_layers_change_no_bit(kind, dropout):
    ours = encoder(**KINDS[kind], dropout=dropout).train()
    calls = []
    for layer in ours.layers:
        layer.register_forward_pre_hook(lambda *_: calls.append(1))
    ids, mask = batch()
    packed, segments = packed_batch([5, 4], [12], [3, 3, 6])
    for inputs, options in (((ids, mask), {}), ((ids,), {}), ((packed,), {"segments": segments})):
        expected = states_and_gradients(ours, *inputs, **options)
        calls.clear()
        ours.checkpoint_layers = True
        found = states_and_gradients(ours, *inputs, **options)
        ours.checkpoint_layers = False
        assert len(calls) == 2 * len(ours.layers), "the layers were not computed a second time"
        for one, other in zip(found, expected):
            assert torch.equal(one, other)


def test_recomputed_layers_keep_only_their_input():
    ours, (ids, mask) = encoder().train(), batch()
    sizes = {}
    for ours.checkpoint_layers in (False, True):
        kept = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t, k=kept: k.append(t) or t, lambda t: t):
            ours(ids, mask)
        sizes[ours.checkpoint_layers] = sum(tensor.numel() for tensor in kept)
    assert sizes[True] < sizes[False] / 3


def test_without_gradients_no_layer_is_recomputed():
    ours, (ids, mask) = encoder(), batch()
    ours.checkpoint_layers = True
    with torch.no_grad():
        hidden = ours(ids, mask)
    assert not hidden.requires_grad


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("kind, expected_graphs", [("electra", 1), ("modern", 2), ("modern-local", 2)])
@pytest.mark.parametrize("packed", [False, True])
def test_layers_compile_in_place_once_per_kind_of_layer(packed, kind, expected_graphs, recompute):
    torch._dynamo.reset()
    ours = encoder(**KINDS[kind], dropout=0.1).train()
    ours.checkpoint_layers = recompute
    plain = copy.deepcopy(ours)
    graphs = []

    def backend(graph, _):
        graphs.append(graph)
        return graph

    for layer in ours.layers:
        layer.compile(fullgraph=True, backend=backend)
    for pieces in ([[5, 4], [12]], [[1, 2, 3], [4, 4, 4]], [[12], [7]]):
        ids, segments = packed_batch(*pieces)
        options = {"segments": segments} if packed else {"attention_mask": segments > 0}
        for one, other in zip(
            states_and_gradients(ours, ids, **options), states_and_gradients(plain, ids, **options)
        ):
            assert torch.equal(one, other)
    assert len(graphs) == expected_graphs, "the first modern layer lacks a norm, so it is a graph of its own"


def test_a_modern_encoder_has_no_token_types():
    ours, (ids, _) = encoder(**KINDS["modern"]), batch()
    with pytest.raises(ValueError, match="token_type_ids is given, should be None"):
        ours(ids, None, torch.zeros_like(ids))
