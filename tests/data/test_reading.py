"""Pieces of a file hold each document once; places in messages are places in the file."""

import json
import random

import pytest

from electra_kernels.data import lines, pieces
from electra_kernels.data.inputs import find_inputs
from electra_kernels.data.notes import Notes
from electra_kernels.data.pieces import split_input
from electra_kernels.data.reading import Reader
from electra_kernels.data.text import Document, read_documents
from electra_kernels.errors import UserError


def read_in_pieces(path, size, **options):
    (source,) = find_inputs([path], Notes())
    return [
        document
        for piece in split_input(source, size)
        for document in Reader(Notes(), **options).documents(piece)
    ]


@pytest.fixture
def text(tmp_path):
    """Documents of one to six lines, of any length, with and without characters of several bytes."""
    rng = random.Random(0)
    words = ["a", "cat", "überaus", "東京", "😀", "long" * 20]
    path = tmp_path / "a.txt"
    documents = [
        "\n".join(" ".join(rng.choices(words, k=rng.randrange(1, 30))) for _ in range(rng.randrange(1, 7)))
        for _ in range(200)
    ]
    path.write_bytes(b"\xef\xbb\xbf" + "\n \r\n".join(documents).encode())
    return path


@pytest.mark.parametrize("size", [300, 5000, 50_000])
def test_pieces_of_a_text_have_the_documents_of_the_whole(text, size):
    whole = read_documents([text])
    assert len(whole) == 200
    assert read_in_pieces(text, size) == whole


@pytest.mark.parametrize("size", [1, 100, 10_000])
def test_pieces_of_json_lines_have_the_documents_of_the_whole(tmp_path, size):
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join(json.dumps({"text": "é" * n}, ensure_ascii=n % 2 == 0) for n in range(1, 90)))
    assert [len(each.paragraphs[0]) for each in read_in_pieces(path, size)] == list(range(1, 90))
    assert read_in_pieces(path, size) == read_documents([path])


@pytest.mark.parametrize("size", [1, 200, 10**6])
def test_pieces_of_tables_have_the_rows_of_the_whole(tmp_path, size):
    pyarrow = pytest.importorskip("pyarrow")
    datasets = pytest.importorskip("datasets")
    texts = [f"Text {n}." for n in range(100)]
    pytest.importorskip("pyarrow.parquet").write_table(
        pyarrow.table({"text": texts}), tmp_path / "a.parquet", row_group_size=7
    )
    datasets.Dataset.from_dict({"text": texts}).save_to_disk(tmp_path / "set")
    for name in ("a.parquet", "set"):
        found = read_in_pieces(tmp_path / name, size)
        assert found == [Document(f"{name}#{n}", (text,)) for n, text in enumerate(texts)]


@pytest.mark.parametrize("blank", [" ", "ö"])
def test_a_line_and_a_document_without_end_are_cut(tmp_path, monkeypatch, blank):
    for module in (lines, pieces):
        monkeypatch.setattr(module, "LONGEST", 100)
    content = blank.join(f"word{n}" for n in range(1000))
    (tmp_path / "a.txt").write_text(content)
    for found in (read_documents([tmp_path / "a.txt"]), read_in_pieces(tmp_path / "a.txt", 700)):
        assert all(document.size <= 101 for document in found)
        joined = "".join(text for each in found for text in each.paragraphs)
        assert joined.replace(" ", "") == content.replace(" ", "")
    (tmp_path / "a.txt").write_text("\n".join(f"line {n}" for n in range(1000)))
    found = read_documents([tmp_path / "a.txt"])
    assert all(document.size <= 101 for document in found)
    assert [text for each in found for text in each.paragraphs] == [f"line {n}" for n in range(1000)]


def test_the_place_of_a_bad_byte_is_that_in_the_file(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(b"x \n" * 5000 + b"caf\xe9\n" + b"y\n" * 5000)
    for read in (lambda: read_documents([path]), lambda: read_in_pieces(path, 1000)):
        with pytest.raises(UserError, match=r"a\.txt: not UTF-8 text \(.* at byte 15003\)"):
            read()


def test_lone_surrogates_are_replaced_and_counted_with_their_line(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "fine"}\n{"text": "bad \\ud83d end"}\n')
    log = []
    found = read_documents([tmp_path / "a.jsonl"], log=log.append)
    assert found[1].paragraphs == ("bad \ufffd end",)
    assert log == [
        f"passed over: 1 × record with a lone surrogate, replaced by U+FFFD: {tmp_path}/a.jsonl, line 2"
    ]


def test_wrapped_lines_are_joined_to_paragraphs(tmp_path):
    (tmp_path / "a.txt").write_text("One line\nand its end.\n\nAnother\nparagraph.\n")
    (tmp_path / "b.jsonl").write_text(json.dumps({"text": "One\nline.\n\nTwo."}))
    found = read_documents([tmp_path], wrapped=True)
    assert [each.paragraphs for each in found] == [
        ("One line and its end.", "Another paragraph."),
        ("One line.", "Two."),
    ]


def test_articles_of_wikiextractor_are_documents(tmp_path):
    (tmp_path / "wiki_00").write_text(
        '<doc id="1" url="u" title="A">\nA\n</doc>\n<doc id="2" url="u" title="B">\nB\nMore.\n</doc>\n'
    )
    assert [each.paragraphs for each in read_documents([tmp_path])] == [("A",), ("B", "More.")]


@pytest.mark.parametrize("size", [300, 5000, 1 << 40])
def test_line_ends_of_old_macs_separate_lines_and_documents(text, size):
    whole = read_documents([text])
    text.write_bytes(text.read_bytes().replace(b"\r\n", b"\n").replace(b"\n", b"\r"))
    assert [each.paragraphs for each in read_in_pieces(text, size)] == [each.paragraphs for each in whole]


def test_nul_characters_are_left_out_and_counted(tmp_path):
    (tmp_path / "a.txt").write_bytes("One.\n\nTwo.\n".encode("utf-16-le"))
    (tmp_path / "b.jsonl").write_text('{"text": "Three\\u0000."}\n')
    log = []
    documents = read_documents([tmp_path], log=log.append)
    assert [each.paragraphs for each in documents] == [("One.",), ("Two.",), ("Three.",)]
    assert "5 × text with NUL characters" in log[0]
