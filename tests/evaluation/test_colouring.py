import torch

from electra_kernels.evaluation.colouring import ScoredToken, score_rows, to_terminal

TOKENS = [
    ScoredToken("a", 0.0),
    ScoredToken("ca", 0.9, "do"),
    ScoredToken("##t", 0.5),
    ScoredToken("<b>", 1.0),
]


def test_pieces_are_joined_into_words():
    assert to_terminal(TOKENS).plain == "a cat <b>"


def test_a_higher_probability_has_a_redder_background():
    styles = [str(span.style) for span in to_terminal(TOKENS).spans]
    assert styles[0].endswith("#ffffff")
    assert styles[-1].endswith("#d64828")
    assert [style.startswith("bold") for style in styles] == [False, True, True, True]


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
