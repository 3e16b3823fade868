import io

import pytest

from electra_kernels.commands.detect import detect, read_lines
from electra_kernels.errors import UserError
from electra_kernels.training.model_folder import Checkpoint, save_checkpoint
from electra_kernels.training.recipe import RECIPES


def stream(data):
    return io.TextIOWrapper(io.BytesIO(data), encoding="ascii")


def test_lines_are_read_as_utf8_in_every_locale():
    assert read_lines(stream("\ufeffdas Haus\n\n  \nist größer\n".encode())) == ["das Haus", "ist größer"]


def test_bytes_that_are_not_utf8_are_reported_with_their_position():
    with pytest.raises(UserError, match=r"standard input: not UTF-8 text \(.* at byte 3\)"):
        read_lines(stream(b"abc\xff"))


def test_a_closed_standard_input_is_reported():
    with pytest.raises(UserError, match="standard input is closed"):
        read_lines(None)


def test_a_text_that_is_not_unicode_is_refused(model, tokenizer, tmp_path):
    save_checkpoint(tmp_path / "model", Checkpoint(model, tokenizer, RECIPES["demo"]))
    with pytest.raises(UserError, match="text 2 is not UTF-8"):
        detect(tmp_path / "model", ["the cat", "the \udcff"])


def test_a_discriminator_of_transformers_detects_as_the_checkpoint_does(model, tokenizer, tmp_path):
    save_checkpoint(tmp_path / "model", Checkpoint(model, tokenizer, RECIPES["demo"]))
    text = "The OLD cat"
    (whole,), (alone,) = (detect(tmp_path / "model" / part, [text]) for part in ("", "discriminator"))
    assert [word[:3] for word in alone] == [("The", 0, 3), ("OLD", 4, 7), ("cat", 8, 11)]
    assert [word.probability for word in alone] == pytest.approx([word.probability for word in whole])
    with pytest.raises(UserError, match="generator cannot be loaded: the checkpoint"):
        detect(tmp_path / "model" / "generator", [text])
