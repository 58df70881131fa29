"""The report and the token view in a real browser, clicked through as a reader does."""

import copy
import json
import re

import pytest
from browser import Browser, chromium

from rlgen.evaluation.curves import run_curves
from rlgen.evaluation.report import render_report
from rlgen.evaluation.samples import sample_data
from rlgen.evaluation.tokens import render_tokens

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(chromium() is None, reason="no Chromium or Chrome is installed"),
]

CARD = "#cards .card"


@pytest.fixture(scope="module")
def browser():
    with Browser(chromium()) as opened:
        yield opened


@pytest.fixture(scope="module")
def results(fake_results):
    """Forty-five prompts, two plans; one search word, one disagreement, and an attack that must stay text."""
    results = copy.deepcopy(fake_results(45, ("base", "sft", "ppo"), (0.0, 0.7)))
    results["samples"][7]["completions"]["ppo"][0]["text"] = "zanzibar <img src=x onerror=console.error(1)> </script>"
    return results


@pytest.fixture
def page(browser, results, fake_runs, tmp_path):
    file = tmp_path / "report.html"
    panels = [panel for name, run in fake_runs.items() for panel in run_curves(name, run)]
    file.write_text(render_report(results, panels), encoding="utf-8")
    browser.problems.clear()
    browser.screen(1200)
    browser.open(file)
    yield browser
    assert browser.problems == []


def cards(page):
    return page.run(f"document.querySelectorAll('{CARD}').length")


def count(page):
    return page.run("document.querySelector('#count').textContent")


def headings(page):
    return page.run(f"[...document.querySelectorAll('{CARD} h3')].map((node) => node.textContent)")


def gains(page, word):
    return [float(found[1]) for text in headings(page) if (found := re.search(rf"{word} by ([\d.]+)", text))]


def test_a_reader_clicks_through_the_samples(page, results):
    assert cards(page) == 20
    assert count(page) == "1 to 20 of 45 prompts"
    assert page.run("document.querySelectorAll('#cards del, #cards ins').length") > 0

    page.click("#next")
    assert count(page) == "21 to 40 of 45 prompts"
    assert page.run("document.activeElement.id") == "cards"
    page.click("#next")
    assert cards(page) == 5
    assert page.run("document.querySelector('#next').disabled")
    page.click("#previous")
    assert count(page) == "21 to 40 of 45 prompts"

    page.choose("#order", "win")
    wins = gains(page, "better")
    assert wins == sorted(wins, reverse=True)
    assert len(wins) == cards(page) > 1
    page.choose("#order", "loss")
    losses = gains(page, "worse")
    assert losses == sorted(losses, reverse=True)
    assert len(losses) == cards(page)

    page.choose("#order", "data")
    page.choose("#plan", "1")
    assert page.run(f"document.querySelector('{CARD} .beside').textContent").count("(2)") == 2
    page.choose("#plan", "0")

    page.choose("#first", "0")  # base
    assert "base" in page.run(f"document.querySelector('{CARD} .beside').textContent")
    page.click("#diff")
    assert page.run("document.querySelectorAll('#cards del, #cards ins').length") == 0

    page.click(f"{CARD} summary")
    page.wait(f"document.querySelector('{CARD} details').open")
    opened = page.wait(f"document.querySelectorAll('{CARD} details .answer').length")
    assert opened == len(results["checkpoints"])


def test_filters_keep_what_they_promise(page, results):
    greedy = [sample for sample in results["samples"] if sample["sampling"] == "greedy"]
    cut = [s for s in greedy if not all(s["completions"][name][0]["finished"] for name in ("sft", "ppo"))]
    assert 0 < len(cut) < len(greedy)
    page.click("#cut")
    assert count(page).endswith(f"of {len(cut)} prompts")
    page.click("#cut")

    page.choose("#order", "disagree")
    directions = {m["name"]: m["higher_is_better"] for m in results["measures"]}
    directions = {name: 1 if up else -1 for name, up in directions.items() if up is not None}
    torn = 0
    for sample in greedy:
        scores = [sample["completions"][name][0]["scores"] for name in ("sft", "ppo")]
        gains = [sign * (scores[1][name] - scores[0][name]) for name, sign in directions.items() if name in scores[0]]
        torn += max(gains) > 1e-4 and min(gains) < -1e-4
    assert count(page).endswith(f"of {torn} prompts")

    page.choose("#order", "data")
    page.type("#search", "ZANZIBAR")
    page.wait("document.querySelector('#count').textContent.endsWith('of 1 prompts')")
    assert "<img src=x" in page.run(f"document.querySelector('{CARD}').textContent")
    assert page.run("document.querySelectorAll('img').length") == 0
    page.type("#search", "no such words")
    page.wait("document.querySelector('#count').textContent === 'No prompt fits.'")
    assert cards(page) == 0


def test_marked_words_are_those_that_differ(page, results):
    page.choose("#order", "data")
    sample = next(s for s in results["samples"] if s["sampling"] == "greedy")
    left, right = (sample["completions"][name][0]["text"] for name in ("sft", "ppo"))
    texts = page.run(f"[...document.querySelector('{CARD} .beside').querySelectorAll('p')].map((p) => p.textContent)")
    assert texts == [left, right]
    kept = page.run(
        f"[...document.querySelector('{CARD} .beside').querySelectorAll('p')].map((p) =>"
        " { const copy = p.cloneNode(true); copy.querySelectorAll('del, ins').forEach((n) => n.remove());"
        " return copy.textContent.split(/\\s+/).filter(Boolean); })"
    )
    assert kept[0] == kept[1]


def test_the_page_can_be_used_by_keyboard_printed_and_read_on_a_phone(page):
    page.press("Tab", 9)
    assert page.run("document.activeElement.className") == "skip"
    unnamed = page.run(
        "[...document.querySelectorAll('select, input, button')].filter((node) =>"
        " !(node.labels && node.labels.length) && !node.textContent.trim()).length"
    )
    assert unnamed == 0
    assert page.run("document.querySelectorAll('main, header, nav[aria-label]').length") == 3
    assert page.run("[...document.querySelectorAll('table')].every((table) => table.caption)")

    for dark in (False, True):
        page.screen(390, 844, dark=dark, phone=True)
        assert page.run("document.documentElement.scrollWidth") <= 390
        colors = page.run("[getComputedStyle(document.body).color, getComputedStyle(document.body).backgroundColor]")
        light = [sum(map(float, re.findall(r"[\d.]+", color)[:3])) for color in colors]
        assert (light[0] > light[1]) == dark

    printed = page.pdf()
    assert printed.startswith(b"%PDF")
    assert len(printed) > 20_000


def test_one_checkpoint_has_nothing_to_compare(browser, fake_results, tmp_path):
    browser.problems.clear()
    (tmp_path / "one.html").write_text(render_report(fake_results(6, names=("mine",))), encoding="utf-8")
    browser.open(tmp_path / "one.html")
    assert cards(browser) == 6
    assert browser.run("document.querySelector('#first').closest('label').hidden")
    assert browser.run("[...document.querySelector('#order').options].map((o) => o.value)") == ["random", "data"]
    assert browser.problems == []


def test_tokens_are_shaded_by_what_the_reader_chooses(browser, tmp_path):
    tokens = [
        {"text": text, "id": i, "logprobs": {"sft": -1.0, "ppo": -1.0 + kl}, "kl": kl, "value": 0.5, "reward": 0.0}
        | {"advantage": -kl}
        for i, (text, kl) in enumerate((("Find", 0.8), (" it", -0.4), (".", 0.0)))
    ]
    row = {"id": "a", "prompt": "p", "text": "Find it.", "finished": True, "reward": 1.0, "kl": 0.4, "tokens": tokens}
    settings = {"max_new_tokens": 8, "critic": "c", "kl_coef": 0.05, "gamma": 1.0, "lam": 0.95}
    names = [{"name": name} for name in ("sft", "ppo")]
    view = {"author": "ppo", "reference": "sft", "checkpoints": names, "rows": [row], **settings}
    (tmp_path / "tokens.html").write_text(render_tokens(view), encoding="utf-8")
    browser.problems.clear()
    browser.screen(1000)
    browser.open(tmp_path / "tokens.html")

    def strengths():
        """How opaque the warm color of each token is: above zero for what was pushed up."""
        colors = browser.run(
            "[...document.querySelectorAll('.token')].map((node) => getComputedStyle(node).backgroundColor)"
        )
        return [float(color.strip("rgba()").replace("/", ",").split(",")[-1]) for color in colors]

    pushed = strengths()
    assert pushed[0] > 0.5
    assert pushed[1:] == [0.0, 0.0]
    browser.click("[value=advantage]")
    turned = strengths()
    assert turned[0] == 0.0
    assert 0.2 < turned[1] < 0.5
    assert browser.problems == []


def test_problems_of_a_page_are_seen(browser, tmp_path):
    """The checks above could not fail if the browser did not report what goes wrong."""
    browser.problems.clear()
    (tmp_path / "bad.html").write_text("<script>console.error('first'); throw new Error('second')</script>")
    browser.open(tmp_path / "bad.html")
    assert browser.run("1") == 1
    assert any("first" in problem for problem in browser.problems)
    assert any("second" in problem for problem in browser.problems)
    browser.problems.clear()


def test_shared_prompts_are_stored_once(results):
    data = sample_data(results, [("sft", "ppo")])
    assert len(data["prompts"]) == 45
    assert len(data["rows"]) == 90
    assert json.dumps(data["rows"]).count("zanzibar") == 1
