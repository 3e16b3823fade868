"""The fixtures of a small language (tests/small_language.py), for every test of this folder."""

from small_language import (  # noqa: F401
    corpus,
    counts,
    documents,
    electra_config,
    encoder_config,
    facts,
    held_out,
    model,
    rows,
    tokenizer,
)
