"""The special tokens of a tokenizer, found by their role: padding, unknown, begin, end, mask.

BERT writes ``[CLS]`` where RoBERTa writes ``<s>``. A tokenizer.json does not say which token has which role; the
tokenizer_config.json beside it may.
"""

import json
from collections.abc import Container, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tokenizers import Tokenizer

# The usual names, in the order in which they are tried.
USUAL_NAMES = {
    "pad": ("[PAD]", "<pad>", "<|pad|>", "<|padding|>"),
    "unk": ("[UNK]", "<unk>", "<|unk|>"),
    "cls": ("[CLS]", "<s>", "<cls>", "<bos>", "<|cls|>", "<|startoftext|>"),
    "sep": ("[SEP]", "</s>", "<sep>", "<eos>", "<|sep|>", "<|endoftext|>"),
    "mask": ("[MASK]", "<mask>", "<|mask|>"),
}
_FILES = ("tokenizer_config.json", "special_tokens_map.json")


def special_tokens(tokenizer: "Tokenizer") -> dict[str, str]:
    """Role → token, for the roles that the tokenizer has.

    Names from `read_roles` come first, then the usual names.
    """
    roles = find_roles(tokenizer.get_vocab(), getattr(tokenizer, "role_names", {}))
    unknown = getattr(tokenizer.model, "unk_token", None)
    if "unk" not in roles and unknown and tokenizer.token_to_id(unknown) is not None:
        roles["unk"] = unknown
    return roles


def find_roles(tokens: Container[str], names: dict[str, str] | None = None) -> dict[str, str]:
    """Role → token among ``tokens``. ``names`` come before the usual ones."""
    found = {}
    for role, usual in USUAL_NAMES.items():
        known = [name for name in ((names or {}).get(role), *usual) if name and name in tokens]
        if known:
            found[role] = known[0]
    return found


def missing_roles(tokenizer: "Tokenizer") -> list[str]:
    """BERT's names of the special tokens that a tokenizer lacks. One that can write any text needs no [UNK]."""
    found = special_tokens(tokenizer)
    needed = [role for role in USUAL_NAMES if role != "unk" or not writes_any_text(tokenizer)]
    return [USUAL_NAMES[role][0] for role in needed if role not in found]


def writes_any_text(tokenizer: "Tokenizer") -> bool:
    """Whether the vocabulary has a token for each of the 256 bytes."""
    model = tokenizer.model
    byte_level = "ByteLevel" in repr(tokenizer.pre_tokenizer) or "ByteLevel" in repr(tokenizer.normalizer)
    return byte_level or bool(getattr(model, "byte_fallback", False))


def read_roles(tokenizer: "Tokenizer", folder: Path) -> None:
    """Remember the roles that the files beside a tokenizer.json give.

    Raises:
        ValueError: a file is not JSON.
    """
    names: dict[str, str] = {}
    for file in _FILES:
        if (folder / file).is_file():
            settings = json.loads((folder / file).read_text(encoding="utf-8-sig"))
            names = _names(settings) | names
    remember_roles(tokenizer, names)


def remember_roles(tokenizer: "Tokenizer", names: dict[str, str]) -> None:
    """Let `special_tokens` find these names first."""
    tokenizer.role_names = names  # type: ignore[attr-defined]


def all_special(tokenizer: "Tokenizer") -> Iterable[str]:
    """Every token that is no text: those with a role, and added tokens that are marked as special."""
    added = tokenizer.get_added_tokens_decoder().values()
    return {*special_tokens(tokenizer).values(), *(token.content for token in added if token.special)}


def _names(settings: dict[str, Any]) -> dict[str, str]:
    names = {role: settings.get(f"{role}_token") for role in USUAL_NAMES}
    names["cls"] = names["cls"] or settings.get("bos_token")
    names["sep"] = names["sep"] or settings.get("eos_token")
    plain = {role: name.get("content") if isinstance(name, dict) else name for role, name in names.items()}
    return {role: name for role, name in plain.items() if isinstance(name, str)}
