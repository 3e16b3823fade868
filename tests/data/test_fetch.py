import hashlib
import os
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest

from electra_kernels.data import fetch
from electra_kernels.data.fetch import (
    DownloadError,
    Package,
    cache_directory,
    fetch_package,
    fetch_packages,
)
from electra_kernels.errors import UserError

CONTENT = b"an archive"
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def registry(tmp_path, monkeypatch):
    """Replaces pip by a function that records its command and writes CONTENT, or fails with `error`."""
    monkeypatch.setenv("ELECTRA_KERNELS_CACHE", str(tmp_path / "cache"))
    state = SimpleNamespace(commands=[], error="")

    def run(command, **options):
        state.commands.append(command)
        if state.error:
            return subprocess.CompletedProcess(command, 1, "", state.error)
        suffix = "tar.gz" if "--no-binary" in command else "py3-none-any.whl"
        name = command[-1].replace("==", "-").title()  # the file name may differ from the project name
        file = Path(command[command.index("--dest") + 1]) / f"{name}.{suffix}"
        file.write_bytes(CONTENT)
        file.chmod(0o600)
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(fetch.subprocess, "run", run)
    return state


def test_the_environment_can_set_the_cache_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("ELECTRA_KERNELS_CACHE", str(tmp_path))
    assert cache_directory() == tmp_path
    monkeypatch.delenv("ELECTRA_KERNELS_CACHE")
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    assert cache_directory() == tmp_path / ".cache" / "electra_kernels"


@pytest.mark.parametrize("chosen", [None, "~no-such-user/cache"])
def test_an_unknown_home_folder_is_reported_with_the_variable_to_set(chosen, monkeypatch):
    """Many containers run as a user id that the system does not know."""

    def unknown_user(uid):
        raise KeyError(uid)

    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.delenv("ELECTRA_KERNELS_CACHE", raising=False)
    monkeypatch.setattr("pwd.getpwuid", unknown_user)
    if chosen is not None:
        monkeypatch.setenv("ELECTRA_KERNELS_CACHE", chosen)
    with pytest.raises(UserError, match="set HOME, or ELECTRA_KERNELS_CACHE") as error:
        fetch_package("name", "1.0", SHA256)
    assert not isinstance(error.value, DownloadError)


def test_the_mode_of_a_download_follows_the_umask(registry):
    previous = os.umask(0o027)
    try:
        path = fetch_package("name", "1.0", SHA256)
    finally:
        os.umask(previous)
    assert path.stat().st_mode & 0o777 == 0o640
    assert [file.name for file in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize(("kind", "option"), [("sdist", "--no-binary"), ("wheel", "--only-binary")])
def test_pip_downloads_only_this_package(registry, kind, option):
    path = fetch_package("name", "1.0", SHA256, kind=kind)
    assert path.read_bytes() == CONTENT
    (command,) = registry.commands
    assert command[-1] == "name==1.0"
    assert command[command.index(option) + 1] == "name"
    assert "--no-deps" in command


def test_a_second_call_needs_no_network(registry):
    first = fetch_package("name", "1.0", SHA256)
    registry.error = "ERROR: offline"
    assert fetch_package("name", "1.0", SHA256) == first
    assert len(registry.commands) == 1


def test_a_damaged_file_in_the_cache_is_downloaded_again(registry):
    path = fetch_package("name", "1.0", SHA256)
    path.write_bytes(CONTENT[:3])
    assert fetch_package("name", "1.0", SHA256).read_bytes() == CONTENT


def test_a_download_with_another_hash_is_refused_and_not_kept(registry):
    with pytest.raises(DownloadError, match=f"name 1.0: the download has sha256 {SHA256}, should be 0000"):
        fetch_package("name", "1.0", "0000")
    assert not [path for path in cache_directory().rglob("*") if path.is_file()]


@pytest.mark.parametrize(
    ("output", "reason"),
    [
        (
            "WARNING: x\nERROR: No matching distribution found for name==1.0\n",
            "No matching distribution found",
        ),
        (
            "WARNING: Retrying after connection broken by 'X'\nERROR: No matching\n",
            "no connection to the package",
        ),
        ("/bin/python: No module named pip\n", "No module named pip"),
    ],
)
def test_a_failed_download_is_reported_in_one_line(registry, output, reason):
    registry.error = output
    with pytest.raises(DownloadError) as error:
        fetch_package("name", "1.0", SHA256)
    assert str(error.value).startswith("cannot download name 1.0 with pip: ")
    assert reason in str(error.value)
    assert "\n" not in str(error.value)


def test_a_pip_that_does_not_start_is_a_download_error(registry, monkeypatch):
    def missing(command, **options):
        raise PermissionError(13, "Permission denied", command[0])

    monkeypatch.setattr(fetch.subprocess, "run", missing)
    with pytest.raises(DownloadError, match=r"cannot download name 1\.0: pip does not start: .*denied"):
        fetch_package("name", "1.0", SHA256)


def test_an_unwritable_cache_is_reported(registry, tmp_path):
    (tmp_path / "cache").write_text("a file where the folder should be")
    with pytest.raises(UserError, match=r"cannot write to the cache .*: set ELECTRA_KERNELS_CACHE") as error:
        fetch_package("name", "1.0", SHA256)
    # A run continues after a DownloadError, but not without a cache.
    assert not isinstance(error.value, DownloadError)


def test_several_packages_keep_their_order(registry):
    packages = [Package(f"name{i}", "1.0", SHA256, "wheel" if i % 2 else "sdist") for i in range(5)]
    assert [path.name.split("-")[0] for path in fetch_packages(packages)] == [f"name{i}" for i in range(5)]
    assert fetch_packages([]) == []
