"""`benchmarks.predicted_head`: the formulas at limits that are known, and the choice of rows in a chunk."""

import pytest

from benchmarks import predicted_head
from benchmarks.predicted_head import H100, ROWS, VOCAB_SIZE, WIDTHS, Gpu, predict

FAST = 1e30


def test_arithmetic_alone_is_that_of_the_three_products(monkeypatch):
    """2,560 rows are whole tiles of rows; the bias adds its tile of columns to two of the products."""
    monkeypatch.setattr(predicted_head, "LAUNCH_SECONDS", 0)
    gpu = Gpu(1e12, FAST, FAST, 50 << 20, 132)
    for width in WIDTHS:
        expected = 2 * ROWS * VOCAB_SIZE * (3 * width + 2 * 64) / 1e12
        assert predict(gpu, width, 512).total == pytest.approx(expected)
        assert predicted_head.products(gpu, width) == pytest.approx(2 * ROWS * VOCAB_SIZE * 3 * width / 1e12)


def test_memory_alone_is_every_pass_over_the_logits(monkeypatch):
    monkeypatch.setattr(predicted_head, "LAUNCH_SECONDS", 0)
    gpu = Gpu(FAST, 1.0, 1.0, 1, 100_000)
    parts = predict(gpu, 128, ROWS)
    logits, projection, accumulators = (VOCAB_SIZE * n for n in (2 * ROWS, 2 * 136, 4 * 136))
    assert parts.logits == pytest.approx(logits + projection)
    assert parts.hidden == pytest.approx(logits + VOCAB_SIZE * 2 * 128)
    assert parts.parameters == pytest.approx(logits + accumulators)


@pytest.mark.parametrize("width", WIDTHS)
def test_the_chunks_of_the_linear_head_are_predicted_to_be_faster_than_one_wave(width):
    chosen = predict(H100, width, predicted_head.default_rows(H100, width)).total
    assert chosen < predict(H100, width, 384).total
    assert chosen < predict(H100, width, 512).total


def test_the_table_has_a_row_for_every_width_and_chunk():
    lines = list(predicted_head.table())
    assert len({line.count("|") for line in lines}) == 1
    assert sum("**" in line for line in lines) == len(WIDTHS)
