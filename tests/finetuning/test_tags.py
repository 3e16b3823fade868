"""Tags in any scheme that seqeval knows become the same entities in BIO, and go back unchanged."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from seqeval.metrics.sequence_labeling import get_entities
from seqeval.scheme import BILOU, IOB1, IOB2, IOBES, Entities, auto_detect

from electra_kernels.finetuning.tags import default_tag, entity_scheme, from_bio, scheme_of, tag_names, to_bio

SEQEVAL = {"BIO": IOB2, "IOB1": IOB1, "IOBES": IOBES, "BILOU": BILOU}

# Sentences of entities (type, words) and gaps of words outside.
sentences = st.lists(st.tuples(st.sampled_from(["", "PER", "LOC", "B-X"]), st.integers(1, 4)), max_size=6)


def bio(parts):
    tags = []
    for kind, size in parts:
        tags += [f"{'I' if i else 'B'}-{kind}" if kind else "O" for i in range(size)]
    return tags


def entities(tags, scheme):
    return [(e.start, e.end, e.tag) for e in Entities([list(tags)], SEQEVAL[scheme]).entities[0]]


@pytest.mark.parametrize("scheme", SEQEVAL)
@settings(deadline=None)
@given(parts=sentences)
def test_seqeval_finds_the_same_entities_in_every_scheme(scheme, parts):
    tags = bio(parts)
    written = from_bio(tags, scheme)
    assert entities(written, scheme) == entities(tags, "BIO")
    assert to_bio(written, scheme) == (tuple(tags), 0)


@pytest.mark.parametrize(
    "scheme, tags",
    [
        ("BIO", "B-A I-A O B-A B-A"),
        ("IOB1", "I-A I-A O I-B B-B O"),
        ("IOBES", "B-A E-A O S-A B-B I-B E-B"),
        ("BILOU", "B-A L-A O U-A B-B I-B L-B"),
    ],
)
def test_the_scheme_is_recognised_as_seqeval_does(scheme, tags):
    tags = tags.split()
    assert entity_scheme([tags]) == scheme
    if scheme != "IOB1":  # seqeval does not detect it
        assert auto_detect([tags]) is SEQEVAL[scheme]


@pytest.mark.parametrize("tags", ["O O", "NOUN VERB", "B I O", "I-A E-A O", "B-A X-A", "B-", "B-A o", "c i"])
def test_other_tags_are_no_entities(tags):
    assert entity_scheme([tags.split()]) is None
    assert scheme_of(tags.split()) != "BIO"


@settings(deadline=None)
@given(st.lists(st.sampled_from(["O", "B-A", "I-A", "I-B"]), max_size=12))
def test_a_tag_that_continues_nothing_begins_an_entity(tags):
    """As in conlleval, whose reading is seqeval's default mode."""
    repaired, count = to_bio(tags, "BIO")
    assert get_entities(list(repaired)) == get_entities(tags)
    assert entities(repaired, "BIO") == [(start, end + 1, kind) for kind, start, end in get_entities(tags)]
    assert count == sum(a != b for a, b in zip(tags, repaired))
    assert to_bio(repaired, "BIO") == (repaired, 0)


@pytest.mark.parametrize(
    "scheme, tags, expected, count",
    [
        ("IOBES", "O E-A I-A S-A I-A", "O B-A B-A B-A B-A", 3),
        ("BILOU", "U-A L-B I-B", "B-A B-B B-B", 2),
    ],
)
def test_repairs_are_counted_in_the_other_schemes(scheme, tags, expected, count):
    assert to_bio(tags.split(), scheme) == (tuple(expected.split()), count)


def test_kinds_of_tags():
    assert scheme_of({"O", "B-A"}) == "BIO"
    assert scheme_of({"B-A", "I-A"}) == "BIO"
    assert scheme_of({"right", "wrong"}) == "binary"
    assert scheme_of({"NOUN", "VERB", "ADJ"}) == "plain"
    assert scheme_of({"O"}) == "plain"


def test_a_model_has_begin_and_inside_of_each_type():
    assert tag_names(["B-PER", "O", "I-LOC"]) == ["O", "B-LOC", "I-LOC", "B-PER", "I-PER"]
    assert tag_names(["VERB", "NOUN", "O-X"]) == ["NOUN", "O-X", "VERB"]


def test_the_tag_of_an_invisible_word():
    assert default_tag(["B-A", "B-A", "O"]) == "O"
    assert default_tag(["NOUN", "VERB", "VERB"]) == "VERB"
    assert default_tag(["b", "a"]) == "a"
