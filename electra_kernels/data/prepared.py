"""All data of a run: text → documents → vocabulary → rows, from files or from the text of the demo."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tokenizers import Tokenizer
from torch import Tensor

from electra_kernels.data.documentation import documentation_text
from electra_kernels.data.facts import TextFacts, text_facts
from electra_kernels.data.rows import Rows, encode_rows, unigram_counts
from electra_kernels.data.text import Corpus, read_documents, split_held_out
from electra_kernels.data.vocabulary import load_vocabulary, train_vocabulary
from electra_kernels.errors import UserError


@dataclass(frozen=True)
class PreparedText:
    """A text with its vocabulary and its rows.

    Attributes:
        corpus: the documents, in a training and a held-out part.
        source: the origin of the text, in words for the report.
        tokenizer: vocabulary of V word pieces.
        train: rows of the training documents.
        held_out: rows of the held-out documents.
        counts: int64 [V], how often each token occurs in the training rows.
    """

    corpus: Corpus
    source: str
    tokenizer: Tokenizer
    train: Rows
    held_out: Rows
    counts: Tensor

    @property
    def vocab_size(self) -> int:
        size: int = self.tokenizer.get_vocab_size()
        return size

    @property
    def facts(self) -> TextFacts:
        return text_facts(self.tokenizer, self.counts)


def prepare_text(
    paths: Sequence[Path],
    vocabulary: Path | None = None,
    *,
    length: int,
    vocab_size: int,
    log: Callable[[str], None] = lambda message: None,
) -> PreparedText:
    """Read or download the text, hold out documents, train or load the vocabulary, and encode the rows.

    Args:
        paths: text files and folders; if empty, the documentation of five Python packages is downloaded.
        vocabulary: file or folder of a vocabulary; None trains one on the training documents.
        length: tokens per row, T.
        vocab_size: entries of the vocabulary that is trained; unused with a given vocabulary.
        log: called with one line before each slow step.

    Raises:
        UserError: the text or the vocabulary cannot be used.
    """
    source = ", ".join(map(str, paths)) or "Documentation of Django, SQLAlchemy, Twisted, Celery and Scrapy"
    corpus = split_held_out(read_documents(paths, log=log) if paths else documentation_text(log))
    if vocabulary is not None:
        tokenizer = load_vocabulary(vocabulary)
    else:
        log(f"training a vocabulary of {vocab_size:,} word pieces on {len(corpus.train):,} documents")
        tokenizer = train_vocabulary(corpus.train, vocab_size)
    train = encode_rows(corpus.train, tokenizer, length)
    held_out = encode_rows(corpus.held_out, tokenizer, length)
    for name, rows in (("training", train), ("held-out", held_out)):
        if not rows.maskable.any():
            raise UserError(f"too little {name} text: no document has enough known words for a row")
    counts = unigram_counts(train, tokenizer.get_vocab_size())
    log(f"{int(train.maskable.sum()):,} word pieces to train on, {int(held_out.maskable.sum()):,} held out")
    return PreparedText(corpus, source, tokenizer, train, held_out, counts)
