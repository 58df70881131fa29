import json
import re
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlgen.evaluation import charts
from rlgen.evaluation.curves import run_curves
from rlgen.evaluation.formats import key_measures
from rlgen.evaluation.report import render_report, write_report
from rlgen.evaluation.samples import script_data
from rlgen.evaluation.scatter import Point, scatter

VOID = {"meta", "link", "br", "hr", "img", "input"}


class Outline(HTMLParser):
    """Checks that tags nest, and collects what the tests look for."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.headings: list[str] = []
        self.unlabelled = 0
        self.links: list[str] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.tags.append(tag)
        self.links += [value for name, value in attrs if name in ("src", "href")]
        if tag == "svg" and "aria-label" not in given and given.get("aria-hidden") != "true":
            self.unlabelled += 1
        if re.fullmatch("h[1-6]", tag):
            self.headings.append(tag)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def outline(page: str) -> Outline:
    parser = Outline()
    parser.feed(page)
    parser.close()
    return parser


@pytest.fixture(scope="module")
def results(fake_results):
    return fake_results(24, temperatures=(0.0, 0.7))


def test_the_page_is_self_contained_and_well_formed(results, fake_runs):
    page = render_report(results, [panel for name, run in fake_runs.items() for panel in run_curves(name, run)])
    parsed = outline(page)
    assert parsed.open == []
    assert all(link.startswith("#") and f'id="{link[1:]}"' in page for link in parsed.links)
    assert not re.search(r"https?://|url\(|@import", page)
    assert parsed.unlabelled == 0
    assert parsed.headings[0] == "h1"
    assert parsed.headings.count("h1") == 1


def test_the_page_says_what_the_results_say(results, fake_runs, tmp_path):
    page = write_report(tmp_path, results, fake_runs).read_text()
    assert page.index(results["verdict"][0].split(":")[0]) < page.index('id="scores"') < page.index('id="samples"')
    for title in ("Explained variance of the critic", "Pair accuracy", "Token accuracy", "Entropy"):
        assert title in page
    assert f"{results['summary']['ppo']['greedy']['reward']['mean']:.3f}" in page
    assert results["data_fingerprint"] in page
    assert "prefers-color-scheme: dark" in page
    assert "@media print" in page


def test_text_of_models_and_users_cannot_break_the_page(fake_results):
    results = fake_results(12)
    attack = "</script><script>alert(1)</script><img src=x onerror=alert(1)>\u2028"
    results["samples"][0]["completions"]["ppo"][0]["text"] = attack
    results["samples"][0]["reference"] = attack
    results["task"] = attack
    results["checkpoints"][0]["path"] = attack
    results["warnings"] = [attack]
    page = render_report(results)
    assert "alert(1)</script>" not in page
    assert "<img" not in page
    data = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert json.loads(data.group(1))["prompts"][0][2] == attack
    assert outline(page).tags.count("script") == 2


@given(st.text())
def test_embedded_data_survives_any_text(text):
    embedded = script_data({"text": text})
    assert "<" not in embedded
    assert json.loads(embedded) == {"text": text}


def test_one_checkpoint_or_no_rewards_still_make_a_page(fake_results):
    alone = render_report(fake_results(6, names=("mine",)))
    assert "Nothing to decide" in alone
    assert 'id="differences"' not in alone
    strangers = fake_results(6, names=("old", "new"))
    assert key_measures(strangers) == ["reward", "rouge_l", "length"]
    assert "No difference shown between new and old" in render_report(strangers)


def test_curves_take_the_last_value_of_a_step_and_skip_broken_lines(tmp_path):
    (tmp_path / "run.json").write_text('{"stage": "sft"}')
    lines = ['{"step": 1, "loss": 3}', '{"step": 2, "loss": 9}', '{"step": 2, "loss": 2}', '{"step": 3, "loss": null}']
    (tmp_path / "metrics.jsonl").write_text("\n".join([*lines, '{"step": 4, "train_runtime": 1, "loss": 5}', '{"st']))
    (panel,) = run_curves("mine", tmp_path)
    assert panel.lines == {"training": [(1.0, 3.0), (2.0, 2.0)]}
    assert run_curves("nothing", tmp_path / "missing") == []


def test_curves_of_ppo_are_those_that_were_logged(fake_runs):
    panels = {panel.title: panel for panel in run_curves("any name", fake_runs["ppo"])}
    assert list(panels) == ["Reward", "KL to the reference", "Explained variance of the critic", "Entropy"]
    assert all(len(panel.lines["rollouts"]) == 50 for panel in panels.values())


@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e6))
def test_ticks_are_round_and_cover_the_range(low, width):
    found = charts.ticks(low, low + width)
    assert found[0] <= low + 1e-6 * width
    assert found[-1] >= low + width * (1 - 1e-6)
    assert len(found) <= 8


def test_ticks_of_a_point_and_their_labels():
    assert len(charts.ticks(2.0, 2.0)) > 1
    assert [charts.tick_label(value) for value in (0.05, -2.0, 12000.0, 3e6)] == ["0.05", "−2", "12k", "3M"]


@pytest.mark.parametrize(
    "svg",
    [
        charts.line_chart({"a": [(0, 1), (5, 1)], "b <&": [(0, 2), (5, 3)]}, title='"quoted" & <b>'),
        charts.interval_row(
            [(0.1, 0.0, 0.2), (float("nan"),) * 3, (1, float("nan"), 2)], (-1, 1), colour=9, label="<"
        ),
        charts.histogram_row([0.1, 0.5, 0.5], (0, 1), peak=0.7, colour=0, label="&"),
        charts.axis_row((-0.3, 0.4)),
        scatter(
            [
                Point("a <&", (0.0, 0.0, 0.0), (0.5, 0.4, 0.6), 0),
                Point("b", (1.0, float("nan"), float("nan")), (0.5, float("nan"), float("nan")), 1, hollow=True),
            ],
            [(0.0, 0.5), (1.0, 0.6)],
            x_label="KL & more",
            label='"quoted"',
        ),
    ],
)
def test_charts_are_valid_xml(svg):
    assert ElementTree.fromstring(str(svg)).tag == "svg"


def test_a_span_holds_its_values_and_never_collapses():
    low, high = charts.padded_span([1.0, 2.0, float("nan")], include=[0.0])
    assert low < 0
    assert high > 2
    assert charts.padded_span([3.0, 3.0])[0] < 3.0 < charts.padded_span([3.0, 3.0])[1]
    assert charts.padded_span([]) == (-0.5, 0.5)


def test_tests_and_their_correction_are_shown(results):
    page = render_report(results)
    assert "p, Holm" in page


def test_the_tables_hold_every_main_pair_and_say_what_the_plots_leave_out(fake_results):
    names = ("base", *(f"{method}-seed{seed}" for method in ("sft", "dpo", "ppo") for seed in range(3)))
    page = render_report(fake_results(8, names=names))
    differences = page[page.index('id="differences"') : page.index('id="distribution"')]
    assert differences.count('class="pair"') == 12
    assert "4 more pairs stand in the table" in differences
    rates = differences[differences.index('aria-label="Win rates"') :]
    assert "ppo-seed2 over dpo-seed2" in rates or "dpo-seed2 over ppo-seed2" in rates


def test_claims_about_methods_are_marked(fake_results):
    page = render_report(fake_results(12, names=("sft", "ppo-seed0", "ppo-seed1")))
    verdict = page[page.index('id="verdict"') : page.index('id="scores"')]
    assert verdict.index('class="methods"') < verdict.index('class="checkpoints"')
    assert 'aria-label="Ways of training"' in page


def test_parts_that_results_may_have_are_shown(results):
    fuller = json.loads(json.dumps(results))
    fuller["pareto"] = [
        {"sampling": "greedy", "checkpoint": name, "measure": "reward", "value": value, "kl": kl, "on_front": front}
        for name, value, kl, front in (("sft", 0.5, 0.0, True), ("ppo", 0.8, 2.0, True), ("base", 0.2, 3.0, False))
    ]
    interval = {"ci_low": 0.4, "ci_high": 0.7, "n": 24, "sampling": "greedy", "a": "sft", "b": "ppo"}
    controlled = {
        "length_difference": -3.0,
        "length_controlled_win_rate": None,
        "length_controlled_ci_low": None,
        "length_controlled_ci_high": None,
    }
    fuller["win_rates"] = [interval | controlled | {"measure": "reward", "win_rate": 0.55}]
    verdict = interval | {"verdict": "lost", "gain": -0.2, "could_lose": 0.3}
    fuller["capabilities"] = [
        {"name": "sums", "measure": "correct", "margin": 0.02, "warnings": ["few <prompts>"], "verdicts": [verdict]}
    ]
    fuller["conditions"] = [{"condition": "ppo < sft on reward", "failed": True, "reason": "by 0.1"}]
    page = render_report(fuller)
    assert outline(page).open == []
    assert 'class="front"' in page
    assert "sft, ppo" in page[page.index('id="front"') :]
    assert 'class="worse">lost' in page
    assert "few &lt;prompts&gt;" in page
    assert "Wins at equal length" in page
    assert "failed" in page
