"""What every reward of the generic, summarization and translation modules must do, whatever the text."""

from __future__ import annotations

import math
import pickle
import subprocess
import sys
import tomllib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reward_models import generic, summarization, translation
from rlgen.rewards import load_reward

Reward = Callable[..., list[float | None]]

REWARDS: dict[str, tuple[Any, Reward]] = {
    **{
        f"generic.{name}": (generic, getattr(generic, name))
        for name in (
            *generic.WEIGHTS,
            *("overlong", "language", "matches", "json_valid", "json_schema", "composite"),
        )
    },
    **{
        f"summarization.{name}": (summarization, getattr(summarization, name))
        for name in (*summarization.WEIGHTS, "rouge", "composite")
    },
    **{
        f"translation.{name}": (translation, getattr(translation, name))
        for name in (*translation.WEIGHTS, "chrf", "ter", "composite")
    },
}
OPTIONED: dict[str, tuple[Any, Reward]] = {
    "Repetition": (generic, generic.Repetition(size=2)),
    "LengthBand": (generic, generic.LengthBand(low=3, high=9, zero_high=30, unit="characters")),
    "LengthBand in tokens": (generic, generic.LengthBand(low=3, high=9, unit="tokens")),
    "LengthBand in sentences": (generic, generic.LengthBand(low=1, high=2, unit="sentences")),
    "Overlong": (generic, generic.Overlong(max_tokens=40, ramp_tokens=10)),
    "Matches": (generic, generic.Matches(r"[A-Z].*\.")),
    "JsonSchema": (generic, generic.JsonSchema({"type": "object", "minProperties": 1})),
    "Compression": (summarization, summarization.Compression(low=0.1, high=0.2)),
    "LengthRatio": (translation, translation.LengthRatio(low=0.8, high=1.2)),
}
# The column without which a reward cannot grade a row.
NEEDS = {
    "generic.language": "language",
    "generic.matches": "pattern",
    "generic.json_valid": "schema",
    "generic.json_schema": "schema",
    "summarization.rouge": "reference",
    "translation.chrf": "reference",
    "translation.chrf_plus": "reference",
    "translation.bleu": "reference",
    "translation.ter": "reference",
    "translation.target_language": "target_language",
    **{f"summarization.{name}": "source" for name in (*summarization.WEIGHTS, "composite")},
    **{f"translation.{name}": "source" for name in ("no_copy", "length_ratio", "preserved", "composite")},
}

EVERY = sorted({**REWARDS, **OPTIONED})


def parts_of(name: str) -> tuple[Any, Reward, float, float]:
    module, reward = {**REWARDS, **OPTIONED}[name]
    return module, reward, *((-1.0, 0.0) if "verlong" in name else (0.0, 1.0))


def score(name: str, texts: Sequence[Any], rows: Sequence[Mapping[str, Any]] | None = None) -> list[float | None]:
    module, reward, _, _ = parts_of(name)
    rows = [module.EXAMPLES[index % len(module.EXAMPLES)] for index in range(len(texts))] if rows is None else rows
    columns = {key: [row[key] for row in rows] for key in rows[0] if key not in ("prompt", "completion")}
    ids = [list(range(len(text))) if isinstance(text, str) else list(range(len(text[0]["content"]))) for text in texts]
    return reward(prompts=[row["prompt"] for row in rows], completions=list(texts), completion_ids=ids, **columns)


words = [
    word
    for module in (generic, summarization, translation)
    for row in module.EXAMPLES[:4]
    for word in row["completion"].split()
]
texts = st.one_of(
    st.text(max_size=80),
    st.lists(st.sampled_from([*words, ".", "\n", "the", "{}", "{name}", "42", "图书馆"]), max_size=25).map(" ".join),
)


@pytest.mark.parametrize("name", EVERY)
@settings(max_examples=25, deadline=None)
@given(batch=st.lists(texts, min_size=1, max_size=5))
def test_range_determinism_and_independence_of_the_batch(name: str, batch: list[str]) -> None:
    module, _, low, high = parts_of(name)
    rows = [module.EXAMPLES[index % len(module.EXAMPLES)] for index in range(len(batch))]
    scores = score(name, batch, rows)
    assert len(scores) == len(batch)
    for value in scores:
        assert value is None or (isinstance(value, float) and math.isfinite(value) and low <= value <= high)
    assert score(name, batch, rows) == scores
    assert score(name, batch[::-1], rows[::-1]) == scores[::-1]
    assert [score(name, [text], [row])[0] for text, row in zip(batch, rows, strict=True)] == scores
    chat = [[{"role": "assistant", "content": text}] for text in batch]
    conversations = [{**row, "prompt": [{"role": "user", "content": row["prompt"]}]} for row in rows]
    assert score(name, chat, conversations) == scores


@pytest.mark.parametrize("name", [name for name in EVERY if name.split(".")[0] in ("summarization", "translation")])
@settings(max_examples=25, deadline=None)
@given(text=texts, source=st.text(max_size=60), reference=st.text(max_size=60))
def test_arbitrary_columns_raise_nothing(name: str, text: str, source: str, reference: str) -> None:
    row = {"prompt": "p", "source": source, "reference": reference, "target_language": "fr"}
    (value,) = score(name, [text], [row])
    assert value is None or 0.0 <= value <= 1.0


@pytest.mark.parametrize("name", NEEDS)
def test_a_row_without_the_column_is_not_graded(name: str) -> None:
    example = next(row for row in parts_of(name)[0].EXAMPLES if row.get(NEEDS[name]) is not None)
    scores = score(name, [example["completion"]] * 2, [{**example, NEEDS[name]: None}, example])
    assert scores[0] is None
    assert scores[1] is not None


@pytest.mark.parametrize("name", REWARDS)
def test_references_are_near_the_top_and_nothing_said_is_at_the_bottom(name: str) -> None:
    module, _, low, high = parts_of(name)
    best = [value for value in score(name, [row["completion"] for row in module.EXAMPLES]) if value is not None]
    assert best
    assert min(best) >= low + 0.79 * (high - low)
    assert sum(best) / len(best) >= low + 0.95 * (high - low)
    if name != "generic.overlong":
        for nothing in ("", "   \n", "\u200b"):
            assert not any(score(name, [nothing] * len(module.EXAMPLES)))


@pytest.mark.parametrize("name", EVERY)
def test_rewards_can_be_sent_to_other_processes_and_used_by_threads(name: str) -> None:
    module, reward, _, _ = parts_of(name)
    pickle.loads(pickle.dumps(reward))
    batch = [row["completion"] for row in module.EXAMPLES]
    expected = score(name, batch)
    with ThreadPoolExecutor(4) as pool:
        assert all(scores == expected for scores in pool.map(lambda _: score(name, batch), range(4)))


@pytest.mark.parametrize("module", [generic, summarization, translation])
def test_examples_are_complete_rows(module: Any) -> None:
    assert 8 <= len(module.EXAMPLES) <= 12
    assert len({frozenset(row) for row in module.EXAMPLES}) == 1
    assert len({row["completion"] for row in module.EXAMPLES}) == len(module.EXAMPLES)
    assert all(isinstance(row["prompt"], str) and isinstance(row["completion"], str) for row in module.EXAMPLES)
    assert set(module.__all__) <= set(dir(module))
    assert sum(module.WEIGHTS.values()) == pytest.approx(1.0)


@pytest.mark.parametrize("module", ["generic", "summarization", "translation"])
def test_modules_are_light(module: str) -> None:
    heavy = "('torch', 'transformers', 'trl', 'rouge_score', 'nltk', 'sacrebleu', 'py3langid', 'numpy', 'jsonschema')"
    check = f"import sys, reward_models.{module}; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("package", "call"),
    [
        ("sacrebleu", "translation.bleu(['a'], ['a'])"),
        ("py3langid", "generic.language(['a'], ['fr'])"),
        ("jsonschema", "generic.json_schema(['{}'], ['{}'])"),
        ("regex", "generic.matches(['a'], ['a'])"),
    ],
)
def test_a_missing_package_is_named_with_the_remedy(package: str, call: str) -> None:
    code = f"import sys; sys.modules['{package}'] = None; from reward_models import generic, translation; {call}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert f"needs the package {package}" in done.stderr
    assert "rlgen[rewards]" in done.stderr


def test_every_reward_has_a_short_name() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    entries = set(project["entry-points"]["rlgen.rewards"].values())
    assert {f"reward_models.{name.replace('.', ':')}" for name in REWARDS} <= entries


def test_rewards_load_by_name() -> None:
    for name in ("reward_models.generic:repetition", "reward_models.translation:composite"):
        assert load_reward(name)(["p"], ["x"], source=["y"], reference=["z"])[0] is not None


@pytest.mark.parametrize("name", EVERY)
def test_broken_text_raises_nothing(name: str) -> None:
    """Lone surrogates, NUL, a message without content, blocks of content."""
    row = next(row for row in parts_of(name)[0].EXAMPLES if row.get(NEEDS.get(name, "prompt")) is not None)
    for text in ("\ud800\udfff lone \udc80", "\x00\x00", "a\r\nb\u2028c", "\U0010ffff"):
        assert len(score(name, [text], [row])) == 1
    columns = {key: [value] for key, value in row.items() if key not in ("prompt", "completion")}
    for message in ({"role": "assistant", "content": None}, {"role": "assistant", "content": [{"type": "text"}]}):
        _, reward, _, _ = parts_of(name)
        assert len(reward(prompts=["p"], completions=[[message]], completion_ids=[[1]], **columns)) == 1
