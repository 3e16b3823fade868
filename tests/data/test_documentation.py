import io
import tarfile

import pytest

from electra_kernels.data import documentation
from electra_kernels.data.documentation import PACKAGES, documentation_text
from electra_kernels.errors import UserError

SENTENCE = "This sentence comes from the file {}."
KEPT = ["docs/topics/one.txt", "docs/two.rst", "doc/build/three.rst"]
EXCLUDED = [
    "docs/_theme/readme.rst",
    "docs/LICENSE.txt",
    "docs/releases/1.0.txt",
    "docs/news.rst",
    "docs/changelog_2.rst",
    "docs/history/whatsnew-5.0.rst",
    "README.rst",
    "docs/conf.py",
    "tests/docs/four.rst",
]


@pytest.fixture
def archives(tmp_path, monkeypatch):
    """Source archives of the five packages, in place of downloaded ones."""

    def archive(package):
        path = tmp_path / f"{package.name}.tar.gz"
        with tarfile.open(path, "w:gz") as file:
            for name in [*EXCLUDED, *KEPT]:
                content = SENTENCE.format(f"{package.name} {name.partition('.')[0]}").encode()
                member = tarfile.TarInfo(f"{package.name}-1.0/{name}")
                member.size = len(content)
                file.addfile(member, io.BytesIO(content))
        return path

    monkeypatch.setenv("ELECTRA_KERNELS_CACHE", str(tmp_path / "cache"))
    (tmp_path / "cache").mkdir()
    monkeypatch.setattr(
        documentation, "fetch_packages", lambda packages: [archive(package) for package in packages]
    )


def test_every_package_is_pinned_by_version_and_hash():
    assert [package.name for package in PACKAGES] == ["django", "sqlalchemy", "twisted", "celery", "scrapy"]
    assert all(package.version and len(package.sha256) == 64 for package in PACKAGES)


@pytest.mark.usefixtures("archives")
def test_every_documentation_file_is_a_document_except_change_logs_and_licences():
    found = documentation_text()
    assert [document.name for document in found] == [
        f"{package.name}/{name}" for package in PACKAGES for name in sorted(KEPT)
    ]
    assert found[0].paragraphs == (SENTENCE.format("django doc/build/three"),)


@pytest.mark.usefixtures("archives")
def test_a_second_call_reads_the_cache_and_logs_nothing(monkeypatch):
    messages = []
    first = documentation_text(messages.append)
    assert len(messages) == 2
    monkeypatch.setattr(documentation, "fetch_packages", None)
    assert documentation_text(messages.append) == first
    assert len(messages) == 2


@pytest.mark.usefixtures("archives")
def test_a_new_cleaning_version_does_not_reuse_the_cached_text(monkeypatch):
    documentation_text()
    monkeypatch.setattr(documentation, "CLEANING_VERSION", documentation.CLEANING_VERSION + 1)
    messages = []
    documentation_text(messages.append)
    assert messages


@pytest.mark.usefixtures("archives")
def test_a_damaged_cache_file_is_reported():
    documentation_text()
    (cached,) = documentation.cache_directory().glob("documentation-*")
    cached.write_bytes(cached.read_bytes()[:-20])
    with pytest.raises(UserError, match="delete it, and it will be made again"):
        documentation_text()
