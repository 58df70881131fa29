"""The docstring task: harvest, summaries, splits."""

from __future__ import annotations

import ast
import itertools
import sysconfig
from pathlib import Path

import pytest
from datasets import Dataset

from reward_models.docstring import pep257
from rlgen.data import check_disjoint, fingerprint
from rlgen.errors import ConfigError, DataError
from rlgen.tasks import SPLITS, docstring, get_task

MODULE = '''
class Shelf:
    @property
    def width(self):
        """Returns the width of the shelf"""
        # in meters
        return self._width

    def nothing(self):
        """Return nothing at all."""
        pass

    def todo(self):
        """TODO write the thing here."""
        return self.thing

    async def fetch(self, book, *, where=None):
        """
        Fetch a book
        from the shelf.

        More about it.
        """

        shelf = where or self
        return await shelf.get(book)

    def one_liner(self): """Return one number."""; return 1

def copy_of_width(self):
    """Return the width of the shelf."""
    return self._width
'''


@pytest.fixture(scope="module")
def splits() -> dict[str, Dataset]:
    task = get_task("docstring")
    return {name: task.split(name) for name in SPLITS}


@pytest.fixture
def shelf(tmp_path: Path) -> Path:
    (tmp_path / "shelf.py").write_text(MODULE)
    (tmp_path / "broken.py").write_text("def f(:\n")
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "shelf_again.py").write_text(MODULE)
    return tmp_path


def test_splits_of_the_standard_library_are_large_enough(splits: dict[str, Dataset]) -> None:
    full = (Path(sysconfig.get_path("stdlib")) / "tkinter").is_dir()  # some distributions ship it apart
    wanted = {"sft": 500, "preference": 250, "rl": 640 if full else 350, "validation": 100, "heldout": 380}
    assert {name: len(rows) >= wanted[name] for name, rows in splits.items()} == dict.fromkeys(SPLITS, True)


def test_no_module_and_no_row_is_in_two_splits(splits: dict[str, Dataset]) -> None:
    check_disjoint(splits)
    modules = {name: {module.partition(".")[0] for module in rows["module"]} for name, rows in splits.items()}
    code = {name: {ast.dump(ast.parse(text)) for text in rows["code"]} for name, rows in splits.items()}
    for first, second in itertools.combinations(SPLITS, 2):
        assert not modules[first] & modules[second]
        assert not code[first] & code[second]


def test_rows_are_as_promised(splits: dict[str, Dataset]) -> None:
    for rows in splits.values():
        assert set(rows.column_names) == {"prompt", "completion", "reference", "code", "module", "qualname"}
        assert all(
            score >= 0.6 for score in pep257(completions=rows["reference"], code=rows["code"]) if score is not None
        )
        for row in rows.select(range(0, len(rows), 25)):
            assert row["prompt"] == [{"role": "user", "content": docstring.render(row["code"])}]
            assert row["completion"] == [{"role": "assistant", "content": row["reference"]}]
            assert len(row["code"]) <= docstring.MAX_CODE_CHARS
            assert len(row["reference"]) <= 80
            assert row["reference"].endswith(".")
            assert row["reference"][0].isupper()
            function = ast.parse(row["code"]).body[0]
            assert isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
            assert ast.get_docstring(function) is None
            assert row["qualname"].rpartition(".")[2] == function.name


def test_loading_again_gives_the_same_fingerprint(splits: dict[str, Dataset]) -> None:
    before = fingerprint(splits["validation"])
    docstring._split_functions.cache_clear()
    assert fingerprint(get_task("docstring").split("validation")) == before


def test_a_subset_is_spread_over_the_modules(splits: dict[str, Dataset]) -> None:
    subset = get_task("docstring").split("heldout", max_rows=60)
    assert len(subset) == 60
    assert set(subset["code"]) <= set(splits["heldout"]["code"])
    assert len(set(subset["module"])) >= 12


def test_harvest_of_a_folder(shelf: Path) -> None:
    functions = {function.qualname: function for function in docstring.harvest(shelf)}
    assert set(functions) == {"Shelf.width", "Shelf.fetch", "copy_of_width"}
    assert functions["Shelf.width"].code == "def width(self):\n    # in meters\n    return self._width"
    assert functions["Shelf.width"].summary == "Return the width of the shelf."
    assert functions["Shelf.fetch"].summary == "Fetch a book from the shelf."
    assert functions["Shelf.fetch"].code.splitlines()[1] == "    shelf = where or self"
    assert functions["Shelf.fetch"].module == "shelf"


def test_form_feeds_do_not_shift_what_is_cut_out(tmp_path: Path) -> None:
    (tmp_path / "old.py").write_text(f"import os\n\x0c\n\x0c\n{MODULE}")
    (tmp_path / "new.py").write_text(MODULE)
    codes = {
        module: [function.code for function in docstring.harvest(tmp_path) if function.module == module]
        for module in ("old", "new")
    }
    assert codes["old"] == codes["new"] != []


def test_near_copies_are_kept_once(shelf: Path) -> None:
    dealt = [function.qualname for part in docstring._split_functions(shelf).values() for function in part]
    assert len(dealt) == 2
    assert "Shelf.fetch" in dealt


@pytest.mark.parametrize(
    ("written", "wanted"),
    [
        ("Return the name", "Return the name."),
        ("Returns the name.", "Return the name."),
        ("return the name of ``it``.", "Return the name of it."),
        ("True if the file is open.", "Return True if the file is open."),
        ("Whether the file is open.", "Return whether the file is open."),
        ("Close the file. Then go home.", "Close the file."),
        ("Close the file and\nforget about it.\n\nDetails.", "Close the file and forget about it."),
        ("Close the file.\nReturns nothing.", "Close the file."),
        ("name(x) -> y", None),
        ("Call self.close() and leave.", None),
        ("Internal use only, please.", None),
        ("Close.", None),
        ("The name of the file.", None),
        (">>> close the file", None),
        ("Return the " + "very " * 15 + "long name.", None),
        ("Return the na\u00efve name.", None),
        ("", None),
    ],
)
def test_summary_line(written: str, wanted: str | None) -> None:
    assert docstring.summary_line(written) == wanted


def test_sources_by_path_and_by_package_name(shelf: Path) -> None:
    assert docstring.source_root(str(shelf)) == shelf.resolve()
    assert docstring.source_root("json").name == "json"
    assert docstring.source_root("rlgen").name == "rlgen"
    with pytest.raises(DataError, match="task source 'no_such_package_here'"):
        get_task("docstring", "no_such_package_here")
    with pytest.raises(DataError, match=r"no Python sources|no such folder"):
        get_task("docstring", "sys")


def test_another_source_gives_all_splits() -> None:
    task = get_task("docstring", str(Path(sysconfig.get_path("stdlib")) / "asyncio"))
    rows = {name: task.split(name) for name in SPLITS}
    check_disjoint(rows)
    assert all(len(part) for part in rows.values())


def test_too_small_a_source_and_an_unknown_split_are_refused(shelf: Path) -> None:
    task = get_task("docstring", str(shelf))
    empty = next(name for name, part in docstring._split_functions(shelf.resolve()).items() if not part)
    with pytest.raises(DataError, match="no usable documented functions for split"):
        task.split(empty)
    with pytest.raises(ConfigError, match="unknown split 'test'"):
        task.split("test")
