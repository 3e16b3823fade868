import torch

from electra_kernels.evaluation.colouring import ScoredToken, score_rows, to_terminal
from electra_kernels.evaluation.word_scores import ScoredWord

TEXT = "A  Cat <b>\nx"
WORDS = [ScoredWord("A", 0, 1, 0.0), ScoredWord("Cat", 3, 6, 0.5), ScoredWord("<b>", 7, 10, 1.0)]


def test_a_text_is_shown_as_it_was_written():
    assert to_terminal(TEXT, WORDS).plain == TEXT


def test_a_higher_probability_has_a_redder_background():
    spans = to_terminal(TEXT, WORDS).spans
    styles = [str(span.style) for span in spans]
    assert [(span.start, span.end) for span in spans] == [(0, 1), (3, 6), (7, 10)]
    assert styles[0].endswith("#ffffff")
    assert styles[-1].endswith("#d64828")
    assert [style.startswith("bold") for style in styles] == [False, True, True]
    assert ScoredToken("cat", 1.0).colour == (214, 72, 40)


def test_rows_are_scored_between_cls_and_sep(model, rows, tokenizer):
    original = rows.input_ids[:2]
    replaced = original.clone()
    replaced[0, 3] = original[0, 3] + 1
    scored = score_rows(model.discriminator.eval(), tokenizer, replaced, rows.attention_mask[:2], original)
    assert [len(row) for row in scored] == [int(mask.sum()) - 2 for mask in rows.attention_mask[:2]]
    assert [token.original is not None for token in scored[0]].index(True) == 2
    assert sum(token.original is not None for row in scored for token in row) == 1
    logits = model.discriminator.logits(replaced, rows.attention_mask[:2])
    assert scored[0][0].probability == torch.sigmoid(logits[0, 1]).item()
