"""Write a tokenizer as the files that ``transformers.AutoTokenizer`` loads, without transformers."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_SPECIAL = {f"{name}_token": f"[{name.upper()}]" for name in ("pad", "unk", "cls", "sep", "mask")}


def check_tokenizer(tokenizer: "Tokenizer", vocab_size: int) -> None:
    """Check that a tokenizer fits a model.

    Raises:
        ValueError: it has more than ``vocab_size`` entries, or lacks one of BERT's special tokens.
    """
    if tokenizer.get_vocab_size() > vocab_size:
        raise ValueError(
            f"tokenizer has {tokenizer.get_vocab_size()} entries, should have {vocab_size} at most"
        )
    missing = [token for token in _SPECIAL.values() if tokenizer.token_to_id(token) is None]
    if missing:
        raise ValueError(f"tokenizer has no {', '.join(missing)}, should have {', '.join(_SPECIAL.values())}")


def save_tokenizer(tokenizer: "Tokenizer", directory: Path, *, max_length: int) -> None:
    """Write tokenizer.json and tokenizer_config.json.

    Args:
        tokenizer: a tokenizer with BERT's special tokens.
        directory: an existing folder.
        max_length: the largest number of tokens that the model accepts.
    """
    config = {"model_max_length": max_length, "tokenizer_class": "PreTrainedTokenizerFast", **_SPECIAL}
    text = json.dumps(config, indent=2, sort_keys=True)
    (directory / "tokenizer_config.json").write_text(text + "\n", encoding="utf-8")
    (directory / "tokenizer.json").write_text(tokenizer.to_str(pretty=True), encoding="utf-8")
