"""Everything of a run that comes from its text."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tokenizers import Tokenizer
from torch import Tensor

from electra_kernels.data.documentation import documentation_text
from electra_kernels.data.rows import Rows, encode_rows, unigram_counts
from electra_kernels.data.text import Corpus, read_documents, split_held_out
from electra_kernels.data.vocabulary import load_vocabulary, train_vocabulary
from electra_kernels.errors import UserError
from electra_kernels.training.objectives import TextFacts, text_facts
from electra_kernels.training.recipe import Recipe


@dataclass(frozen=True)
class Data:
    """Text, vocabulary and rows."""

    corpus: Corpus
    source: str
    tokenizer: Tokenizer
    train: Rows
    held_out: Rows
    counts: Tensor  # [V], of the training text

    @property
    def vocab_size(self) -> int:
        size: int = self.tokenizer.get_vocab_size()
        return size

    @property
    def facts(self) -> TextFacts:
        return text_facts(self.tokenizer, self.counts)


def read_data(
    text: Sequence[Path], vocabulary: Path | None, recipe: Recipe, say: Callable[[str], None]
) -> Data:
    """Read or fetch the text, train or load the vocabulary, encode.

    Args:
        text: files and folders; none: the documentations that are fetched.
        vocabulary: file of a vocabulary, or None to train one of ``recipe.vocab_size``.
        recipe: length of the rows.
        say: called with a line before each step that takes time.

    Raises:
        UserError: the text or the vocabulary cannot be used.
    """
    source = ", ".join(map(str, text)) or "Documentation of Django, SQLAlchemy, Twisted, Celery and Scrapy"
    corpus = split_held_out(read_documents(text) if text else documentation_text(say))
    if vocabulary is not None:
        tokenizer = load_vocabulary(vocabulary)
    else:
        say(f"training a vocabulary of {recipe.vocab_size:,} word pieces on {len(corpus.train):,} documents")
        tokenizer = train_vocabulary(corpus.train, recipe.vocab_size)
    rows = encode_rows(corpus.train, tokenizer, recipe.length)
    held_out = encode_rows(corpus.held_out, tokenizer, recipe.length)
    for name, part in (("training", rows), ("held-out", held_out)):
        if not part.maskable.any():
            raise UserError(f"too little {name} text: no document has enough known words for a row")
    counts = unigram_counts(rows, tokenizer.get_vocab_size())
    say(f"{int(rows.maskable.sum()):,} word pieces to train on, {int(held_out.maskable.sum()):,} held out")
    return Data(corpus, source, tokenizer, rows, held_out, counts)
