"""Text → sentences → words and punctuation marks."""

import re

# Length of a sentence in an evaluation. Shorter ones give too little context; longer ones are seldom sentences.
SENTENCE_WORDS = range(6, 41)


def split_words(text: str) -> list[str]:
    """Split a text into words and punctuation marks where BERT's tokenizer does."""
    return re.findall(r"[^\W_]+|[^\w\s]|_", text)


def split_sentences(paragraph: str) -> list[str]:
    """Split a paragraph after ``.``, ``?`` or ``!`` if a capital letter follows."""
    return re.split(r"(?<=[.?!])\s+(?=[A-Z])", paragraph)
