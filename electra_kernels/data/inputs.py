"""Paths → the input files in them, and the reasons why others are passed over."""

import hashlib
import importlib.util
import json
import mimetypes
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from electra_kernels.data.compression import decompression_errors, open_decompressed
from electra_kernels.data.notes import Notes
from electra_kernels.errors import UserError

FORMATS = (
    ".txt, .md, .jsonl or .parquet, each also with .gz or .zst, or a folder saved by the package datasets"
)
_TEXT, _JSON = (".txt", ".md", ".text"), (".jsonl", ".ndjson", ".json")
_COMPRESSED = {".gz": "gz", ".zst": "zst"}
_ARCHIVES = (".tar", ".tgz", ".zip", ".7z", ".rar", ".tbz2", ".txz", ".bz2", ".xz")
_MIME = mimetypes.MimeTypes(filenames=())  # the tables of Python, not those of the machine
_RESULTS = {  # files of a run or of a model, should they lie beside text
    "vocab.txt", "merges.txt", "vocab.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
    "config.json", "meta.json", "held_out.jsonl", "metrics.json", "metrics.jsonl", "added_tokens.json",
    "tokens.bin", "offsets.npy", "counts.npy", "electra-kernels.lock", "report.html",
}  # fmt: skip
_SNIFFED = 4096
_EXPANSION = 3  # assumed rate of compression; only the progress bar and the size of a sample depend on it


@dataclass(frozen=True)
class Input:
    """One file, or one saved dataset.

    Attributes:
        path: where it is; the name may contain bytes that are not UTF-8.
        name: its path inside the path that the user gave. Names of documents begin with it.
        kind: "text", "json", "parquet", "dataset", or "documents" (lines of `Document.to_json`).
        compression: "", "gz" or "zst".
        size: bytes of the file on disk.
        stamp: changes with the content: the time of the last change, or a hash.
    """

    path: Path
    name: str
    kind: str
    compression: str = ""
    size: int = 0
    stamp: str = ""

    @property
    def text_size(self) -> int:
        """Estimate of the text in bytes."""
        packed = self.compression or self.kind == "parquet"
        return self.size * (_EXPANSION if packed else 1)


def find_inputs(paths: Sequence[Path], notes: Notes, *, leave_out: Path | None = None) -> list[Input]:
    """The files to read, in the order of ``paths``; folders are read recursively, sorted by name.

    A file that is reached twice is read once. Two paths with the same last part get as much of their parents into
    their names as distinguishes them.

    Args:
        paths: files and folders.
        notes: receives what is passed over.
        leave_out: a folder that is never read: the output of the program.

    Raises:
        UserError: a path is missing, or is a file of a kind that cannot be read.
    """
    found: dict[Path, Input] = {}
    names: set[str] = set()
    visited = {leave_out.resolve()} if leave_out else set()
    paths = list(dict.fromkeys(Path(path) for path in paths))
    for path, name in zip(paths, _distinct_names(paths)):
        if not path.exists():
            raise UserError(f"{path}: no such file or directory")
        for each in _given_folder(path, name, notes, visited) if path.is_dir() else [_given_file(path, name)]:
            if each.path.resolve() in found:
                notes.add("file given twice", str(each.path))
                continue
            if each.name in names:  # a file in a folder and a file that was given may have one name
                each = replace(each, name=str(each.path.absolute()))
            names.add(each.name)
            found[each.path.resolve()] = each
    return list(found.values())


def read_standard_input(copy: Path) -> Input:
    """Copy standard input to a file, which can be read twice. Its first bytes say what it is.

    Raises:
        UserError: it holds neither text nor JSON lines.
    """
    if sys.stdin is None:
        raise UserError("standard input: closed")
    digest = hashlib.sha256()
    with open(copy, "wb") as file:
        while block := sys.stdin.buffer.read(1 << 20):
            file.write(block)
            digest.update(block)
    with open(copy, "rb") as file:
        start = file.read(4)
    compression = "gz" if start[:2] == b"\x1f\x8b" else "zst" if start == b"\x28\xb5\x2f\xfd" else ""
    kind = _sniff(copy, compression)
    if kind is None:
        raise UserError("standard input: neither text in UTF-8 nor JSON lines")
    return replace(_file(copy, "standard input", kind, compression), stamp=digest.hexdigest())


def _distinct_names(paths: Sequence[Path]) -> list[str]:
    absolute = [path.absolute() for path in paths]
    depths = [1] * len(paths)
    while True:
        names = ["/".join(path.parts[-depth:]) for path, depth in zip(absolute, depths)]
        counts = Counter(names)
        clashes = [i for i, name in enumerate(names) if counts[name] > 1]
        deeper = [i for i in clashes if depths[i] < len(absolute[i].parts)]
        if not deeper:
            return names
        for i in deeper:
            depths[i] += 1


def _given_file(path: Path, name: str) -> Input:
    """A file that the user named. It must be readable; in a folder it would be passed over."""
    if not path.is_file():
        raise UserError(f"{path}: not a regular file; - reads from standard input")
    found = _classify(path, name)
    if isinstance(found, Input):
        return found
    if _MIME.guess_type(path.name.lower())[0] is None and not _is_archive(path.name.lower()):
        kind = _sniff(path, "")
        if kind:
            return _file(path, name, kind)
    raise UserError(f"{path}: not a kind of text file that can be read ({found}); should be {FORMATS}")


def _given_folder(folder: Path, name: str, notes: Notes, visited: set[Path]) -> Iterator[Input]:
    is_output = folder.resolve() in visited
    if (folder / "tokens.bin").is_file() and not is_output:
        raise UserError(f"{folder}: a token cache, not text; pretrain reads it with --data")
    yield from _folder(folder, name, notes, visited)


def _folder(folder: Path, name: str, notes: Notes, visited: set[Path]) -> Iterator[Input]:
    visited.add(folder.resolve())
    if (folder / "dataset_dict.json").is_file():
        yield from _dataset_dict(folder, name, notes)
    elif (folder / "dataset_info.json").is_file():
        yield _dataset(folder, name)
    else:
        for child in sorted(folder.iterdir()):
            yield from _child(child, f"{name}/{child.name}", notes, visited)


def _child(path: Path, name: str, notes: Notes, visited: set[Path]) -> Iterator[Input]:
    """What is read of an entry of a folder; why it is passed over goes to the notes."""
    found: Input | str
    if path.name.startswith("."):
        found = "hidden file or folder"
    elif path.is_dir():
        found = (
            "folder that was read already, or the output"
            if path.resolve() in visited
            else _reason_to_skip(path)
        )
        if not found:
            yield from _folder(path, name, notes, visited)
            return
    elif not path.is_file():
        found = "broken link, or no regular file"
    elif _is_result(path):
        found = "file of a model or of an earlier run"
    else:
        found = _classify(path, name)
    if isinstance(found, Input):
        yield found
    else:
        notes.add(found, str(path))


def _reason_to_skip(folder: Path) -> str:
    """Why a folder inside the text is no text; empty if it is."""
    names = (folder / "tokens.bin", folder / "shards" / "plan.json", folder / "plan.json")
    if any(name.is_file() for name in names):
        return "token cache"
    if (folder / "config.json").is_file() and any(folder.glob("*.safetensors")):
        return "model"
    if (folder / "checkpoints").is_dir() and (folder / "model").is_dir():
        return "output of an earlier run"
    if (folder / "model" / "config.json").is_file() and any(folder.glob("metrics.json*")):
        return "output of an earlier run"
    if (folder / "tokenizer.json").is_file() and (folder / "tokenizer_config.json").is_file():
        return "tokenizer"
    return ""


def _is_result(path: Path) -> bool:
    if path.name != "vocab.txt":
        return path.name in _RESULTS
    with open(path, "rb") as file:
        start = file.read(_SNIFFED)
    return b"[PAD]" in start or b"[UNK]" in start or b"<unk>" in start


def _dataset_dict(folder: Path, name: str, notes: Notes) -> Iterator[Input]:
    try:
        splits = list(json.loads((folder / "dataset_dict.json").read_bytes())["splits"])
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{folder}: dataset_dict.json cannot be read: {error!r}") from error
    if "train" not in splits:
        raise UserError(
            f"{folder}: a DatasetDict without a split train; give the folder of one of its splits "
            f"{', '.join(splits)}, such as {folder / splits[0] if splits else folder}"
        )
    for split in splits:
        if split == "train":
            yield _dataset(folder / split, f"{name}/{split}")
        else:
            notes.add("split other than train (give its folder to read it)", str(folder / split))


def _dataset(folder: Path, name: str) -> Input:
    if importlib.util.find_spec("datasets") is None:
        raise UserError(f"{folder}: reading it needs the package datasets (pip install datasets)")
    files = [file.stat() for file in folder.glob("*.arrow")]
    stamp = max((file.st_mtime_ns for file in files), default=0)
    return Input(folder, name, "dataset", "", sum(file.st_size for file in files), str(stamp))


def _file(path: Path, name: str, kind: str, compression: str = "") -> Input:
    status = path.stat()
    return Input(path, name, kind, compression, status.st_size, str(status.st_mtime_ns))


def _classify(path: Path, name: str) -> Input | str:
    """The input, or in words why the file is passed over."""
    lower = path.name.lower()
    if _is_archive(lower):
        return "archive"
    suffix = Path(lower).suffix
    compression = _COMPRESSED.get(suffix, "")
    inner = lower.removesuffix(suffix) if compression else lower
    kind = _kind_by_suffix(Path(inner).suffix)
    if kind == "" and _has_no_suffix(inner):
        kind = _sniff(path, compression) or ""
        if not kind:
            return "file without a suffix that is not UTF-8 text"
    if kind == "json" and inner.endswith(".json") and _sniff(path, compression) != "json":
        return ".json file that is not one object per line"
    return _file(path, name, kind, compression) if kind else f"{Path(inner).suffix} file"


def _is_archive(lower: str) -> bool:
    return lower.endswith((*_ARCHIVES, ".tar.gz", ".tar.zst"))


def _kind_by_suffix(suffix: str) -> str:
    if suffix in _TEXT:
        return "text"
    if suffix in _JSON:
        return "json"
    return "parquet" if suffix == ".parquet" else ""


def _has_no_suffix(name: str) -> bool:
    """Whether the name says nothing: wiki_00, part.00001-of-00100."""
    suffix = Path(name).suffix
    return not suffix or suffix[1:2].isdigit()


def _sniff(path: Path, compression: str) -> str | None:
    """ "text", "json", or None for a binary file, judged by the first bytes."""
    try:
        with open_decompressed(path, compression) as file:
            start = file.read(_SNIFFED)
            line = start.lstrip()
            line = line.split(b"\n")[0] if b"\n" in line else line + file.readline()
    except decompression_errors():
        return "text"  # reading it will say what is wrong
    if b"\0" in start:
        return None
    try:
        start.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        if error.start < len(start) - 3:  # not a character that the end of the buffer cuts
            return None
    return "json" if _is_json_object(line) else "text"


def _is_json_object(line: bytes) -> bool:
    try:
        return isinstance(json.loads(line.decode("utf-8-sig")), dict)
    except (ValueError, RecursionError):
        return False
