"""Write a tokenizer as the files that ``transformers.AutoTokenizer`` loads, without transformers."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

from electra_kernels.files import write_whole
from electra_kernels.special_tokens import USUAL_NAMES, missing_roles, special_tokens

if TYPE_CHECKING:
    from tokenizers import Tokenizer


def check_tokenizer(tokenizer: "Tokenizer", vocab_size: int) -> None:
    """Check that a tokenizer fits a model.

    Raises:
        ValueError: it has more than ``vocab_size`` entries, or lacks a special token.
    """
    if tokenizer.get_vocab_size() > vocab_size:
        raise ValueError(
            f"tokenizer has {tokenizer.get_vocab_size()} entries, should have {vocab_size} at most"
        )
    missing = missing_roles(tokenizer)
    if missing:
        expected = ", ".join(usual[0] for usual in USUAL_NAMES.values())
        raise ValueError(
            f"tokenizer has no {', '.join(missing)}, should have {expected} or tokens in their place"
        )


def save_tokenizer(
    tokenizer: "Tokenizer", directory: Path, *, max_length: int | None = None, has_token_types: bool = True
) -> None:
    """Write tokenizer.json and tokenizer_config.json, each whole or not at all.

    Args:
        tokenizer: a tokenizer with special tokens, which are written with their roles.
        directory: an existing folder.
        max_length: the largest number of tokens that the model accepts; None leaves it open.
        has_token_types: whether the model takes token_type_ids, which the tokenizer then returns.
    """
    roles = {f"{role}_token": token for role, token in special_tokens(tokenizer).items()}
    config: dict[str, object] = {"tokenizer_class": "PreTrainedTokenizerFast", **roles}
    if max_length is not None:
        config["model_max_length"] = max_length
    # Without this list transformers 5 returns no token_type_ids for any model.
    types = ["token_type_ids"] if has_token_types else []
    config["model_input_names"] = ["input_ids", *types, "attention_mask"]
    write_whole(directory / "tokenizer_config.json", json.dumps(config, indent=2, sort_keys=True) + "\n")
    write_whole(directory / "tokenizer.json", tokenizer.to_str(pretty=True))
