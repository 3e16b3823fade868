"""Sentences, and the words and punctuation marks in them."""

import re

# Of a sentence that is asked about: shorter ones say too little, longer ones are seldom sentences.
SENTENCE_WORDS = range(6, 41)


def split_words(text: str) -> list[str]:
    """Words and punctuation marks, split where BERT's tokenizer splits them."""
    return re.findall(r"[^\W_]+|[^\w\s]|_", text)


def split_sentences(paragraph: str) -> list[str]:
    """Split after ``.``, ``?`` or ``!`` where a capital letter follows."""
    return re.split(r"(?<=[.?!])\s+(?=[A-Z])", paragraph)
