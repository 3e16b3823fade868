"""Mistakes in labelled files are one line that names the file, the line and what should be there."""

import gzip
import json
import random

import pytest

from electra_kernels.errors import UserError
from electra_kernels.finetuning.labelled import check_tags, read_labelled

CONLLU_ROW = "1\ta\ta\tNOUN\t_\t_\t0\troot\t_\t_\n"

TOKENS = [
    ("a.conll", "", {}, ": the file is empty"),
    ("a.conll", "\n \n", {}, ": the file is empty"),
    ("a.conll", "-DOCSTART- O\n\n", {}, ": no sentences"),
    ("a.conll", "a X O\nb O\n", {}, ", line 2: 2 columns, should be 3 as in line 1"),
    ("a.conll", "a\tX\tO\nb X O\n", {}, ", line 2: 1 column, should be 3 as in line 1"),
    ("a.conll", "a O\n# late comment\n", {}, ", line 2: 3 columns, should be 2 as in line 1"),
    ("a.conll", "a\tO\nb\t\n", {}, ", line 2: column 2 is empty, should be a tag"),
    ("a.conll", "a\tO\n\tO\n", {}, ", line 2: column 1 is empty, should be a word"),
    (
        "a.conll",
        "a\nb\n",
        {},
        ", line 1: 1 column, should have a word and its tag, separated by a tab or blanks",
    ),
    ("a.conll", "a O\n", {"column": "ner"}, ': no column "ner" in its first row (a, O)'),
    (
        "a.conll",
        "a O\n",
        {"column": 3},
        "--column 3: {path} has 2 columns, should be 1 to 2, or -1 for the last",
    ),
    (
        "a.conll",
        "a O\n",
        {"column": 0},
        "--column 0: {path} has 2 columns, should be 1 to 2, or -1 for the last",
    ),
    (
        "a.conll",
        "token ner\na O\n",
        {},
        ", line 1: looks like a header (token, ner), should be a word: give --column ner",
    ),
    ("a.conll", b"a O\nb\xff O\n", {}, ", line 2: not UTF-8 text (invalid start byte at byte 5); convert it"),
    (
        "a.conll",
        "a O\n".encode("utf-16-le"),
        {},
        ", line 1: a NUL character; UTF-16 should be converted to UTF-8",
    ),
    ("a.conllu", CONLLU_ROW + "2\tb\n", {}, ", line 2: 2 columns separated by tabs, should be 10 in CoNLL-U"),
    ("a.conllu", CONLLU_ROW.replace("NOUN", "_"), {}, ", line 1: no tag: upos is _"),
    (
        "a.conllu",
        CONLLU_ROW.replace("1", "x"),
        {},
        ", line 1: the id is 'x', should be such as 3, 3-4 or 3.1",
    ),
    ("a.conllu", CONLLU_ROW.replace("NOUN", ""), {}, ", line 1: column 4 is empty, should be _ at least"),
    ("a.conllu", "\n" + CONLLU_ROW.replace("1", "1.1"), {}, ", line 2: a sentence without words"),
    (
        "a.conllu",
        CONLLU_ROW,
        {"column": "pos"},
        ': no column "pos" in CoNLL-U (id, form, lemma, upos, xpos, feats, head, deprel, deps, misc)',
    ),
    (
        "a.jsonl",
        '{"tokens": ["a"], "tags": ["O"]}\n{"tokens"\n',
        {},
        ", line 2: not JSON: Expecting ':' delimiter at character 10",
    ),
    ("a.jsonl", '[{"tokens": ["a"], "tags": ["O"]}]', {}, ", line 1: a list, should be an object per line"),
    ("a.jsonl", '{"tokens": ["a"], "ner": ["O"]}', {}, ', line 1: no field "tags"; it has tokens, ner'),
    (
        "a.jsonl",
        '{"tokens": ["a"], "tags": ["O", "O"]}',
        {},
        ", line 1: 2 tags for 1 words, should be one for each",
    ),
    ("a.jsonl", '{"tokens": [], "tags": []}', {}, ", line 1: a sentence without words"),
    (
        "a.jsonl",
        '{"tokens": "a b", "tags": ["O", "O"]}',
        {},
        ', line 1: "tokens" is a string, should be a list of words',
    ),
    (
        "a.jsonl",
        '{"tokens": ["a"], "tags": [0.5]}',
        {},
        ', line 1: "tags" has the number 0.5, should have strings or integers',
    ),
    (
        "a.jsonl",
        '{"tokens": ["a"], "tags": [null]}',
        {},
        ', line 1: "tags" has null, should have strings or integers',
    ),
    (
        "a.csv",
        "a,O\n",
        {},
        ": CSV has a label per text (--task sequence); tags of words should be .tsv or .jsonl",
    ),
    (
        "a.parquet",
        "PAR1",
        {},
        ": .parquet should be CoNLL columns, CoNLL-U, JSON lines, CSV or TSV, or a folder saved by datasets",
    ),
    (
        "a.conll.gz",
        gzip.compress(random.Random(0).randbytes(200), mtime=0)[:90],
        {},
        ": cannot be read: Compressed file ended before the end-of-stream marker was reached",
    ),
]
SEQUENCE = [
    ("a.csv", "text,label\na,x\nb\n", {}, ", line 3: 1 column, should be 2 as in line 1"),
    ("a.csv", "text,label\n", {}, ": no row after the header"),
    ("a.csv", "text,label\n\na,\n", {}, ", line 3: no label in column 2"),
    ("a.csv", "text,label\n ,x\n", {}, ", line 2: no text in column 1"),
    (
        "a.csv",
        "text,class\na,x\n",
        {},
        ': no column "label" in the header (text, class); name it with --column',
    ),
    ("a.csv", 'text,label\n"a,x\nb,y\n', {}, ", line 2: not CSV: unexpected end of data"),
    (
        "a.csv",
        "text,label\na,x\nb,y\nc,x\nd,y\n",
        {"column": 2, "text_column": 1},
        ", line 1: looks like a header (text, label), should be a text: give --column and --text-column as names",
    ),
    (
        "a.jsonl",
        '{"text": "a", "label": "x"}\n{"text": "b"}\n',
        {},
        ', line 2: no field "label"; it has text',
    ),
    ("a.jsonl", '{"text": "a", "label": null}', {}, ', line 1: no field "label"; it has text, label'),
    ("a.jsonl", '{"text": " ", "label": "x"}', {}, ', line 1: "text" is an empty string, should be a text'),
    (
        "a.jsonl",
        '{"text": "a", "label": true}',
        {},
        ', line 1: "label" has the truth value true, should have strings or integers',
    ),
    ("a.conll", "a O\n", {}, ": .conll should be .jsonl, .csv or .tsv for a label per text"),
]


@pytest.mark.parametrize(
    "task, name, content, options, message",
    [("tokens", *case) for case in TOKENS] + [("sequence", *case) for case in SEQUENCE],
)
def test_a_mistake_is_one_line(tmp_path, task, name, content, options, message):
    path = tmp_path / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(UserError) as error:
        read_labelled(path, task=task, **options)
    whole = message if "{path}" in message else "{path}" + message
    assert str(error.value) == whole.replace("{path}", str(path))


def test_a_missing_file(tmp_path):
    with pytest.raises(UserError, match=r"none\.conll: no such file or directory"):
        read_labelled(tmp_path / "none.conll", task="tokens")


def test_folders(tmp_path):
    datasets = pytest.importorskip("datasets")
    with pytest.raises(UserError, match=r"a folder without dataset_info\.json"):
        read_labelled(tmp_path, task="tokens")
    table = datasets.Dataset.from_dict({"text": ["a", "b"], "label": [0, -1]})
    table = table.cast_column("label", datasets.ClassLabel(names=["x", "y"]))
    datasets.DatasetDict({"train": table, "test": table}).save_to_disk(str(tmp_path / "both"))
    with pytest.raises(
        UserError, match=r"holds the splits train, test, should be one of them, such as .*both/train"
    ):
        read_labelled(tmp_path / "both", task="sequence")
    with pytest.raises(UserError, match=r"both/test, row 2: label -1, should be 0 to 1; -1 is no label"):
        read_labelled(tmp_path / "both" / "test", task="sequence")
    with pytest.raises(UserError, match=r'no column "tokens" \(text, label\); name it with --text-column'):
        read_labelled(tmp_path / "both" / "test", task="tokens")


def test_an_unknown_tag_names_its_line(tmp_path):
    path = tmp_path / "test.conll"
    path.write_text("a O\n\nb O\nc B-X\n")
    test = read_labelled(path, task="tokens")
    check_tags(test, {"O", "B-X"})
    with pytest.raises(UserError) as error:
        check_tags(test, ["O", "B-Y"])
    assert str(error.value) == f'{path}, line 4: tag "B-X" does not occur in the training (B-Y, O)'
    path = tmp_path / "test.jsonl"
    path.write_text("\n" + json.dumps({"text": "a", "label": "x"}))
    with pytest.raises(UserError, match=r'line 2: label "x" does not occur in the training \(y\)'):
        check_tags(read_labelled(path, task="sequence"), ["y"])


def test_predictions_are_written_whole_or_not_at_all(tmp_path):
    (tmp_path / "a.conll").write_text("a O\nb X\n")
    labelled = read_labelled(tmp_path / "a.conll", task="tokens")
    out = tmp_path / "out.conll"
    out.write_text("before")
    with pytest.raises(ValueError, match=r"predicted: 1 for 2 of .* should be one for each"):
        labelled.write([["O"]], out)
    with pytest.raises(UserError, match="the tag 'no error' cannot be written in a column"):
        labelled.write([["O", "no error"]], out)
    assert out.read_text() == "before"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.conll", "out.conll"]


def test_an_unknown_task(tmp_path):
    with pytest.raises(ValueError, match='task: "token" should be "tokens" or "sequence"'):
        read_labelled(tmp_path, task="token")
