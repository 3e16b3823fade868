"""Which files are read, under which names, and what is said about the others."""

import gzip
import io
import json
import os
import tarfile

import pytest

from electra_kernels.data.inputs import find_inputs, read_standard_input
from electra_kernels.data.notes import Notes
from electra_kernels.data.text import read_documents
from electra_kernels.errors import UserError

zstandard = pytest.importorskip("zstandard")


def found(*paths):
    notes = Notes()
    return {each.name: each.kind for each in find_inputs(paths, notes)}, {
        kind: count for kind, (count, _) in notes.kinds.items()
    }


def paragraphs(path, **options):
    return [each.paragraphs for each in read_documents([path], **options)]


def test_suffixes_in_any_case_and_files_without_a_suffix_are_read(tmp_path):
    for name in ("a.txt", "B.TXT", "wiki_00", "part.00001-of-00002", "C.Md.GZ"):
        content = f"In {name}.".encode()
        (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith("GZ") else content)
    names, skipped = found(tmp_path)
    root = tmp_path.name
    assert names == {f"{root}/{name}": "text" for name in sorted(os.listdir(tmp_path))}
    assert not skipped
    assert len(read_documents([tmp_path])) == 5


def test_files_passed_over_are_counted_by_kind_and_named(tmp_path):
    (tmp_path / "a.txt").write_text("Text.")
    (tmp_path / "binary").write_bytes(b"\x00\x01")
    (tmp_path / ".hidden").write_text("x")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    (tmp_path / "settings.json").write_text('{\n  "a": 1\n}')
    for name in ("a.png", "b.png", "c.png", "d.PNG", "x.tar.gz", "y.zip"):
        (tmp_path / name).write_bytes(b"?")
    names, skipped = found(tmp_path)
    assert list(names) == [f"{tmp_path.name}/a.txt"]
    assert skipped == {
        ".png file": 4,
        "archive": 2,
        "file without a suffix that is not UTF-8 text": 1,
        "hidden file or folder": 1,
        "broken link, or no regular file": 1,
        ".json file that is not one object per line": 1,
    }
    lines = []
    read_documents([tmp_path], log=lines.append)
    assert f"passed over: 4 × .png file: {tmp_path}/a.png, {tmp_path}/b.png, {tmp_path}/c.png, …" in lines


@pytest.mark.parametrize("name", ["x.tar.gz", "x.tgz", "x.zip", "x.html", "x.csv"])
def test_a_named_file_that_is_no_text_is_refused(tmp_path, name):
    with tarfile.open(tmp_path / name, "w:gz") as archive:
        archive.addfile(tarfile.TarInfo("a.txt"), io.BytesIO())
    with pytest.raises(UserError, match=rf"{name}: not a kind of text file .*; should be \.txt"):
        read_documents([tmp_path / name])


def test_a_named_text_with_an_unknown_suffix_is_read(tmp_path):
    (tmp_path / "wiki.train.tokens").write_text("Text.")
    assert paragraphs(tmp_path / "wiki.train.tokens") == [("Text.",)]


def test_json_lines_may_be_called_json(tmp_path):
    line = json.dumps({"text": "One.\nTwo.", "timestamp": "2019", "url": "https://example.org"})
    (tmp_path / "c4-train.00000-of-01024.json.gz").write_bytes(gzip.compress(line.encode()))
    (tmp_path / "part_0").write_text(line)
    assert paragraphs(tmp_path) == [("One.", "Two.")] * 2


@pytest.mark.parametrize("compress", [gzip.compress, zstandard.compress])
def test_each_format_may_be_compressed(tmp_path, compress):
    suffix = ".gz" if compress is gzip.compress else ".zst"
    pyarrow = pytest.importorskip("pyarrow.parquet")
    table = pytest.importorskip("pyarrow").table({"body": ["In a table.", None, ""], "id": [1, 2, 3]})
    pyarrow.write_table(table, tmp_path / "plain.parquet")
    (tmp_path / f"a.parquet{suffix}").write_bytes(compress((tmp_path / "plain.parquet").read_bytes()))
    (tmp_path / f"b.jsonl{suffix}").write_bytes(compress(b'{"body": "In a line."}'))
    (tmp_path / f"c.txt{suffix}").write_bytes(compress(b"In a text."))
    lines = []
    texts = [("In a table.",), ("In a line.",), ("In a text.",), ("In a table.",)]
    assert paragraphs(tmp_path, field="body", log=lines.append) == texts
    assert sorted(line.split(":")[1] for line in lines) == [
        " 2 × record with an empty text",
        " 2 × record without text (null)",
    ]


@pytest.mark.parametrize("name", ["a.txt.gz", "a.txt.zst"])
def test_a_damaged_compressed_file_is_one_line(tmp_path, name):
    data = gzip.compress(os.urandom(9999)) if name.endswith("gz") else zstandard.compress(os.urandom(9999))
    (tmp_path / name).write_bytes(data[:100] + b"damage" * 20 + data[300:])
    with pytest.raises(UserError, match=f"{name}: (cannot be read|not UTF-8)") as error:
        read_documents([tmp_path / name])
    assert "\n" not in str(error.value)


def test_a_missing_column_is_named(tmp_path):
    pyarrow = pytest.importorskip("pyarrow.parquet")
    pyarrow.write_table(pytest.importorskip("pyarrow").table({"body": ["x"]}), tmp_path / "a.parquet")
    with pytest.raises(UserError, match='no column "text"; it has body'):
        read_documents([tmp_path / "a.parquet"])


def test_paths_with_one_base_name_keep_as_much_of_their_parents_as_differs(tmp_path):
    for folder in ("12_a", "12_b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "data.txt").write_text(f"In {folder}.")
    names, _ = found(tmp_path / "12_a" / "data.txt", tmp_path / "12_b" / "data.txt")
    assert list(names) == ["12_a/data.txt", "12_b/data.txt"]


def test_a_file_that_is_reached_twice_is_read_once(tmp_path):
    (tmp_path / "a.txt").write_text("Text.")
    (tmp_path / "loop").symlink_to(tmp_path)
    names, skipped = found(tmp_path, tmp_path / "a.txt")
    assert list(names) == [f"{tmp_path.name}/a.txt"]
    assert skipped == {"file given twice": 1, "folder that was read already, or the output": 1}


def test_a_file_name_that_is_not_utf8_is_read(tmp_path):
    path = tmp_path / os.fsdecode(b"caf\xe9.txt")
    path.write_text("Text.")
    (document,) = read_documents([tmp_path])
    assert document.name.endswith("caf\udce9.txt#0")
    assert type(document).from_json(document.to_json()) == document


def test_outputs_of_earlier_runs_inside_the_text_are_passed_over(tmp_path):
    (tmp_path / "a.txt").write_text("Text.")
    (tmp_path / "vocab.txt").write_text("[PAD]\n[UNK]\nthe")
    for name in (
        "cache/tokens.bin",
        "unfinished/shards/plan.json",
        "run/model/config.json",
        "run/metrics.jsonl",
    ):
        (tmp_path / name).parent.mkdir(parents=True) if not (tmp_path / name).parent.exists() else None
        (tmp_path / name).write_text("{}")
    for folder in ("cache", "unfinished", "run"):
        (tmp_path / folder / "more.txt").write_text("Output.")
    names, skipped = found(tmp_path)
    assert list(names) == [f"{tmp_path.name}/a.txt"]
    assert skipped == {
        "token cache": 2,
        "output of an earlier run": 1,
        "file of a model or of an earlier run": 1,
    }
    with pytest.raises(UserError, match="a token cache, not text"):
        found(tmp_path / "cache")


def test_a_text_called_vocab_is_text(tmp_path):
    (tmp_path / "vocab.txt").write_text("Words of a language.")
    assert paragraphs(tmp_path) == [("Words of a language.",)]


def zst(text, **parameters):
    settings = zstandard.ZstdCompressionParameters.from_level(1, **parameters)
    packed = io.BytesIO()
    with zstandard.ZstdCompressor(compression_params=settings).stream_writer(packed, closefd=False) as stream:
        stream.write(text)  # of unknown size, so the window has the size that the parameters say
    return packed.getvalue()


def test_zst_files_are_read_to_their_end_or_refused(tmp_path):
    text = "\n\n".join(f"Document {n} of a file." for n in range(30_000)).encode()
    half = text.index(b"\n\n", len(text) // 2)
    skippable = b"\x50\x2a\x4d\x18" + (4).to_bytes(4, "little") + b"size"  # as pzstd writes them
    path = tmp_path / "a.txt.zst"
    path.write_bytes(skippable + zst(text[:half]) + zst(b"") + zst(text[half:]))
    assert len(read_documents([path])) == 30_000
    whole = zst(text)
    for size in (len(whole) - 1, len(whole) // 2, 3):
        path.write_bytes(whole[:size])
        with pytest.raises(UserError, match="ends inside a frame"):
            read_documents([path])


def test_zst_files_of_a_long_window_are_read(tmp_path):
    (tmp_path / "a.txt.zst").write_bytes(zst(b"A line.", window_log=28, hash_log=12, chain_log=12))
    assert paragraphs(tmp_path / "a.txt.zst") == [("A line.",)]


def test_a_file_in_a_folder_and_a_given_file_never_share_a_name(tmp_path):
    for folder in ("p/q", "z/q", "r"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "a.txt").write_text(f"In {folder}.")
    paths = [tmp_path / "p" / "q", tmp_path / "z" / "q" / "a.txt", tmp_path / "r" / "a.txt"]
    assert len({each.name for each in find_inputs(paths, Notes())}) == 3


def test_a_json_file_may_begin_with_an_empty_line(tmp_path):
    (tmp_path / "a.json").write_text('\n{"text": "A line."}\n')
    assert paragraphs(tmp_path / "a.json") == [("A line.",)]


def test_closed_standard_input_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.stdin", None)
    with pytest.raises(UserError, match="standard input: closed"):
        read_standard_input(tmp_path / "copy")
