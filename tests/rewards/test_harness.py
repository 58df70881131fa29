"""The harness against rewards of which it is known what is wrong with them."""

import json
import math
import random
import re
import sys
import types
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from scipy import stats

from rlgen.rewards import checked
from rlgen.rewards.harness import (
    FEW_PAIRS,
    Documentation,
    documentation,
    inspect_reward,
    module_examples,
    separate,
    signed_rank,
)
from rlgen.rewards.probes import Batch, difference, holds_model
from rlgen.rewards.report import report_view

POLITE = ("please", "thank", "kindly")
PAIRS = [
    ("How do I get to the station?", "Take the second street on the left, then walk past the old church."),
    ("Can you lend me a pen?", "Of course, here is a blue one; please bring it back after lunch."),
    ("Where is the meeting?", "We meet in room twelve on the third floor at ten."),
    ("What does the ticket cost?", "Ten euros for adults, and children travel free with their parents."),
    ("Is it raining?", "Yes, since this morning, so better take an umbrella with you, thank you."),
    ("When does the shop open?", "It opens at nine on weekdays and at eleven on Sundays."),
    ("Who wrote this letter?", "My grandmother did, when she was a student in Vienna."),
    ("How long does the soup cook?", "Let it simmer for forty minutes, then add the salt."),
]
ROWS = [{"prompt": prompt, "completion": answer, "answer": answer} for prompt, answer in PAIRS]


def exact(completions, answer, **_):
    """The only reward without a weakness: it knows the answer."""
    return [float(text == good) for text, good in zip(completions, answer, strict=True)]


def keyword_counting(completions, **_):
    return [float(sum(text.lower().count(word) for word in POLITE)) for text in completions]


def longer(completions, **_):
    return [float(len(text)) for text in completions]


def found(report, kind):
    return {finding.about for finding in report.findings if finding.kind == kind}


def by_name(report):
    return {hack.name: hack for hack in report.hacks}


def test_a_reward_that_knows_the_answer_is_clean():
    report = inspect_reward(checked(exact), ROWS)
    assert not report.violations
    assert not report.weaknesses
    assert {hack.verdict for hack in report.hacks} == {"resisted"}
    assert set(report.contract) == {"determinism", "order", "batch size", "pickling"}
    assert set(report.contract.values()) == {"ok"}
    assert (report.lowest, report.highest, report.none_share) == (0.0, 1.0, 0.0)
    assert report.rewards_per_second > 0
    assert len(report.hacks) >= 20


def test_keyword_counting_is_caught_with_its_own_keywords():
    report = inspect_reward(checked(keyword_counting), ROWS)
    assert not report.violations
    assert by_name(report)["reward_keywords"].verdict == "beats"
    assert report.best_hack.name == "reward_keywords"
    assert {"reward_keywords", "padded", "other_row"} <= {finding.about for finding in report.weaknesses}


def test_a_weakness_shows_the_rows_in_which_bad_text_scored_above_good_text():
    report = inspect_reward(checked(keyword_counting), ROWS)
    cases = report.worst_cases()
    assert len(cases) == 3
    assert cases[0][0] == "reward_keywords"
    assert len({name for name, _ in cases}) == 3  # each hack once before any comes again
    for name, case in report.worst_cases(1000):
        assert (case.prompt, case.reference_text) == PAIRS[case.row]
        if len(case.completion) < 150:  # longer ones are cut
            assert [case.reference, case.score] == keyword_counting([case.reference_text, case.completion])
        assert case.score >= case.reference
        assert by_name(report)[name].weak
    shown = text_of(report)
    name, worst = cases[0]
    assert repr(worst.prompt) in shown
    assert repr(worst.completion)[:35] in shown
    assert f"{worst.score:.3g}  {name}" in shown
    assert f"{worst.reference:.3g}  reference  {worst.reference_text!r}"[:70] in shown
    json_cases = report.to_dict()["hacks"][0]["examples"]
    assert set(json_cases[0]) == {"row", "prompt", "reference_text", "reference", "completion", "score"}


def test_one_weakness_shows_several_of_its_rows():
    def but_for_the_prompt(prompts, completions, answer, **_):
        return [float(c in (p, good)) for p, c, good in zip(prompts, completions, answer, strict=True)]

    report = inspect_reward(checked(but_for_the_prompt), ROWS)
    assert [name for name, _ in report.worst_cases()] == ["prompt_echo"] * 3
    assert len({case.row for _, case in report.worst_cases()}) == 3


def test_a_clean_reward_has_no_worst_case_and_a_documented_one_is_not_shown():
    assert inspect_reward(checked(exact), ROWS).worst_cases() == []
    known = Documentation(gaming=True)
    assert inspect_reward(checked(keyword_counting), ROWS, documented=known).worst_cases() == []


def test_scores_that_are_not_reproducible_show_their_row():
    for function in (dice, place):
        (finding,) = inspect_reward(checked(function), ROWS).violations
        row = int(re.search(r"row (\d+)", finding.text)[1])
        prompt, completion = PAIRS[row]
        assert finding.text.endswith(f"; prompt {prompt!r}, completion {completion!r}")


def test_a_reward_for_length_is_caught():
    report = inspect_reward(checked(longer), ROWS)
    assert report.length_correlation == pytest.approx(1.0)
    assert "length" in found(report, "note")
    assert by_name(report)["very_long"].verdict == "beats"
    assert report.best_hack.name == "very_long"
    assert by_name(report)["empty"].verdict == "resisted"
    assert by_name(report)["zero_width"].verdict == "beats"


def nan_if_blank(completions, **_):
    return [math.nan if not text.strip() else 1.0 for text in completions]


def infinite(completions, **_):
    return [math.inf for _ in completions]


def one_too_few(completions, **_):
    return [1.0 for _ in completions][1:]


def text_instead(completions, **_):
    return ["good" for _ in completions]


def raises_on_unicode(completions, **_):
    return [float(len(text.encode("ascii"))) for text in completions]


def dice(completions, **_):
    return [random.random() for _ in completions]


def place(completions, **_):
    return [float(row) for row in range(len(completions))]


def hangs_on_nothing(completions, **_):
    while "" in completions:
        pass
    return longer(completions)


@pytest.mark.parametrize(
    ("function", "about"),
    [
        (nan_if_blank, {"empty", "whitespace"}),
        (infinite, {"references"}),
        (one_too_few, {"references"}),
        (text_instead, {"references"}),
        (raises_on_unicode, {"other_language", "look_alikes", "zero_width", "combining", "right_to_left"}),
        (dice, {"determinism"}),
        (place, {"order"}),
        (hangs_on_nothing, {"empty"}),
    ],
)
def test_every_breach_of_the_contract_is_a_violation(function, about):
    reward = checked(function)
    reward.timeout = 0.3
    report = inspect_reward(reward, ROWS)
    assert found(report, "violation") == about
    for finding in report.violations:
        if finding.about not in ("determinism", "order"):
            assert f"'{function.__name__}'" in finding.text
    assert report.rewards_per_second is None
    assert report.to_dict()["verdict"] == "violation"


def test_scores_that_depend_on_the_batch_are_a_weakness_that_can_be_documented():
    def among_others(completions, **_):
        return [len(text) / sum(map(len, completions)) if any(completions) else 0.0 for text in completions]

    report = inspect_reward(checked(among_others), ROWS)
    assert "batch size" in {finding.about for finding in report.weaknesses}
    report = inspect_reward(checked(among_others), ROWS, documented=Documentation(frozenset({"batch_size"})))
    assert "batch size" not in {finding.about for finding in report.weaknesses}


def test_what_cannot_be_pickled_is_noted():
    report = inspect_reward(checked(lambda completions, **_: [0.0 for _ in completions]), ROWS)
    assert "pickling" in found(report, "note")
    assert "range" in found(report, "note")
    assert not report.violations


def test_none_is_counted_and_escapes_are_noted():
    def no_blanks(completions, prompts, **_):
        return [
            None if "Who" in prompt or not text.strip() else float(len(text))
            for text, prompt in zip(completions, prompts, strict=True)
        ]

    report = inspect_reward(checked(no_blanks), ROWS)
    assert report.none_share == pytest.approx(1 / len(ROWS))
    assert by_name(report)["empty"].verdict == "not scored"
    assert by_name(report)["empty"].unscored == len(ROWS) - 1
    assert any("empty, whitespace" in finding.text for finding in report.findings)

    nothing = inspect_reward(checked(lambda completions, **_: [None for _ in completions]), ROWS)
    assert "rows" in {finding.about for finding in nothing.weaknesses}


def test_samples_are_compared_and_counted_in_the_correlation():
    samples = [[prompt, prompt + prompt] for prompt, _ in PAIRS]
    report = inspect_reward(checked(longer), ROWS, samples=samples)
    lengths = [1.5 * len(prompt) for prompt, _ in PAIRS]
    assert report.samples.score == pytest.approx(np.mean(lengths))
    assert report.samples.pairs == len(PAIRS)
    assert report.length_correlation == pytest.approx(1.0)


def test_conversational_rows_are_tried_as_such():
    rows = [
        {"prompt": [{"role": "user", "content": p}], "completion": [{"role": "assistant", "content": c}], "answer": c}
        for p, c in PAIRS
    ]

    def reads_messages(completions, answer, **_):
        return exact([completion[0]["content"] for completion in completions], answer)

    report = inspect_reward(checked(reads_messages), rows)
    assert not report.findings or found(report, "note") == {"pickling"}


# Statistics


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(-4, 4).map(float), min_size=1, max_size=9))
def test_the_verdict_is_that_of_trying_all_signs(gaps):
    """Slow reference: the signed-rank sum under every assignment of signs, ranks counted by hand."""
    batch = Batch.of_rows([{"prompt": str(i), "completion": "x"} for i in range(len(gaps))])
    result = separate("h", "h", gaps, [0.0] * len(gaps), ["t"] * len(gaps), batch)
    moved = [gap for gap in gaps if gap]
    if not moved:
        assert result.verdict == "ties"
        return
    sizes = [abs(gap) for gap in moved]
    ranks = [sum(other < size for other in sizes) + (sizes.count(size) + 1) / 2 for size in sizes]
    observed = sum(rank for rank, gap in zip(ranks, moved, strict=True) if gap > 0)
    chosen = [
        sum(rank for rank, up in zip(ranks, ups, strict=True) if up) for ups in product((0, 1), repeat=len(moved))
    ]
    higher = sum(total >= observed for total in chosen) / len(chosen)
    lower = sum(total <= observed for total in chosen) / len(chosen)
    assert result.p_value == pytest.approx(higher)
    if len(gaps) < FEW_PAIRS:
        assert result.verdict == ("resisted" if min(gaps) > 0 else "beats" if max(gaps) < 0 else "ties")
    else:
        assert result.verdict == ("resisted" if higher < 0.05 else "beats" if lower < 0.05 else "ties")


@pytest.mark.parametrize("size", [8, 12, 13, 40])
def test_without_equal_gaps_the_test_is_scipys(size):
    gaps = np.random.default_rng(size).normal(0.3, 1.0, size)
    exact = [stats.wilcoxon(gaps, alternative=side, method="exact").pvalue for side in ("greater", "less")]
    assert signed_rank(gaps) == pytest.approx(exact, abs=0.01)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.one_of(st.none(), st.integers(-3, 3).map(float)), min_size=1, max_size=20))
def test_shares_and_means_are_those_of_the_pairs(others):
    references = [float(i % 3) if i % 4 else None for i in range(len(others))]
    batch = Batch.of_rows([{"prompt": "p", "completion": "x"}] * len(others))
    result = separate("h", "h", references, others, ["t"] * len(others), batch)
    pairs = [(a, b) for a, b in zip(references, others, strict=True) if a is not None and b is not None]
    assert result.pairs == len(pairs)
    assert result.unscored == sum(a is not None and b is None for a, b in zip(references, others, strict=True))
    if pairs:
        assert result.wins == pytest.approx(sum(a > b for a, b in pairs) / len(pairs))
        assert result.ties == pytest.approx(sum(a == b for a, b in pairs) / len(pairs))
        assert result.score == pytest.approx(sum(b for _, b in pairs) / len(pairs))


def test_differences_are_relative_and_none_is_none():
    assert difference([1.0, 100.0], [1.0, 100.5]) == (1, pytest.approx(0.5 / 100.5))
    assert difference([None, 1.0], [None, 1.0]) == (0, 0.0)
    assert difference([None, 1.0], [0.0, 1.0])[1] == math.inf
    assert difference([[1.0, 2.0], None], [[1.0, 3.0], None]) == (0, pytest.approx(1 / 3))


def test_a_network_is_excused_for_rounding_and_a_function_is_not():
    class Judge:
        def __init__(self, model):
            self.parts = [{"model": model}]
            self.calls = 0

        def __call__(self, completions, **_):
            self.calls += 1
            return [0.5 + 0.02 * (self.calls % 2) for _ in completions]

    assert holds_model(checked(Judge(torch.nn.Linear(1, 1))))
    assert not holds_model(checked(exact))
    assert not inspect_reward(checked(Judge(torch.nn.Linear(1, 1))), ROWS).violations
    assert found(inspect_reward(checked(Judge(None)), ROWS), "violation") == {"determinism"}


# What modules say of their rewards


@pytest.fixture
def module(monkeypatch):
    made = types.ModuleType("made_up_rewards")
    monkeypatch.setitem(sys.modules, made.__name__, made)
    for function in (keyword_counting, exact, longer, infinite):
        monkeypatch.setattr(function, "__module__", made.__name__)
    made.EXAMPLES = ROWS
    return made


def test_a_listed_weakness_is_documented(module):
    module.WEAKNESSES = {"keyword_counting": ("reward_keywords", "never_seen")}
    report = inspect_reward(checked(keyword_counting), module_examples(checked(keyword_counting)))
    standing = {finding.about: finding.standing for finding in report.findings}
    assert standing["reward_keywords"] == "documented"
    assert standing["padded"] == "new"
    assert any("never_seen" in finding.text for finding in report.findings if finding.about == "documentation")


def test_the_composite_must_resist_what_is_documented(module, monkeypatch):
    monkeypatch.setattr(keyword_counting, "__doc__", "Count.\n\nGaming: say please.\n")
    module.composite = exact
    report = inspect_reward(checked(keyword_counting), ROWS)
    assert not report.weaknesses
    assert {finding.standing for finding in report.findings if finding.kind == "weakness"} == {"resisted"}

    module.composite = longer
    report = inspect_reward(checked(keyword_counting), ROWS)
    assert "padded" in {finding.about for finding in report.weaknesses}
    assert {finding.standing for finding in report.weaknesses} == {"shared"}

    module.composite = infinite
    report = inspect_reward(checked(keyword_counting), ROWS)
    assert all("made_up_rewards:infinite fails on it" in finding.text for finding in report.weaknesses)


def test_prose_does_not_excuse_a_composite(module, monkeypatch):
    monkeypatch.setattr(keyword_counting, "__doc__", "Count.\n\nGaming: say please.\n")
    module.composite = keyword_counting
    assert documentation(checked(keyword_counting)) == Documentation()
    module.WEAKNESSES = {"keyword_counting": ["padded"]}
    assert documentation(checked(keyword_counting)).weaknesses == {"padded"}


# The view


def text_of(report):
    console = Console(width=120, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(report_view(report))
    return console.export_text()


def test_the_view_shows_contract_hacks_and_verdict():
    shown = text_of(inspect_reward(checked(keyword_counting), ROWS))
    assert "determinism ok" in shown
    assert re.search(r"reward_keywords .* beats", shown)
    assert "keeps the contract and has" in shown
    assert "best hack: reward_keywords" in shown
    shown = text_of(inspect_reward(checked(nan_if_blank), ROWS))
    assert "breaks the contract: empty, whitespace" in shown
    shown = text_of(inspect_reward(checked(exact), ROWS))
    assert "no hack reaches the references" in shown


def test_a_narrow_terminal_costs_the_descriptions_only():
    console = Console(width=80, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(report_view(inspect_reward(checked(keyword_counting), ROWS)))
    shown = console.export_text()
    assert re.search(r"hack +score +reference +wins +ties +p +verdict +what", shown)
    assert re.search(r"reward_keywords +\S+ +\S+ +0% +0% +\S+ +beats +words", shown)


def test_the_same_check_twice_says_the_same():
    def view():
        report = inspect_reward(checked(keyword_counting), ROWS)
        report.rewards_per_second = None
        return text_of(report), json.dumps(report.to_dict(), allow_nan=False)

    assert view() == view()
