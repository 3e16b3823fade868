"""Rules for every objective: its interface, parts that add up, a loss that falls, no trace of an evaluation."""

import copy
import math
from dataclasses import replace

import pytest
import torch

from electra_kernels.data.facts import TextFacts, text_facts
from electra_kernels.data.rows import Rows, spread
from electra_kernels.evaluation.held_out import evaluate_objective
from electra_kernels.models import Encoder
from electra_kernels.training.objectives import (
    OBJECTIVES,
    CorruptedTokens,
    GeneratorObjective,
    TokenBatch,
    means,
    ratio,
    token_batch,
)

CPU = torch.device("cpu")
LENGTH, WORDS = 16, 12


@pytest.fixture(params=OBJECTIVES)
def name(request):
    """The name of an objective."""
    return request.param


@pytest.fixture
def make(name, electra_config, sentences):
    """The objective, the same one at every call."""

    def make(tie="all", dropout=0.0, **options):
        encoder = replace(electra_config.discriminator, dropout=dropout)
        generator = None if tie == "all" else replace(encoder, num_hidden_layers=1)
        config = replace(electra_config, discriminator=encoder, generator=generator, tie=tie)
        torch.manual_seed(0)
        return OBJECTIVES[name](config, sentences[1], **options)

    return make


@pytest.fixture(scope="module")
def sentences(rows, facts):
    """Rows in which every objective has something to learn: sentences that count up, in one of two languages.

    A sentence has four words and a stop, and continues where the last one ended; documents differ in their words.
    """
    generator = torch.Generator().manual_seed(0)
    stop, first, count = 5, 6, 512
    start = torch.randint(WORDS, (count, 1), generator=generator)
    place = torch.arange(LENGTH - 2)
    words = first + (start + place) % WORDS + WORDS * (torch.arange(count) % 2)[:, None]
    text = words.masked_fill(place % 5 == 4, stop)
    special = facts.special_ids
    ends = [torch.full((count, 1), index) for index in (special.cls, special.sep)]
    ids = torch.cat([ends[0], text, ends[1]], 1)
    counts = torch.bincount(text.flatten(), minlength=len(facts.counts))
    return Rows(ids, torch.arange(count), special), TextFacts(counts, special, torch.tensor([stop]))


@pytest.fixture
def tokens(sentences):
    """Eight rows of different lengths from the middle of a run."""
    batch = token_batch(sentences[0], torch.arange(8), CPU)
    padding = torch.arange(LENGTH) >= LENGTH - torch.arange(8)[:, None] % 4
    return batch._replace(
        input_ids=batch.input_ids.masked_fill(padding, sentences[0].special_ids.pad),
        attention_mask=~padding,
        maskable=batch.maskable & ~padding,
        numbers=batch.numbers + 1_000,
    )


def pack(tokens):
    """The rows of `tokens` in pairs, each pair as one row of two pieces with padding at its end."""
    order = (~tokens.attention_mask.view(4, -1)).int().argsort(dim=-1, stable=True)
    ids, mask, maskable = (part.view(4, -1).gather(1, order) for part in tokens[:3])
    segments = torch.tensor([1, 2]).repeat_interleave(LENGTH).expand(4, -1).gather(1, order)
    numbers = tokens.numbers[:4]
    packed = TokenBatch(ids, mask, maskable, tokens.document[::2], numbers, segments.where(mask, 0))
    return TokenBatch(*(torch.cat([part, part]) for part in packed))._replace(numbers=tokens.numbers)


def test_every_objective_has_the_same_interface(make, name, sentences):
    objective = make()
    assert objective.name == name
    assert objective.per in ("token", "row")
    assert all((objective.labels, objective.detects, objective.cannot_detect))
    batch = objective.batch(token_batch(sentences[0], torch.arange(32), CPU), seed=0)
    counts = objective.counts(batch)
    assert counts.dtype == torch.int64
    assert counts.dim() == 1
    loss, metrics = objective(batch, 1.0)
    assert loss.shape == ()
    assert tuple(metrics) == objective.metrics
    for value in metrics.values():
        assert value.shape == (2,)
        assert value.dtype == torch.float64
        assert not value.requires_grad
    loss.backward()
    assert all(parameter.grad is not None for parameter in objective.parameters())


def flat(batch):
    """The tensors of nested named tuples; None is left out."""
    if isinstance(batch, tuple):
        return [tensor for part in batch for tensor in flat(part)]
    return [] if batch is None else [batch]


def cut(batch, rows):
    """The rows of every tensor of nested named tuples."""
    if isinstance(batch, tuple):
        return type(batch)(*(cut(part, rows) for part in batch))
    return None if batch is None else batch[rows]


def gradients(objective, parts, progress):
    """Loss, gradients and metrics of a step over ``parts``, all with the counts of the whole."""
    objective.zero_grad()
    counts = torch.stack([objective.counts(part) for part in parts]).sum(0)
    losses, sums = [], {}
    for part in parts:
        loss, metrics = objective(part, progress, counts)
        loss.backward()
        losses.append(loss.detach().double())
        sums = {metric: sums.get(metric, 0) + value for metric, value in metrics.items()}
    parameters = [p.grad.clone() for p in objective.parameters() if p.grad is not None]
    return sum(losses), parameters, sums


ROWS = [(name, packed) for name, kind in OBJECTIVES.items() for packed in (False, True)[: 1 + kind.packs]]
HEAD_STARTS = [
    {"head_start": 0.5, "head_start_replacements": "unigram"},
    {"head_start": 0.5, "head_start_replacements": None},
    {"unigram_share": 0.5},
]
CASES = [(*rows, {}) for rows in ROWS] + [
    (*rows, options)
    for rows in ROWS
    for options in HEAD_STARTS
    if issubclass(OBJECTIVES[rows[0]], GeneratorObjective)
]


@pytest.mark.parametrize("name, packed, options", CASES, indirect=["name"])
def test_parts_of_a_batch_add_up_to_the_whole(make, name, tokens, packed, options):
    objective = make(**options)
    rows = pack(tokens) if packed else tokens
    whole = objective.batch(rows, seed=5)
    loss, expected, metrics = gradients(objective, [whole], 0.2)
    torch.testing.assert_close(objective(whole, 0.2)[0].detach().double(), loss)
    for sizes in ([4, 4], [2, 2, 2, 2], [5, 3]):
        places = torch.arange(8).split(sizes)
        if name == "next_sentence":  # its candidates are the rows of the same part
            parts = [cut(whole, place) for place in places]
        else:
            parts = [objective.batch(cut(rows, place), seed=5) for place in places]
            for part, place in zip(parts, places):
                assert all(map(torch.equal, flat(part), flat(cut(whole, place))))
        ours, theirs, sums = gradients(objective, parts, 0.2)
        torch.testing.assert_close(ours, loss, rtol=2e-6, atol=0)
        for one, other in zip(theirs, expected, strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=1e-4 * float(other.abs().max()))
        assert sums.keys() == metrics.keys()
        for metric, value in sums.items():
            torch.testing.assert_close(value, metrics[metric], rtol=2e-6, atol=0)


def test_the_batch_follows_from_the_seed_and_the_numbers_of_the_rows(make, tokens):
    objective = make()
    first = objective.batch(tokens, seed=5)
    torch.manual_seed(9)
    state = torch.get_rng_state()
    assert all(map(torch.equal, flat(first), flat(objective.batch(tokens, seed=5))))
    objective(first, 1.0)
    assert torch.equal(torch.get_rng_state(), state), "nothing draws from torch's global generator"
    later = tokens._replace(numbers=tokens.numbers + 8)
    for other in (objective.batch(tokens, seed=6), objective.batch(later, seed=5)):
        assert not all(map(torch.equal, flat(first), flat(other)))


def test_every_encoder_is_told_the_pieces_of_packed_rows(make, tokens):
    objective, told = make("none"), []
    if not objective.packs:
        return
    batch = objective.batch(pack(tokens), seed=5)
    for encoder in (part for part in objective.modules() if isinstance(part, Encoder)):
        encoder.register_forward_hook(
            lambda encoder, inputs, options, output: told.append(options["segments"]), with_kwargs=True
        )
    objective(batch, 1.0)
    assert told
    assert all(torch.equal(segments, pack(tokens).segments) for segments in told)


def test_no_value_is_read_on_the_way_to_the_gradient(make, tokens):
    """On the meta device, which has no values: reading one raises there, and waits for the device on a GPU."""
    objective, meta = make().to("meta"), torch.device("meta")
    batch = objective.batch(tokens.to(meta), seed=5)
    loss, _ = objective(batch, 1.0, objective.counts(batch))
    loss.backward()
    assert loss.device == meta


def test_packed_rows_are_refused_where_a_row_must_be_one_piece(make, tokens):
    objective = make()
    if objective.packs:
        objective.batch(pack(tokens), seed=0)
        return
    with pytest.raises(ValueError, match=f"segments is given, should be None: {objective.name} needs"):
        objective.batch(pack(tokens), seed=0)


def test_a_batch_without_a_label_has_no_loss_and_no_gradient(make, name, tokens):
    """As where all rows of a micro-batch are padding; the whole batch may have labels."""
    empty = tokens._replace(
        attention_mask=torch.zeros_like(tokens.attention_mask), maskable=torch.zeros_like(tokens.maskable)
    )
    objective = make()
    batch = objective.batch(empty, seed=0)
    if name == "corrupted_rows":
        batch = batch._replace(has_label=torch.zeros_like(batch.has_label))  # it labels every row
    loss, metrics = objective(batch, 1.0)
    loss.backward()
    assert loss.item() == 0
    assert all(not parameter.grad.any() for parameter in objective.parameters() if parameter.grad is not None)
    assert all(math.isnan(value) for metric, value in means(metrics).items() if metric != "labelled")


@pytest.mark.parametrize("tie", ["all", "embeddings", "none"])
def test_initial_weights_can_be_copied_into_the_encoder(make, tie, sentences):
    initial = Encoder(make().config.discriminator).state_dict()
    objective = make(tie)
    objective.encoder.load_state_dict(initial)
    batch = objective.batch(token_batch(sentences[0], torch.arange(8), CPU), seed=0)
    objective(batch, 1.0)[0].backward()
    assert all(torch.equal(value, initial[key]) for key, value in objective.encoder.state_dict().items())
    assert all(parameter.grad is not None for parameter in objective.parameters())
    shared = [m for m in objective.modules() if m is objective.encoder.embeddings.word]
    assert len(shared) == 1


def train(objective, tokens, steps, after_step=lambda: None):
    """The metrics of each step of a small training on the same batch."""
    torch.manual_seed(1)
    optimizer = torch.optim.AdamW(objective.train().parameters(), lr=5e-3)
    batch, curve = objective.batch(tokens, seed=0), []
    for _ in range(steps):
        optimizer.zero_grad()
        loss, metrics = objective(batch, 0.3)
        loss.backward()
        optimizer.step()
        curve.append(means(metrics))
        after_step()
    return curve


def test_an_evaluation_leaves_no_trace(make, tokens, sentences):
    objective, few = make(dropout=0.1), spread(sentences[0], 16)

    def evaluate():
        assert evaluate_objective(objective, few).keys() == set(objective.metrics)
        assert objective.training

    curve = train(objective, tokens, 4, evaluate)
    assert repr(curve) == repr(train(make(dropout=0.1), tokens, 4))  # nan equals nan
    assert repr(curve) != repr(train(make(dropout=0.2), tokens, 4))


def test_the_loss_falls(make, sentences):
    """On 16 rows, so few that one label per row suffices. Replacements follow the generator at every step."""
    objective = make()
    name = [metric for metric in objective.metrics if metric.endswith("_loss")][
        -1
    ]  # a generator's comes first
    curve = train(objective, token_batch(sentences[0], torch.arange(16), CPU), 40)
    losses = [metrics[name] for metrics in curve]
    assert sum(losses[-10:]) < 0.8 * sum(losses[:10])


def test_means_divide_sums_and_have_no_value_without_a_denominator():
    sums = {
        "half": ratio(torch.tensor(3), torch.tensor(6)),
        "none": ratio(torch.tensor(0.0), torch.tensor(0)),
    }
    figures = means(sums)
    assert figures["half"] == 0.5
    assert math.isnan(figures["none"])
    assert means({}) == {}


def test_a_token_batch_holds_the_rows_of_its_index(rows):
    index = torch.tensor([5, 2])
    batch = token_batch(rows, index, CPU)
    assert torch.equal(batch.input_ids, rows.input_ids[index])
    assert torch.equal(batch.attention_mask, rows.attention_mask[index])
    assert torch.equal(batch.maskable, rows.maskable[index])
    assert torch.equal(batch.document, rows.document[index])


def test_text_facts_know_sentence_ends_and_continuations(tokenizer, counts):
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.add_tokens(["!", "."])
    facts = text_facts(tokenizer, counts)
    assert sorted(map(tokenizer.id_to_token, facts.sentence_ends.tolist())) == ["!", "."]
    pieces = [tokenizer.id_to_token(index) for index in facts.continuations]
    assert sorted(pieces) == sorted(piece for piece in tokenizer.get_vocab() if piece.startswith("##"))
    assert pieces
    assert facts.special_ids.mask == 4


def test_metrics_of_held_out_rows_are_means_over_what_they_count(held_out, electra_config, facts):
    class Lengths(CorruptedTokens):
        metrics = ("length",)

        def forward(self, batch, progress, counts=None):
            assert progress == 1.0
            assert not self.training
            mask = batch.attention_mask
            return mask.sum(), {"length": ratio(mask.sum(), mask[:, 0].sum())}

    figures = evaluate_objective(Lengths(electra_config, facts), held_out)
    assert figures == {"length": pytest.approx(held_out.attention_mask.sum(-1).double().mean().item())}
