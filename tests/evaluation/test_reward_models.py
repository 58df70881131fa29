"""The evaluation of rewards on pairs: numbers against a slow computation, and the command around them."""

import json
import math
import random

import numpy as np
import pytest
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from recipes import reward_evaluate
from rlgen.errors import DataError, RewardError
from rlgen.evaluation.reward_models import (
    calibration,
    evaluate_reward,
    gold_agreement,
    length_gaps,
    paired_difference,
    score_pairs,
    worst_mistakes,
)
from rlgen.evaluation.reward_report import render_reward_report
from rlgen.preferences import split_pairs, unit_hashes, unit_rows


def length(prompts, completions, **columns):
    return [float(len(text)) / 10 for text in completions]


def minus_length(prompts, completions, **columns):
    return [-float(len(text)) for text in completions]


def letters(prompts, completions, **columns):
    return [float(text.count("a")) if "x" not in text else None for text in completions]


def made_pairs(count=40, seed=0):
    rng = random.Random(seed)
    word = lambda: "".join(rng.choice("abcd ") for _ in range(rng.randint(1, 30))) + "."  # noqa: E731
    return Dataset.from_list(
        [
            {
                "prompt": f"p{i // 2}",
                "chosen": word(),
                "rejected": word(),
                "domain": "odd" if i % 2 else "even",
                "source": "people",
            }
            for i in range(count)
        ]
    )


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.floats(-4, 4), st.floats(-4, 4)), min_size=1, max_size=30), st.integers(1, 6))
def test_calibration_equals_a_slow_computation(scores, bins):
    chosen, rejected = [a for a, _ in scores], [b for _, b in scores]
    found = calibration(chosen, rejected, [str(i) for i in range(len(scores))], bins=bins, unit=2.0)
    rows = []
    for a, b in scores:
        margin = 2.0 * (a - b)
        p = 1 / (1 + math.exp(-margin))
        rows.append((max(p, 1 - p), 0.5 if margin == 0 else float(margin > 0), p))
    assert found["brier"] == pytest.approx(sum((1 - p) ** 2 for *_, p in rows) / len(rows))
    assert found["log_loss"] == pytest.approx(sum(-math.log(p) for *_, p in rows) / len(rows), abs=1e-9)
    assert found["mean_confidence"] == pytest.approx(sum(c for c, *_ in rows) / len(rows))
    rows.sort(key=lambda row: row[0])
    sizes = [entry["n_pairs"] for entry in found["bins"]]
    assert sum(sizes) == len(rows)
    assert max(sizes) - min(sizes) <= 1
    confidences = [entry["confidence"] for entry in found["bins"]]
    assert confidences == sorted(confidences)
    if len({c for c, *_ in rows}) == len(rows):  # no ties between bins
        ece, start = 0.0, 0
        for size in sizes:
            part = rows[start : start + size]
            ece += abs(sum(c for c, *_ in part) - sum(o for _, o, _ in part)) / len(rows)
            start += size
        assert found["ece"] == pytest.approx(ece)


def test_a_calibrated_score_has_little_error_and_a_loud_one_much():
    rng = np.random.default_rng(0)
    margins = rng.normal(0, 2, 6000)
    wins = rng.random(6000) < 1 / (1 + np.exp(-margins))
    honest = np.where(wins, margins, -margins)  # the sign says whether the one called chosen scored higher
    units = [str(i) for i in range(6000)]
    right = calibration(honest.tolist(), [0.0] * 6000, units)
    loud = calibration((5 * honest).tolist(), [0.0] * 6000, units)
    assert right["ece"] < 0.03 < 0.1 < loud["ece"]
    assert loud["mean_confidence"] > right["mean_confidence"]
    assert loud["brier"] > right["brier"]


def test_the_whole_evaluation_against_hand_counts():
    pairs = made_pairs()
    found = evaluate_reward(length, pairs, gold={"letters": letters}, others={"minus": minus_length}, worst=3)
    lengths = [(len(r["chosen"]), len(r["rejected"])) for r in pairs]
    outcomes = [0.5 if a == b else float(a > b) for a, b in lengths]
    assert found["accuracy"] == pytest.approx(np.mean(outcomes))
    assert found["n_pairs"] == 40
    assert found["n_prompts"] == 20
    assert found["against"]["longer_wins"]["difference"] == 0
    minus = found["against"]["minus"]
    assert minus["accuracy"] == pytest.approx(1 - np.mean(outcomes))
    assert minus["difference"] == pytest.approx(np.mean(outcomes) - minus["accuracy"])
    assert minus["difference_low"] <= minus["difference"] <= minus["difference_high"]
    for domain, rest in (("even", 0), ("odd", 1)):
        assert found["by_domain"][domain]["accuracy"] == pytest.approx(np.mean(outcomes[rest::2]))
    assert sum(entry["n_pairs"] for entry in found["by_length_gap"].values()) == 40
    assert found["by_length_gap"]["much longer"]["accuracy"] == 1.0
    assert found["by_length_gap"]["much shorter"]["accuracy"] == 0.0
    margins = sorted(a - b for a, b in lengths)
    mistakes = [len(m["chosen"]) - len(m["rejected"]) for m in found["worst_mistakes"]]
    assert mistakes == margins[:3]
    texts = [t for r in pairs for t in (r["chosen"], r["rejected"])]
    gold = found["gold"]["letters"]
    ours, theirs = [len(t) for t in texts], [t.count("a") for t in texts]
    assert gold["spearman"] == pytest.approx(stats.spearmanr(ours, theirs).statistic)
    assert gold["kendall"] == pytest.approx(stats.kendalltau(ours, theirs).statistic)
    assert gold["spearman_low"] < gold["spearman"] < gold["spearman_high"]
    ordered = [
        (a > b) == (g > h) if a != b else 0.5
        for (a, b), (g, h) in zip(lengths, zip(theirs[::2], theirs[1::2], strict=True), strict=True)
        if g != h
    ]
    assert gold["same_order"] == pytest.approx(np.mean(ordered))
    json.dumps(found)


def test_groups_are_resampled_instead_of_prompts():
    pairs = made_pairs(20).map(lambda row: {**row, "prompt": "always the same"})
    alone = evaluate_reward(length, pairs)
    grouped = pairs.add_column("group", [f"g{i // 4}" for i in range(20)])
    found = evaluate_reward(length, grouped)
    assert (alone["n_prompts"], found["n_prompts"]) == (1, 5)
    assert len(set(unit_hashes(grouped))) == 5
    train, heldout = split_pairs(grouped, 0.3)
    assert not set(train["group"]) & set(heldout["group"])
    assert unit_rows(grouped).column_names == ["prompt"]


def test_a_difference_has_an_interval_over_units():
    ours, theirs = [1.0, 1.0, 0.0, 1.0], [0.0, 0.0, 1.0, 0.0]
    clustered = paired_difference(ours, theirs, ["a", "a", "b", "b"])
    assert clustered["difference"] == 0.5
    assert (clustered["difference_low"], clustered["difference_high"]) == (0.0, 1.0)
    assert paired_difference(ours, ours, list("abcd"))["difference_high"] == 0.0


def test_rewards_that_do_not_apply_are_left_out_and_counted():
    pairs = Dataset.from_list(
        [{"prompt": "p", "chosen": "aa", "rejected": "a"}, {"prompt": "q", "chosen": "xa", "rejected": "a"}]
    )
    found = evaluate_reward(letters, pairs, others={"letters": letters})
    assert (found["n_pairs"], found["n_unscored"], found["accuracy"]) == (1, 1, 1.0)
    assert score_pairs(letters, pairs) == ([2.0, None], [1.0, 1.0])
    with pytest.raises(DataError, match="says None to all 1 pairs"):
        evaluate_reward(letters, pairs.select([1]))
    with pytest.raises(DataError, match="no pairs"):
        evaluate_reward(letters, pairs.select([]))
    constant = gold_agreement([1.0], [1.0], letters, pairs.select([0]))
    assert (constant["spearman"], constant["kendall_low"], constant["same_order"]) == (None, None, 0.5)


def test_other_columns_reach_the_reward_and_its_errors_come_through():
    pairs = made_pairs(4).add_column("reference", list("wxyz"))
    seen = []

    def spy(prompts, completions, reference, completion_ids, **columns):
        seen.append((list(prompts), reference))
        return [0.0] * len(completions)

    score_pairs(spy, pairs)
    assert seen[-1] == (["p0"] * 4 + ["p1"] * 4, list("wwxxyyzz"))

    def broken(prompts, completions, **columns):
        raise KeyError("nothing")

    with pytest.raises(RewardError, match="broken"):
        evaluate_reward(broken, pairs)


def test_length_gaps_by_hand():
    pairs = Dataset.from_list(
        [
            {"prompt": "p", "chosen": "a" * long, "rejected": "a" * short}
            for long, short in ((10, 10), (10, 9), (10, 8), (10, 4), (8, 10), (4, 10), (0, 0))
        ]
    )
    assert length_gaps(pairs) == ["alike", "alike", "longer", "much longer", "shorter", "much shorter", "alike"]
    assert worst_mistakes(pairs, [1.0] * 7, [0.0] * 7, 5) == []


class Three:
    """An ensemble without models."""

    __name__ = "three"
    aggregate, uncertainty_coef, deviation = "worst", 0.5, 2.0

    def member_scores(self, prompts, completions, **_):
        return [[float(len(text)) for text in completions], [0.0] * len(completions), [-1.0] * len(completions)]


def test_an_ensemble_is_told_apart_into_members():
    pairs = made_pairs(12)
    found = evaluate_reward(Three(), pairs)
    ensemble = found["ensemble"]
    assert [member["accuracy"] for member in ensemble["members"]][1:] == [0.5, 0.5]
    assert ensemble["members"][0]["accuracy"] == found["against"]["longer_wins"]["accuracy"]
    assert ensemble["aggregates"]["worst"]["accuracy"] == found["accuracy"] == 0.5
    assert ensemble["aggregates"]["mean"]["accuracy"] == ensemble["members"][0]["accuracy"]
    assert ensemble["disagreement_when_right"] is None
    assert ensemble["disagreement_when_wrong"] > 0
    assert "aggregate: worst" in render_reward_report(found, name="three", pairs="made")


def test_the_report_is_one_page_and_escapes_what_models_wrote():
    pairs = made_pairs(6).map(lambda row: {**row, "rejected": row["rejected"] + "<script>alert(1)</script>"})
    found = evaluate_reward(length, pairs, gold={"letters": letters})
    page = render_reward_report(found, name="<b>", pairs="pairs.jsonl")
    assert "<script>" not in page
    assert "&lt;b&gt;" in page
    assert "&lt;script&gt;alert" in page
    assert "http" not in page
    for words in ("longer wins", "Calibration", "Worst mistakes", "Kendall", "by domain"):
        assert words in page


# The command


def write_rows(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_the_command_writes_the_same_numbers(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_rows(tmp_path / "pairs.jsonl", made_pairs(10).to_list())
    (tmp_path / "mine.py").write_text(
        "def size(prompts, completions, **_):\n    return [float(len(c)) / 10 for c in completions]\n"
        "def minus(prompts, completions, **_):\n    return [-float(len(c)) for c in completions]\n"
    )
    line = "--reward mine.py:size --pairs pairs.jsonl --compare_with mine.py:minus --output_dir out"
    reward_evaluate.main(line.split())
    written = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert written["accuracy"] == evaluate_reward(length, made_pairs(10))["accuracy"]
    assert written["against"]["mine.py:minus"]["accuracy"] == pytest.approx(1 - written["accuracy"])
    assert (tmp_path / "out" / "reward_report.html").is_file()
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].startswith(f"accuracy {written['accuracy']:.3f} [")
    assert printed[-1] == "report: out/reward_report.html"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--reward mine.py:size", "give --reward and --pairs"),
        ("--reward mine.py:size --pairs nowhere.jsonl", "no such file"),
        ("--reward mine.py:size --pairs rows.jsonl", "no column 'chosen', 'rejected'"),
        ("--reward mine.py:size --pairs empty.jsonl", "empty"),
        ("--reward mine.py:size --pairs human:nothing", "there are sentiment, next_turn"),
        ("--reward mine.py:size --pairs rows.jsonl --bins 0", "bins"),
        ("--reward nowhere.py:size --pairs pairs.jsonl", "no reward file"),
        ("--reward mine.py:size --gold mine.py:size --pairs pairs.jsonl", "twice"),
    ],
)
def test_a_mistake_is_one_clear_line(line, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_rows(tmp_path / "rows.jsonl", [{"prompt": "p", "completion": "c"}])
    write_rows(tmp_path / "pairs.jsonl", made_pairs(4).to_list())
    write_rows(tmp_path / "empty.jsonl", [])
    (tmp_path / "mine.py").write_text("def size(prompts, completions, **_):\n    return [0.0] * len(completions)\n")
    with pytest.raises(SystemExit) as left:
        reward_evaluate.main(line.split())
    assert left.value.code == 2
    written = [text for text in capsys.readouterr().err.splitlines() if text]
    assert written[-1].startswith("error: ")
    assert message in written[-1]
