"""Every shipped reward on trial: clean, or its weaknesses are documented and the module's composite resists them."""

from importlib.metadata import entry_points

import pytest

from rlgen.rewards import load_reward
from rlgen.rewards.hacks import HACKS
from rlgen.rewards.harness import inspect_reward, module_examples, reward_module
from rlgen.rewards.load import ENTRY_POINTS
from rlgen.rewards.probes import Batch, ask, difference

SHIPPED = sorted(
    {
        entry.value: entry.name
        for entry in entry_points(group=ENTRY_POINTS)
        if entry.value.startswith("reward_models.")
    }.values()
)


def test_there_are_shipped_rewards() -> None:
    assert {"docstring", "pep257", "grounding"} <= set(SHIPPED)


@pytest.mark.parametrize("name", SHIPPED)
def test_clean_or_documented(name: str) -> None:
    reward = load_reward(name)
    reward.timeout = 60
    rows = module_examples(reward)
    assert len(rows) >= 6, f"{reward_module(reward)} has no or few EXAMPLES"
    report = inspect_reward(reward, rows)
    assert not report.violations, "\n".join(finding.text for finding in report.violations)
    assert not report.weaknesses, "\n".join(f"{found.about}: {found.text}" for found in report.weaknesses)


@pytest.mark.parametrize("name", SHIPPED)
def test_plain_and_conversational_rows_score_alike(name: str) -> None:
    reward = load_reward(name)
    # A conversation of several turns has no plain form.
    rows = [row for row in module_examples(reward) if isinstance(row["prompt"], str) or len(row["prompt"]) == 1]
    texts = [{key: as_text(row[key]) for key in ("prompt", "completion")} for row in rows]
    plain = [{**row, **text} for row, text in zip(rows, texts, strict=True)]
    chat = [
        {
            **row,
            "prompt": [{"role": "user", "content": text["prompt"]}],
            "completion": [{"role": "assistant", "content": text["completion"]}],
        }
        for row, text in zip(rows, texts, strict=True)
    ]
    assert rows
    assert difference(ask(reward, Batch.of_rows(plain)), ask(reward, Batch.of_rows(chat)))[1] <= 1e-9


def as_text(turns: str | list[dict[str, str]]) -> str:
    return turns if isinstance(turns, str) else turns[-1]["content"]


def test_documented_weaknesses_are_names_of_hacks() -> None:
    known = {hack.name for hack in HACKS} | {"reward_keywords", "batch_size"}
    for module in {reward_module(load_reward(name)) for name in SHIPPED}:
        for reward, weaknesses in getattr(module, "WEAKNESSES", {}).items():
            assert callable(getattr(module, reward, None)), f"{module}: WEAKNESSES names no reward {reward}"
            assert set(weaknesses) <= known, f"{module}: WEAKNESSES[{reward!r}]"
