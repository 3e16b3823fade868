"""Makes the fixtures of tests/small_language.py available to the tests of this folder."""

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
