"""WordPiece vocabularies as BERT's: the tokenizer around one, and its training on a text."""

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from typing import Literal

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from electra_kernels.data.document import Document
from electra_kernels.errors import UserError
from electra_kernels.special_tokens import USUAL_NAMES

LARGEST_SIZE = 2**21  # twice the largest vocabularies in use
SPECIAL_TOKENS = tuple(names[0] for names in USUAL_NAMES.values())
CONTINUATION_PREFIX = "##"
_MIN_FREQUENCY = 2
# Upper limit of the characters in a vocabulary: this number or this share of its size, whichever is larger. The share
# is for Chinese and Japanese.
_ALPHABET_SIZE, _ALPHABET_SHARE = 256, 1 / 4
# WordPiece gives [UNK] for a word of more characters. So longer ones, such as a paragraph of Thai, are cut.
_LONGEST_WORD = 100
_DOTTED = "i\u0307"  # what lower-casing makes of the Turkish capital with a dot
_MARKED_WORD = re.compile(r"[A-Za-z][\u0300-\u036f]\S*")
# In English the share of such words is below 1/1,000, in German, French and Vietnamese above 1/20.
_MARKED_SHARE = 1 / 100

Accents = Literal["keep", "strip Latin", "strip all"]


def train_vocabulary(
    documents: Sequence[Document], size: int, *, cased: bool = False, keep_accents: bool | None = None
) -> Tokenizer:
    """Train a WordPiece vocabulary. The same text and size give the same ids.

    Args:
        documents: the text.
        size: number of entries, special tokens included; a small text gives fewer.
        cased: whether capitals differ from small letters.
        keep_accents: whether Latin letters keep their accents and other marks. None keeps them in a cased vocabulary,
            and if at least one word in a hundred has one, as in Vietnamese, German or French. Marks of other scripts
            are always kept.

    Returns:
        A tokenizer like that of `load_vocabulary`, with [PAD] [UNK] [CLS] [SEP] [MASK] as ids 0 to 4.

    Raises:
        UserError: size has room only for the single characters of the text, or is above LARGEST_SIZE.
    """
    if size > LARGEST_SIZE:  # the trainer reserves memory for all entries at once
        raise UserError(
            f"a vocabulary of {size:,} is too large: it should have at most {LARGEST_SIZE:,} entries"
        )
    paragraphs = [paragraph for document in documents for paragraph in document.paragraphs]
    if keep_accents is None:
        keep_accents = cased or _uses_accents(paragraphs)
    accents: Accents = "keep" if keep_accents else "strip Latin"
    tokenizer = word_piece_tokenizer(_numbered(SPECIAL_TOKENS), lowercase=not cased, accents=accents)
    alphabet, continuations = _alphabet(
        tokenizer, paragraphs, max(_ALPHABET_SIZE, int(_ALPHABET_SHARE * size))
    )
    # The trainer numbers continuing characters in the order of a randomly seeded hash map and breaks ties between
    # merges by these numbers. Special tokens are numbered first, in the order given, so we pass the characters as such.
    first = [*SPECIAL_TOKENS, *continuations]
    if size <= len(first) + len(alphabet):
        raise UserError(
            f"a vocabulary of {size} is too small: the characters alone need {len(first) + len(alphabet)}"
        )
    trainer = trainers.WordPieceTrainer(
        vocab_size=size,
        min_frequency=_MIN_FREQUENCY,
        show_progress=False,
        special_tokens=first,
        initial_alphabet=alphabet,
        limit_alphabet=len(alphabet),
        continuing_subword_prefix=CONTINUATION_PREFIX,
    )
    tokenizer.train_from_iterator(paragraphs, trainer, length=len(paragraphs))
    # The result needs a new tokenizer, because in this one the continuing characters are special tokens.
    return word_piece_tokenizer(tokenizer.get_vocab(), lowercase=not cased, accents=accents)


def word_piece_tokenizer(
    vocabulary: dict[str, int], *, lowercase: bool, accents: Accents, special: Sequence[str] = SPECIAL_TOKENS
) -> Tokenizer:
    """BERT's tokenizer around a vocabulary.

    Args:
        vocabulary: token → id.
        lowercase: whether text is lower-cased.
        accents: which accents and other marks on letters are removed.
        special: the tokens for padding, unknown, begin, end and mask.
    """
    _, unknown, begin, end, _ = special
    tokenizer = Tokenizer(
        models.WordPiece(
            vocabulary,
            unk_token=unknown,
            continuing_subword_prefix=CONTINUATION_PREFIX,
            max_input_chars_per_word=_LONGEST_WORD,
        )
    )
    # A given vocabulary may write the dot above the small letter of a Turkish capital.
    keeps_dot = any(_DOTTED in token for token in vocabulary)
    tokenizer.normalizer = _normalizer(lowercase, accents, keeps_dot)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.BertPreTokenizer(), pre_tokenizers.FixedLength(length=_LONGEST_WORD)]
    )
    tokenizer.decoder = decoders.WordPiece(prefix=CONTINUATION_PREFIX)
    tokenizer.add_special_tokens(list(special))
    # A text that speaks of [PAD] or [SEP] means these characters.
    tokenizer.encode_special_tokens = True
    tokenizer.post_processor = processors.BertProcessing((end, vocabulary[end]), (begin, vocabulary[begin]))
    return tokenizer


def tokenizer_of_tokens(tokens: Sequence[str], special: Sequence[str]) -> Tokenizer:
    """The tokenizer for the lines of a vocab.txt; the entries say what it does with case and accents.

    It lower-cases unless an entry has a capital. It removes accents if no entry has one: those of all scripts, as BERT
    does, or of Latin alone. Entries in brackets say nothing.
    """
    words = [token for token in tokens if (token[:1], token[-1:]) not in (("[", "]"), ("<", ">"))]
    lowercase = all(word == word.lower() for word in words)
    decomposed = [unicodedata.normalize("NFD", word) for word in words if not word.isascii()]
    accents: Accents = "strip all"
    if not lowercase or any(_MARKED_WORD.search(word) for word in decomposed):
        accents = "keep"
    elif any(unicodedata.category(character) == "Mn" for word in decomposed for character in word):
        accents = "strip Latin"
    return word_piece_tokenizer(_numbered(tokens), lowercase=lowercase, accents=accents, special=special)


def _normalizer(lowercase: bool, accents: Accents, keeps_dot: bool) -> normalizers.Normalizer:
    if accents == "strip all":
        return normalizers.BertNormalizer(lowercase=lowercase, strip_accents=True)
    steps: list[normalizers.Normalizer] = [
        normalizers.BertNormalizer(lowercase=lowercase, strip_accents=False)
    ]
    if accents == "strip Latin":
        steps += [normalizers.NFD(), normalizers.Replace(Regex(r"(?<=\p{Latin})\p{M}+"), "")]
    elif lowercase and not keeps_dot:
        steps.append(normalizers.Replace(_DOTTED, "i"))
    return normalizers.Sequence([*steps, normalizers.NFC()])


def _uses_accents(paragraphs: Sequence[str]) -> bool:
    words = marked = 0
    for paragraph in paragraphs:
        words += len(paragraph.split())
        if not paragraph.isascii():
            marked += len(_MARKED_WORD.findall(unicodedata.normalize("NFD", paragraph)))
    return marked >= _MARKED_SHARE * words > 0


def _alphabet(tokenizer: Tokenizer, paragraphs: Sequence[str], limit: int) -> tuple[list[str], list[str]]:
    """The most frequent characters; and, with the prefix, those among them that can continue a word."""
    splitter = pre_tokenizers.BertPreTokenizer()
    counts: Counter[str] = Counter()
    for paragraph in paragraphs:
        counts.update(tokenizer.normalizer.normalize_str(paragraph))
    known = [character for character, n in counts.items() if n >= _MIN_FREQUENCY and not character.isspace()]
    alphabet = sorted(sorted(known, key=lambda character: (-counts[character], character))[:limit])
    # A punctuation mark or an ideograph is always a word by itself.
    inside = [character for character in alphabet if len(splitter.pre_tokenize_str(f"a{character}")) == 1]
    return alphabet, [CONTINUATION_PREFIX + character for character in inside]


def _numbered(tokens: Sequence[str]) -> dict[str, int]:
    return {token: index for index, token in enumerate(tokens)}
