"""A folder that is written here is a model of transformers: weights, options and tokenizer, for each family."""

import dataclasses

import pytest
import torch
from sentence_transformers import SentenceTransformer
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import (
    AutoModel,
    AutoModelForMaskedLM,
    AutoModelForPreTraining,
    AutoModelForTokenClassification,
    AutoTokenizer,
)

from electra_kernels.models import (
    Electra,
    ElectraConfig,
    Encoder,
    EncoderConfig,
    encoder_from_transformers,
    from_transformers,
    read_checkpoint,
    save_transformers,
)

LENGTH, TOLERANCE = 40, 1e-5
# [PAD] is not first, so that an id which is only a default shows.
WORDS = ["the", "list", "[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *map("word{}".format, range(53))]
V, PAD, UNKNOWN, CLS, SEP, MASK = len(WORDS), 2, 3, 4, 5, 6
TEXTS = ["the list", "the list of word7 word8 word52 the the list"]
SQUARE = EncoderConfig(V, 32, 32, 4, 4, 48, max_position_embeddings=64)
MODERN = dataclasses.replace(SQUARE, family="modern", dropout=0.0, layer_norm_eps=1e-5)
CONFIGS = {
    "electra": SQUARE,
    "electra with projection": dataclasses.replace(SQUARE, embedding_size=16, layer_norm_eps=1e-6),
    "modern": MODERN,
    "modern with bias": dataclasses.replace(MODERN, bias=True, dropout=0.1),
    # Rows are longer than the window of 9 tokens. Neither base is a default of transformers.
    "modern with windows": dataclasses.replace(
        MODERN, global_every=3, local_window=8, rotary_base=40_000.0, local_rotary_base=500.0
    ),
}
FOLDERS = pytest.mark.parametrize("name", CONFIGS)


def with_distinct_weights(model):
    """Make all weights different, biases and norms included, so that swapping any two of them shows."""
    for parameter in model.parameters():
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


def pair(name, tie):
    torch.manual_seed(0)
    config = CONFIGS[name]
    generator = (
        None if tie == "all" else dataclasses.replace(config, intermediate_size=40, num_hidden_layers=2)
    )
    return with_distinct_weights(Electra(ElectraConfig(config, generator, MASK, tie=tie)))


def encoder(name):
    torch.manual_seed(0)
    return with_distinct_weights(Encoder(CONFIGS[name]))


@pytest.fixture
def tokenizer():
    words = Tokenizer(models.WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="[UNK]"))
    words.normalizer = normalizers.Lowercase()
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    words.add_special_tokens(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"])
    words.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", CLS), ("[SEP]", SEP)]
    )
    return words


def batch():
    ids = torch.randint(7, V, (3, LENGTH), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(ids)
    mask[1, 25:], mask[2, 7:] = 0, 0
    return ids.where(mask == 1, PAD), mask


def load(auto, folder):
    """Nothing may be missing, and only the base model may leave anything out: the head."""
    theirs, info = auto.from_pretrained(folder, output_loading_info=True)
    heads = (
        "head.",
        "classifier.",
        "decoder.",
        "discriminator_predictions.",
        "generator_predictions.",
        "generator_lm",
    )
    left = info.pop("unexpected_keys")
    assert not any(info.values()), info
    assert all(name.startswith(heads) for name in left) if auto is AutoModel else not left, left
    return theirs.eval()


@torch.no_grad()
def largest_difference(ours, theirs):
    """Over the real tokens of a batch without and with padding."""
    ids, mask = batch()
    differences = []
    for given, real in ((None, torch.ones_like(mask).bool()), (mask, mask.bool())):
        expected = theirs(ids, attention_mask=given)[0]
        got = ours(ids, given).reshape(*ids.shape, -1)
        differences.append((got - expected.reshape(*ids.shape, -1))[real].abs().max().item())
    return max(differences)


@pytest.mark.parametrize("tie", ["all", "embeddings", "none"])
@FOLDERS
def test_both_models_load_with_equal_outputs(name, tie, tokenizer, tmp_path):
    ours = pair(name, tie)
    save_transformers(ours, tmp_path, tokenizer=tokenizer)
    detector, proposer = tmp_path / "discriminator", tmp_path / "generator"
    family = ours.config.discriminator.family
    detection = AutoModelForPreTraining if family == "electra" else AutoModelForTokenClassification
    for auto, folder, part in (
        (detection, detector, ours.discriminator.logits),
        (AutoModelForMaskedLM, proposer, ours.generator.logits),
        (AutoModel, detector, ours.discriminator.encoder),
        (AutoModel, proposer, ours.generator.encoder),
    ):
        assert largest_difference(part, load(auto, folder)) <= TOLERANCE, auto
    assert load(AutoModel, detector).config.pad_token_id == PAD


@pytest.mark.parametrize("tie", ["all", "embeddings", "none"])
@FOLDERS
def test_both_models_come_back_as_they_were(name, tie, tmp_path):
    ours = pair(name, tie)
    save_transformers(ours, tmp_path)
    parts = [read_checkpoint(tmp_path / part) for part in ("discriminator", "generator")]
    back = from_transformers(*parts, mask_token_id=MASK)
    assert back.config == ours.config
    expected = ours.state_dict()
    assert back.state_dict().keys() == expected.keys()
    assert all(torch.equal(tensor, expected[key]) for key, tensor in back.state_dict().items())


@FOLDERS
def test_a_bare_encoder_loads_and_comes_back(name, tokenizer, tmp_path):
    ours = encoder(name)
    save_transformers(ours, tmp_path, tokenizer=tokenizer)
    theirs = load(AutoModel, tmp_path / "encoder")
    assert largest_difference(ours, theirs) <= TOLERANCE
    back = encoder_from_transformers(read_checkpoint(tmp_path / "encoder"))
    assert back.config == ours.config
    assert all(torch.equal(tensor, ours.state_dict()[key]) for key, tensor in back.state_dict().items())


@pytest.mark.parametrize(
    "change",
    [{"local_window": 10}, {"global_every": 2}, {"local_rotary_base": 400.0}, {"rotary_base": 10_000.0}],
)
def test_another_window_period_or_base_would_show(change, tmp_path):
    """The comparison above can fail."""
    ours = encoder("modern with windows")
    save_transformers(ours, tmp_path)
    other = Encoder(dataclasses.replace(ours.config, **change)).eval()
    other.load_state_dict(ours.state_dict())
    assert largest_difference(other, load(AutoModel, tmp_path / "encoder")) > 1e-3


@pytest.mark.parametrize("window", [1, 2, 9])
def test_a_window_has_the_width_of_transformers(window, tmp_path):
    torch.manual_seed(0)
    config = dataclasses.replace(CONFIGS["modern with windows"], local_window=window)
    ours = with_distinct_weights(Encoder(config))
    save_transformers(ours, tmp_path)
    assert largest_difference(ours, load(AutoModel, tmp_path / "encoder")) <= TOLERANCE


@FOLDERS
def test_the_tokenizer_knows_its_special_tokens_and_fits_the_model(name, tokenizer, tmp_path):
    ours = encoder(name)
    save_transformers(ours, tmp_path, tokenizer=tokenizer)
    loaded = AutoTokenizer.from_pretrained(tmp_path / "encoder")
    for role, index in {"pad": PAD, "unk": UNKNOWN, "cls": CLS, "sep": SEP, "mask": MASK}.items():
        assert getattr(loaded, f"{role}_token") == WORDS[index]
        assert getattr(loaded, f"{role}_token_id") == index
    tokens = loaded(TEXTS, padding=True, return_tensors="pt")
    assert tokens["input_ids"][0].tolist() == [CLS, 0, 1, SEP, *[PAD] * 7]
    assert UNKNOWN in tokens["input_ids"][1]  # "of"
    assert ("token_type_ids" in tokens) == (ours.config.family == "electra")
    with torch.no_grad():
        theirs = load(AutoModel, tmp_path / "encoder")(**tokens).last_hidden_state
        difference = (ours(tokens["input_ids"], tokens["attention_mask"]) - theirs).abs()
    assert difference[tokens["attention_mask"].bool()].max() <= TOLERANCE


@FOLDERS
def test_sentence_transformers_averages_the_hidden_states(name, tokenizer, tmp_path):
    ours = encoder(name)
    save_transformers(ours, tmp_path, tokenizer=tokenizer)
    vectors = SentenceTransformer(str(tmp_path / "encoder"), device="cpu").encode(TEXTS)
    for text, vector in zip(TEXTS, vectors, strict=True):
        with torch.no_grad():
            expected = ours(torch.tensor([tokenizer.encode(text).ids])).mean(1)[0]
        assert (torch.from_numpy(vector) - expected).abs().max() <= TOLERANCE


def test_a_given_state_is_written_instead_of_the_models(tmp_path):
    """The model may be sharded, or on no device at all."""
    ours = pair("modern with bias", "embeddings")
    with torch.device("meta"):
        shape = Electra(ours.config)
    save_transformers(shape, tmp_path / "given", state=ours.state_dict())
    save_transformers(ours, tmp_path / "own")
    for part in ("discriminator", "generator"):
        given, own = (read_checkpoint(tmp_path / kind / part) for kind in ("given", "own"))
        assert given.config == own.config
        assert given.state.keys() == own.state.keys()
        assert all(torch.equal(tensor, own.state[name]) for name, tensor in given.state.items())
