"""A text in which capitals and commas fall where chance has it, and pairs of words that people mix up."""

import io
import random
import tarfile

import pytest

from electra_kernels.data.text import Corpus, Document
from electra_kernels.data.vocabulary import train_vocabulary
from electra_kernels.evaluation.probing import TASKS, real_word_errors, sentiment

LENGTH = 32
WORDS = "old cat saw small dog near our house while rain fell every green hill that land river stone".split()
CONFUSED = "form from luck look their there quiet quite angel angle desert dessert".split()
PAIRS = [pair for a, b in zip(CONFUSED[::2], CONFUSED[1::2]) for pair in ((a, b), (b, a))]


def _sentence(chance):
    words = chance.choices(WORDS + CONFUSED, k=chance.randrange(8, 14))
    words[0] = words[0].capitalize()
    for index in range(1, len(words)):
        if chance.random() < 0.3 and words[index] not in CONFUSED:
            words[index] = words[index].capitalize()
        if chance.random() < 0.2:
            words[index - 1] += ","
    return " ".join(words) + "."


def _documents(seed, count):
    chance = random.Random(seed)
    return [
        Document(f"{seed} {n}", (" ".join(_sentence(chance) for _ in range(6)), _sentence(chance)))
        for n in range(count)
    ]


@pytest.fixture(scope="session")
def corpus():
    return Corpus(_documents("train", 60), _documents("held out", 30), 0.0)


@pytest.fixture(scope="session")
def tokenizer(corpus):
    # The vocabulary is too small for whole words: many have several pieces.
    return train_vocabulary(corpus.train, 90)


@pytest.fixture(scope="session")
def archive(tmp_path_factory):
    """A package laid out like vaderSentiment's."""
    path = tmp_path_factory.mktemp("package") / "package.tar.gz"
    inner = {}
    for kind in ("tweets", "movieReviewSnippets", "amazonReviewSnippets", "nytEditorialSnippets"):
        chance, per_sentence = random.Random(kind), kind[0] in "tm"
        lines = [
            f"{n}\t{rating}\t{text}" if per_sentence else f"{n // 4}_{n % 4}\t{rating}\t{text}"
            for n, rating, text in (
                (n, round(chance.uniform(-4, 4), 2), _sentence(chance).replace(",", " &amp; "))
                for n in range(80)
            )
        ]
        inner[f"hutto_ICWSM_2014/{kind}_GroundTruth.txt"] = "\n".join(lines).encode()
    outer = {"vaderSentiment-3.3.2/additional_resources/hutto_ICWSM_2014.tar.gz": _tar(inner)}
    path.write_bytes(_tar(outer))
    return path


def _tar(files):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


@pytest.fixture
def offline(archive):
    """Replace the downloads by local material."""
    with pytest.MonkeyPatch.context() as patch:
        _offline(patch, archive)
        yield


@pytest.fixture(scope="session")
def all_tasks(archive, corpus, tokenizer):
    """Name → task; each task is built once."""
    with pytest.MonkeyPatch.context() as patch:
        _offline(patch, archive)
        return {name: build(corpus, tokenizer, LENGTH, 0) for name, build in TASKS.items()}


def _offline(patch, archive):
    patch.setattr(real_word_errors, "fetch_error_pairs", lambda: PAIRS)
    patch.setattr(sentiment, "fetch_package", lambda *package: archive)
