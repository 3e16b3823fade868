"""Tags of words: which scheme they follow, and entities in BIO and back."""

import re
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from typing import Literal

Scheme = Literal["BIO", "IOB1", "IOBES", "BILOU"]
# Prefixes of each scheme in words of IOBES: begin, inside, end, single.
_LETTERS: dict[str, dict[str, str]] = {
    "BIO": {"B": "B", "I": "I"},
    "IOBES": {"B": "B", "I": "I", "E": "E", "S": "S"},
    "BILOU": {"B": "B", "I": "I", "L": "E", "U": "S"},
}


def scheme_of(tags: Collection[str]) -> Literal["BIO", "binary", "plain"]:
    """Kind of a set of tags.

    Args:
        tags: all tags, as `read_labelled` gives them: entities are in BIO whatever scheme the file has.

    Returns:
        "BIO": each is O, B-TYPE or I-TYPE, and not all are O. "binary": exactly two others. "plain": anything else.
    """
    names = set(tags)
    if _prefixes(names) & {"B", "I"} and _fits(names, "BIO"):
        return "BIO"
    return "binary" if len(names) == 2 else "plain"


def tag_names(tags: Iterable[str]) -> list[str]:
    """All tags in the order of a model's labels: O first, the others sorted.

    For BIO, O and both B-TYPE and I-TYPE of every type: the test may have one of them that the training has not.
    """
    names = set(tags)
    if scheme_of(names) != "BIO":
        return sorted(names, key=lambda name: (name != "O", name))
    types = sorted({name[2:] for name in names if name != "O"})
    return ["O", *(f"{letter}-{kind}" for kind in types for letter in "BI")]


def default_tag(tags: Iterable[str]) -> str:
    """The tag of a word that the model cannot see: O for BIO, otherwise the most frequent one."""
    counts = Counter(tags)
    if scheme_of(counts) == "BIO":
        return "O"
    return max(sorted(counts), key=counts.__getitem__)


def entity_scheme(sentences: Iterable[Sequence[str]]) -> Scheme | None:
    """The scheme in which a file writes entities, or None if its tags are not entities.

    Tags that are in two schemes are BIO. IOB1 writes B- only between two adjacent entities of one type. IOE1 and
    IOE2, which have no B-, are not recognised: their tags are plain.
    """
    sentences = list(sentences)
    names = {tag for tags in sentences for tag in tags}
    letters = _prefixes(names)
    if not letters & {"B", "I", "S", "U"}:
        return None
    if _fits(names, "BIO"):
        return "IOB1" if _is_iob1(sentences) else "BIO"
    if not letters & {"B", "S", "U"}:
        return None
    return "IOBES" if _fits(names, "IOBES") else "BILOU" if _fits(names, "BILOU") else None


def to_bio(tags: Sequence[str], scheme: Scheme) -> tuple[tuple[str, ...], int]:
    """Tags of a sentence in BIO, and the number of tags that had to be repaired.

    A tag that continues an entity where none of its type is open begins one, as in conlleval and in seqeval's default
    mode. In IOB1 that is how entities begin, so it is no repair.
    """
    letters = _LETTERS["BIO" if scheme == "IOB1" else scheme]
    bio, repairs, inside = [], 0, ""
    for tag in tags:
        if tag == "O":
            bio.append(tag)
            inside = ""
            continue
        letter, kind = letters[tag[0]], tag[2:]
        begins = letter in "BS" or kind != inside
        repairs += begins and letter in "IE" and scheme != "IOB1"
        bio.append(f"{'B' if begins else 'I'}-{kind}")
        inside = "" if letter in "ES" else kind
    return tuple(bio), repairs


def from_bio(tags: Sequence[str], scheme: Scheme) -> tuple[str, ...]:
    """Tags of a sentence in another scheme. In BIO they stay as they are; elsewhere they are first repaired."""
    if scheme == "BIO":
        return tuple(tags)
    bio, _ = to_bio(tags, "BIO")
    if scheme == "IOB1":
        return tuple(
            f"I-{tag[2:]}" if tag[:2] == "B-" and (not i or bio[i - 1][2:] != tag[2:]) else tag
            for i, tag in enumerate(bio)
        )
    letters = {common: letter for letter, common in _LETTERS[scheme].items()}
    written = []
    for tag, following in zip(bio, (*bio[1:], "O")):
        last = following != f"I-{tag[2:]}"
        letter = {"B": "S" if last else "B", "I": "E" if last else "I", "O": "O"}[tag[0]]
        written.append(tag if letter == "O" else f"{letters[letter]}-{tag[2:]}")
    return tuple(written)


def _prefixes(tags: Collection[str]) -> set[str]:
    return {tag[0] for tag in tags if re.fullmatch(r"[A-Z]-.+", tag, re.DOTALL)}


def _fits(tags: Collection[str], scheme: str) -> bool:
    letters = _LETTERS[scheme]
    return all(tag == "O" or (tag[0:1] in letters and tag[1:2] == "-" and len(tag) > 2) for tag in tags)


def _is_iob1(sentences: Iterable[Sequence[str]]) -> bool:
    """Whether entities begin with I-, and B- stands only directly after an entity of the same type."""
    begins_inside = False
    for tags in sentences:
        for before, tag in zip(("O", *tags), tags):
            same = before[2:] == tag[2:]
            if tag[:2] == "B-" and not same:
                return False
            begins_inside |= tag[:2] == "I-" and not same
    return begins_inside
