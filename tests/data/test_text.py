import gzip
import json
from pathlib import Path

import pytest

from electra_kernels.data.text import Document, read_documents, split_held_out
from electra_kernels.errors import UserError

TWO_DOCUMENTS = "First paragraph.\nSecond paragraph. \n\n \nAnother document.\n"


def documents(count):
    return [Document(f"document {i}", (f"Paragraph of {i}.", f"More of {i}.")) for i in range(count)]


def test_a_line_is_a_paragraph_and_an_empty_line_ends_a_document(tmp_path):
    (tmp_path / "a.txt").write_text(TWO_DOCUMENTS)
    assert read_documents([tmp_path / "a.txt"]) == [
        Document("a.txt#0", ("First paragraph.", "Second paragraph.")),
        Document("a.txt#39", ("Another document.",)),
    ]


@pytest.mark.parametrize("name", ["a.txt.gz", "a.gz", "a.md.gz"])
def test_compressed_text_reads_like_plain_text(tmp_path, name):
    (tmp_path / name).write_bytes(gzip.compress(TWO_DOCUMENTS.encode(), mtime=0))
    assert [document.paragraphs for document in read_documents([tmp_path / name])] == [
        ("First paragraph.", "Second paragraph."),
        ("Another document.",),
    ]


def test_each_json_line_is_a_document(tmp_path):
    lines = [
        json.dumps({"text": "One.\n\nTwo.", "id": 1}),
        "",
        json.dumps({"text": ""}),
        json.dumps({"text": "ü"}),
    ]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    found = read_documents([tmp_path / "a.jsonl"])
    assert [document.paragraphs for document in found] == [("One.", "Two."), ("ü",)]


def test_a_directory_is_read_recursively_in_order_and_its_parents_do_not_matter(tmp_path):
    for root in ("here", "elsewhere"):
        folder = tmp_path / root / "corpus"
        (folder / "b").mkdir(parents=True)
        (folder / "c.md").write_text("In c.")
        (folder / "b" / "z.txt").write_text("In z.")
        (folder / "a.txt").write_text("In a.")
        (folder / "picture.png").write_bytes(b"\x89PNG")
        (folder / ".hidden.txt").write_text("Hidden.")
    found = read_documents([tmp_path / "here" / "corpus"])
    assert [document.name for document in found] == ["corpus/a.txt#0", "corpus/b/z.txt#0", "corpus/c.md#0"]
    assert found == read_documents([tmp_path / "elsewhere" / "corpus"])


def test_a_byte_order_mark_is_removed(tmp_path):
    (tmp_path / "a.txt").write_text("Text.", encoding="utf-8-sig")
    assert read_documents([tmp_path / "a.txt"])[0].paragraphs == ("Text.",)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b" \n\n", "no text in "),
        ("a.txt", b"\xff\xfe\x00", "a.txt: not UTF-8 text"),
        ("a.pdf", b"%PDF", "a.pdf: not a kind of text file"),
        ("a.txt.gz", b"plain", "a.txt.gz: cannot be read"),
        ("a.txt.gz", gzip.compress(b"cut off in the middle" * 99, mtime=0)[:-9], "a.txt.gz: cannot be read"),
        ("a.jsonl", b'{"text": "fine"}\n{"body": "x"}', 'a.jsonl, line 2: no field "text"'),
        ("a.jsonl", b'["text"]', 'a.jsonl, line 1: no field "text"'),
        ("a.jsonl", b'{"text": 5}', 'a.jsonl, line 1: no field "text"'),
        ("a.jsonl", b"{", "a.jsonl, line 1: not JSON"),
    ],
)
def test_an_unreadable_file_is_reported_in_one_line(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError) as error:
        read_documents([tmp_path / name])
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_missing_path_is_reported():
    with pytest.raises(UserError, match=r"nowhere\.txt: no such file or directory"):
        read_documents([Path("nowhere.txt")])


def test_an_empty_directory_has_no_text(tmp_path):
    with pytest.raises(UserError, match="no text in"):
        read_documents([tmp_path])


def test_a_saved_dataset_needs_the_package_datasets(tmp_path, monkeypatch):
    (tmp_path / "dataset_info.json").write_text("{}")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install datasets"):
        read_documents([tmp_path])


@pytest.fixture
def datasets():
    return pytest.importorskip("datasets")


def test_each_row_of_a_saved_dataset_is_a_document(datasets, tmp_path):
    datasets.Dataset.from_dict({"text": ["One.\nTwo.", None, "Three."]}).save_to_disk(tmp_path / "set")
    found = read_documents([tmp_path / "set"])
    assert found == [Document("set#0", ("One.", "Two.")), Document("set#2", ("Three.",))]


def test_the_split_train_is_read_unless_another_one_is_named(datasets, tmp_path):
    splits = {name: datasets.Dataset.from_dict({"text": [name]}) for name in ("train", "test")}
    datasets.DatasetDict(splits).save_to_disk(tmp_path / "set")
    lines = []
    assert [each.paragraphs for each in read_documents([tmp_path / "set"], log=lines.append)] == [("train",)]
    assert "set/test" in lines[0]
    assert [each.paragraphs for each in read_documents([tmp_path / "set" / "test"])] == [("test",)]


def test_splits_without_train_are_refused(datasets, tmp_path):
    splits = {name: datasets.Dataset.from_dict({"text": [name]}) for name in ("validation", "test")}
    datasets.DatasetDict(splits).save_to_disk(tmp_path / "set")
    with pytest.raises(UserError, match=r"without a split train; give the folder of .* validation, test"):
        read_documents([tmp_path / "set"])


def test_a_saved_dataset_without_text_is_refused(datasets, tmp_path):
    datasets.Dataset.from_dict({"tokens": [1], "label": [0]}).save_to_disk(tmp_path / "set")
    with pytest.raises(UserError, match='no column "text"; it has tokens, label'):
        read_documents([tmp_path / "set"])


def test_about_one_document_in_every_is_held_out():
    corpus = split_held_out(documents(2000), every=20)
    assert 60 <= len(corpus.held_out) <= 140
    assert len(corpus.train) + len(corpus.held_out) == 2000
    assert all(len(document.paragraphs) == 2 for document in corpus.held_out)
    assert corpus.overlap == 0


def test_other_documents_hardly_move_a_document_to_the_other_part():
    few, many = split_held_out(documents(500)), split_held_out(documents(1000)[::-1])
    held_out = {document.name for document in few.held_out}
    among_many = {document.name for document in many.held_out} & {f"document {i}" for i in range(500)}
    assert held_out <= among_many or among_many <= held_out
    assert len(held_out & among_many) >= 0.5 * max(len(held_out), len(among_many))


@pytest.mark.parametrize("count", [2, 3, 5])
@pytest.mark.parametrize("every", [2, 1000])
def test_both_parts_have_a_document_even_if_there_are_few(count, every):
    corpus = split_held_out(documents(count), every)
    assert corpus.train
    assert corpus.held_out


def test_held_out_paragraphs_that_occur_in_training_are_dropped_and_reported():
    shared = [Document(document.name, (*document.paragraphs, "Boilerplate.")) for document in documents(400)]
    corpus = split_held_out(shared)
    assert corpus.overlap == pytest.approx(1 / 3)
    assert all("Boilerplate." not in document.paragraphs for document in corpus.held_out)
    assert all("Boilerplate." in document.paragraphs for document in corpus.train)


def test_the_end_of_a_single_document_is_held_out():
    paragraphs = tuple(f"Paragraph {i}." for i in range(100))
    corpus = split_held_out([Document("only", paragraphs)], every=20)
    assert corpus.train == [Document("only", paragraphs[:95])]
    assert corpus.held_out == [Document("only", paragraphs[95:])]


@pytest.mark.parametrize("paragraphs", [("Alone.",), ("Same.", "Same.")])
def test_too_little_text_to_hold_out_any_is_refused(paragraphs):
    with pytest.raises(UserError, match="too little text"):
        split_held_out([Document("only", paragraphs)])


def test_every_below_two_is_refused():
    with pytest.raises(ValueError, match="every: 1 should be at least 2"):
        split_held_out(documents(3), every=1)
