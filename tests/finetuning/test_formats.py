"""Each format is read as its readers elsewhere read it, and is written again with nothing but the predictions added."""

import csv
import gzip
import io
import json

import pytest

from electra_kernels.finetuning.labelled import read_labelled, split_text

CONLL = """-DOCSTART- -X- -X- O

EU NNP B-NP B-ORG
rejects VBZ B-VP O
# # B-NP O

# id 7 domain=en
Łódź NNP B-NP B-LOC


# # B-NP O
1 CD I-NP O
"""
CONLLU = """# sent_id = 1
# text = Vámonos  al mar.
1-2\tVámonos\t_\t_\t_\t_\t_\t_\t_\t_
1\tVamos\tir\tVERB\t_\tMood=Imp\t0\troot\t_\t_
2\tnos\tnosotros\tPRON\t_\t_\t1\tobj\t_\t_
3-4\tal\t_\t_\t_\t_\t_\t_\t_\t_
3\ta\ta\tADP\t_\t_\t5\tcase\t_\t_
4\tel\tel\tDET\t_\t_\t5\tdet\t_\t_
5\tmar\tmar\tNOUN\t_\t_\t1\tobl\t_\tSpaceAfter=No
5.1\tx\tx\tX\t_\t_\t_\t_\t1:dep\t_
6\t.\t.\tPUNCT\t_\t_\t1\tpunct\t_\t_

1\tNew York\tNew York\tPROPN\t_\t_\t0\troot\t_\tSpaceAfter=No
2\t!\t!\tPUNCT\t_\t_\t1\tpunct\t_\t_
"""
TOKENS = """{"id": 1.50, "tokens": ["EU", "rejects"],   "tags": ["B-ORG", "O"]}

 {"tags": ["I-ORG"], "tokens": ["x\\u00e9"], "deep": {"a": [1]}}\t
"""
TEXTS = '{"text": "good, really", "label": 1}\n{"label": 0, "text": "bad"}\n'
CSV = 'id,text,label\n1,"good, ""really""",pos\n2,"two\nlines",neg\n\n3,bad,neg\n'


@pytest.fixture
def write(tmp_path):
    def write(name, content):
        path = tmp_path / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return write


def written(labelled, predicted, tmp_path):
    out = tmp_path / f"out{labelled.suffix}"
    labelled.write(predicted, out)
    return out.read_bytes().decode()


def tags(labelled):
    return [list(example.tags) for example in labelled.examples]


def words(labelled):
    return [list(example.words) for example in labelled.examples]


def check_spans(labelled):
    for example in labelled.examples:
        assert len(example.spaces) == len(example.words)
        assert [example.text[start:end] for start, end in example.spaces] == list(example.words)


def test_conll(write, tmp_path):
    labelled = read_labelled(write("a.conll", CONLL), task="tokens")
    assert words(labelled) == [["EU", "rejects", "#"], ["Łódź"], ["#", "1"]]
    assert tags(labelled) == [["B-ORG", "O", "O"], ["B-LOC"], ["O", "O"]]
    assert [example.line for example in labelled.examples] == [3, 8, 11]
    assert [example.lines for example in labelled.examples] == [(3, 4, 5), (8,), (11, 12)]
    check_spans(labelled)
    lines = written(labelled, [["O", "O", "O"], ["B-ORG"], ["O", "B-X"]], tmp_path).splitlines()
    expected = dict(zip((3, 4, 5, 8, 11, 12), ("O", "O", "O", "B-ORG", "O", "B-X")))
    for number, (before, after) in enumerate(zip(CONLL.splitlines(), lines, strict=True), start=1):
        assert after == (f"{before} {expected[number]}" if number in expected else before)


@pytest.mark.parametrize(
    "column, expected", [(None, "B-ORG"), (2, "NNP"), ("2", "NNP"), ("-3", "NNP"), (-1, "B-ORG")]
)
def test_a_column_of_conll_by_number(write, column, expected):
    labelled = read_labelled(write("a.txt", CONLL), task="tokens", column=column)
    assert labelled.examples[0].tags[0] == expected


def test_a_column_of_conll_by_name(write, tmp_path):
    path = write("a.tsv", "id\tform\tner\tpos\n\n1\tNew York\tB-LOC\tN\n2\t!\tO\tP\n")
    labelled = read_labelled(path, task="tokens", column="ner", text_column="form")
    assert words(labelled) == [["New York", "!"]]
    assert tags(labelled) == [["B-LOC", "O"]]
    assert labelled.examples[0].line == 3
    assert written(labelled, [["O", "O"]], tmp_path) == (
        "id\tform\tner\tpos\tpredicted\n\n1\tNew York\tB-LOC\tN\tO\n2\t!\tO\tP\tO\n"
    )


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize("last", ["", "\n"])
def test_line_ends_and_byte_order_marks_stay(write, tmp_path, end, mark, last):
    content = mark + f"a O\nb X\n\nc O{last}".replace("\n", end)
    labelled = read_labelled(write("a.conll", content), task="tokens")
    assert words(labelled) == [["a", "b"], ["c"]]
    assert tags(labelled) == [["O", "X"], ["O"]]
    expected = mark + f"a O 1\nb X 2\n\nc O 3{last}".replace("\n", end)
    assert written(labelled, [["1", "2"], ["3"]], tmp_path) == expected


def test_a_compressed_file(write):
    labelled = read_labelled(write("a.jsonl.gz", gzip.compress(TOKENS.encode())), task="tokens")
    assert labelled.suffix == ".jsonl"
    assert words(labelled)[0] == ["EU", "rejects"]


@pytest.mark.parametrize("name", ["a.conllu", "a.txt"])
def test_conllu(write, tmp_path, name):
    labelled = read_labelled(write(name, CONLLU), task="tokens")
    assert words(labelled) == [["Vamos", "nos", "a", "el", "mar", "."], ["New York", "!"]]
    assert tags(labelled) == [["VERB", "PRON", "ADP", "DET", "NOUN", "PUNCT"], ["PROPN", "PUNCT"]]
    first, second = labelled.examples
    assert first.text == "Vámonos  al mar."
    assert [first.text[a:b] for a, b in first.spaces] == ["Vámonos", "Vámonos", "al", "al", "mar", "."]
    assert second.text == "New York!"
    assert second.spaces == ((0, 8), (8, 9))
    assert (first.line, second.line) == (4, 13)
    assert written(labelled, tags(labelled), tmp_path) == CONLLU
    changed = written(labelled, [["A"] * 6, ["B", "C"]], tmp_path)
    assert changed == CONLLU.replace("VERB", "A").replace("PRON", "A").replace("ADP", "A").replace(
        "DET", "A"
    ).replace("NOUN", "A").replace("PUNCT", "A", 1).replace("PROPN", "B").replace("PUNCT", "C")


def test_a_text_that_does_not_fit_follows_from_space_after(write):
    labelled = read_labelled(write("a.conllu", CONLLU.replace("text = V", "text = W")), task="tokens")
    assert labelled.examples[0].text == "Vámonos al mar."


def test_columns_of_conllu(write):
    path = write("a.conllu", CONLLU)
    assert tags(read_labelled(path, task="tokens", column="DEPREL"))[1] == ["root", "punct"]
    assert tags(read_labelled(path, task="tokens", column=3))[0][0] == "ir"
    assert tags(read_labelled(path, task="tokens", column="feats"))[0][:2] == ["Mood=Imp", "_"]
    assert words(read_labelled(path, task="tokens", text_column="lemma"))[0][0] == "ir"


def test_json_lines_of_tokens(write, tmp_path):
    labelled = read_labelled(write("a.jsonl", TOKENS), task="tokens")
    assert words(labelled) == [["EU", "rejects"], ["xé"]]
    assert tags(labelled) == [["B-ORG", "O"], ["B-ORG"]]  # repaired
    assert [example.line for example in labelled.examples] == [1, 3]
    result = written(labelled, [["O", "B-É"], ["O"]], tmp_path)
    assert result == TOKENS.replace('"O"]}', '"O"], "predicted": ["O", "B-É"]}').replace(
        "[1]}}", '[1]}, "predicted": ["O"]}'
    )
    again = [json.loads(line) for line in result.splitlines() if line]
    for record, original in zip(again, map(json.loads, filter(None, TOKENS.splitlines()))):
        assert original | {"predicted": record["predicted"]} == record


def test_json_lines_with_a_text_around_the_words(write):
    line = json.dumps({"text": "A (b)", "words": ["A", "(", "b", ")"], "ner_tags": [0, 1, 0, 0]})
    labelled = read_labelled(write("a", line), task="tokens", column="ner_tags", text_column="words")
    assert labelled.examples[0].text == "A (b)"
    assert tags(labelled) == [["0", "1", "0", "0"]]
    check_spans(labelled)


def test_json_lines_of_texts(write, tmp_path):
    labelled = read_labelled(write("a.json", TEXTS), task="sequence")
    assert [(e.text, e.label, e.tags) for e in labelled.examples] == [
        ("good, really", "1", None),
        ("bad", "0", None),
    ]
    assert words(labelled)[0] == ["good", ",", "really"]
    check_spans(labelled)
    records = [json.loads(line) for line in written(labelled, ["0", "none"], tmp_path).splitlines()]
    assert [record["predicted"] for record in records] == [0, "none"]  # integers stay integers


def test_an_older_prediction_is_replaced(write, tmp_path):
    path = write("a.jsonl", '{"text": "a", "predicted": "old", "label": "x"}\n')
    result = written(read_labelled(path, task="sequence"), ["new"], tmp_path)
    assert result == '{"text": "a", "predicted": "new", "label": "x"}\n'


def test_csv(write, tmp_path):
    labelled = read_labelled(write("a.csv", CSV), task="sequence")
    assert [(e.text, e.label, e.line) for e in labelled.examples] == [
        ('good, "really"', "pos", 2), ("two\nlines", "neg", 3), ("bad", "neg", 6)
    ]  # fmt: skip
    result = written(labelled, ["pos", 'a "b", c', "neg"], tmp_path)
    original, rows = (list(csv.reader(io.StringIO(text))) for text in (CSV, result))
    added = iter(["predicted", "pos", 'a "b", c', "neg"])
    assert rows == [row and [*row, next(added)] for row in original]
    assert result.startswith(
        'id,text,label,predicted\n1,"good, ""really""",pos,pos\n2,"two\nlines",neg,"a ""b"", c"\n\n'
    )


@pytest.mark.parametrize("delimiter, name", [(";", "a.csv"), ("\t", "a.tsv")])
def test_other_delimiters(write, tmp_path, delimiter, name):
    content = CSV.replace(",", delimiter).replace('"good;', '"good,')
    labelled = read_labelled(write(name, content), task="sequence", column="label")
    assert [example.label for example in labelled.examples] == ["pos", "neg", "neg"]
    assert f"label{delimiter}predicted" in written(labelled, ["pos", "neg", "neg"], tmp_path)


def test_quotes_of_a_tsv_that_are_letters(write, tmp_path):
    """Files as those of GLUE do not quote: a quote that opens would swallow the rows after it."""
    path = write("a.tsv", '"So what\t0\nhe said "no"\t1\n"Yes" he said\t0\nfine\t1\n')
    labelled = read_labelled(path, task="sequence", column=2, text_column=1)
    assert [example.text for example in labelled.examples] == [
        '"So what',
        'he said "no"',
        '"Yes" he said',
        "fine",
    ]
    assert written(labelled, list("0101"), tmp_path).splitlines()[0] == '"So what\t0\t0'


def test_columns_by_number_have_no_header(write, tmp_path):
    labelled = read_labelled(write("a.csv", "x,good\ny,bad\n"), task="sequence", column="1", text_column="2")
    assert [(example.text, example.label) for example in labelled.examples] == [("good", "x"), ("bad", "y")]
    assert written(labelled, ["y", "x"], tmp_path) == "x,good,y\ny,bad,x\n"


def test_a_saved_dataset(tmp_path):
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(
        {
            "tokens": datasets.Sequence(datasets.Value("string")),
            "ner": datasets.Sequence(datasets.ClassLabel(names=["O", "B-LOC"])),
            "text": datasets.Value("string"),
            "label": datasets.ClassLabel(names=["neg", "pos"]),
        }
    )
    rows = {"tokens": [["Łódź", "!"], ["a"]], "ner": [[1, 0], [0]], "text": ["x", "y z"], "label": [1, 0]}
    datasets.Dataset.from_dict(rows, features=features).save_to_disk(str(tmp_path / "saved"))
    labelled = read_labelled(tmp_path / "saved", task="tokens", column="ner")
    assert words(labelled) == [["Łódź", "!"], ["a"]]
    assert tags(labelled) == [["B-LOC", "O"], ["O"]]
    first = json.loads(written(labelled, [["O", "O"], ["B-LOC"]], tmp_path).splitlines()[0])
    assert first == {"tokens": ["Łódź", "!"], "ner": ["B-LOC", "O"], "predicted": ["O", "O"]}
    labelled = read_labelled(tmp_path / "saved", task="sequence")
    assert [(example.text, example.label) for example in labelled.examples] == [("x", "pos"), ("y z", "neg")]


def test_entities_are_written_in_the_scheme_of_the_file(write, tmp_path):
    labelled = read_labelled(write("a.conll", "a S-X\nb O\n\nc B-X\nd E-X\n"), task="tokens")
    assert tags(labelled) == [["B-X", "O"], ["B-X", "I-X"]]
    assert labelled.notes == (f"{labelled.path}: the entities are in IOBES, read as BIO",)
    assert written(labelled, tags(labelled), tmp_path) == "a S-X S-X\nb O O\n\nc B-X B-X\nd E-X E-X\n"


def test_repaired_tags_are_counted(write):
    labelled = read_labelled(write("a.conll", "a B-X\n\nb O\nc I-X\nd I-Y\n"), task="tokens")
    assert tags(labelled) == [["B-X"], ["O", "B-X", "B-Y"]]
    assert labelled.notes == (
        f"{labelled.path}: 2 tags continue an entity that does not begin (the first near line 3); "
        "each is read as its beginning",
    )


def test_a_text_for_predicting_is_split_where_it_says():
    text = " Don't stop,\tŁódź_x! "
    example = split_text(text, 7)
    assert example.words == ("Don", "'", "t", "stop", ",", "Łódź", "_", "x", "!")
    assert "".join(example.words) == "".join(text.split())
    assert [text[start:end] for start, end in example.spaces] == list(example.words)
    assert (example.text, example.line, example.tags, example.label) == (text, 7, None, None)
