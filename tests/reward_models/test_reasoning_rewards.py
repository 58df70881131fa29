"""Answer reading, equivalence, ordered examples and documented hacks of the reasoning rewards."""

from __future__ import annotations

import json
import os
import threading
import time
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reward_models import _math
from reward_models import reasoning as rewards
from reward_models._math import Worker, equivalent, number
from reward_models.reasoning import final_answer


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"So it is \boxed{42}.", "42"),
        (r"\boxed{\frac{1}{2}} and that is all", r"\frac{1}{2}"),
        (r"\boxed{7}, so again \boxed{7}", "7"),
        (r"\boxed{3} or \boxed{4}", None),
        (r"\boxed{}", None),
        (r"\boxed{ }", None),
        ("It takes 3 days.\n#### 1,234", "1,234"),
        ("<answer> blue </answer>", "blue"),
        ("The answer is 12 apples.", "12 apples"),
        ("The answer is 3.5.", "3.5"),
        ("The final answer is: **17**", "17"),
        ("Answer: x = 3", "x = 3"),
        ("The answer is 5. Wait, the answer is 6.", None),
        ("First 3, then 4, so 7 in all", "7"),
        ("No idea.", None),
        ("", None),
        (r"The answer is 5 but \boxed{6}", "6"),
    ],
)
def test_final_answer(text: str, answer: str | None) -> None:
    assert final_answer(text) == answer


@pytest.mark.parametrize(
    ("answer", "gold"),
    [
        ("0.5", "1/2"),
        (r"\frac{1}{2}", "0.5"),
        (r"\frac12", "1/2"),
        ("1,234", "1234"),
        ("$68", "68"),
        ("68.00", "68"),
        ("16 oranges", "16"),
        ("50%", "0.5"),
        ("−3", "-3"),
        ("0.3333333", "1/3"),
        (r"2\sqrt{2}", r"\sqrt{8}"),
        ("x^2-3x-10", "(x+2)(x-5)"),
        ("x = 3", "3"),
        ("Blue", "blue"),
        ("(1, 2)", "(1,2)"),
        (r"\text{blue}", "blue"),
        (r"\begin{pmatrix}1\\2\end{pmatrix}", r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}"),
        (r"(-\infty, 3]", r"(-\infty,3]"),
        (r"1.5 \times 10^3", "1500"),
        (r"\frac{3}{4}", r"75\%"),
    ],
)
def test_equal_answers(answer: str, gold: str) -> None:
    assert equivalent(answer, gold)


@pytest.mark.parametrize(
    ("answer", "gold"),
    [
        ("5", "6"),
        ("0.33", "1/3"),
        ("3.14", r"\pi"),
        ("", "3"),
        ("1, 2, 3", "3"),
        ("2 or 3", "3"),
        ("1, 2, 3, 4, 5, 6", "6"),
        ("x+1", "x+2"),
        ("x + 1", "1"),
        ("5x", "5"),
        ("room 3", "3"),
        ("a 3", "b 3"),
        ("blue", "red"),
        ("12", "1,2"),
        ("-5", "5"),
        ("1/0", "0"),
        ("9**9**9**9", "3"),
        ("9^{9^{9^{9}}}", "x+3"),
        ("99999999!", "x+3"),
    ],
)
def test_different_answers(answer: str, gold: str) -> None:
    start = time.monotonic()
    assert not equivalent(answer, gold)
    assert time.monotonic() - start < 60.0


@given(st.fractions(min_value=-1000, max_value=1000, max_denominator=500))
def test_numbers_are_read_exactly(value: Fraction) -> None:
    assert number(f"{value.numerator}/{value.denominator}") == value
    assert number(f"{value.numerator:,}") == value.numerator
    assert equivalent(rf"\frac{{{abs(value.numerator)}}}{{{value.denominator}}}", str(abs(value)))
    assert not equivalent(str(value), str(value + 1))


def test_comparing_works_off_the_main_thread_and_after_a_fork() -> None:
    found: list[bool] = []
    thread = threading.Thread(target=lambda: found.append(Worker().compare("x^2-1", "(x-1)(x+1)")))
    thread.start()
    thread.join(60)
    assert found == [True]
    _math._WORKER.compare("x", "x")  # the parent's worker runs; a child must not read from its pipe
    read, write = os.pipe()
    child = os.fork()
    if child == 0:  # pragma: no cover
        os.write(write, b"1" if _math._WORKER._process is None else b"0")
        os._exit(0)
    os.waitpid(child, 0)
    assert os.read(read, 1) == b"1"


def test_a_worker_that_hangs_or_dies_costs_one_comparison(monkeypatch: pytest.MonkeyPatch) -> None:
    worker = Worker()
    assert worker.compare("x+1", "1+x")
    assert worker._process is not None
    worker._process.kill()
    worker._process.wait()
    assert worker.compare("x+1", "1+x")
    monkeypatch.setattr(_math, "TIMEOUT", 0.5)
    start = time.monotonic()
    assert not worker.compare("3", "9^{9^{9^{9^{9}}}}")
    assert time.monotonic() - start < 10.0
    assert worker._process is None
    worker.stop()


RIGHT = "The hens lay 12 * 5 = 60 eggs in one week, and in 4 weeks that makes 240 eggs.\n#### 240"


def test_better_answers_score_higher() -> None:
    ordered = [RIGHT, "#### 240", "#### 241"]
    scores = rewards.composite(completions=ordered, answer=["240"] * 3)
    assert scores[0] == 1.0 > (scores[1] or 0.0) >= rewards.CORRECT_SHARE > 0.0
    assert scores[2] == 0.0
    working = rewards.working(completions=[RIGHT, "#### 240", "240", ""])
    assert sorted(working, reverse=True) == working
    assert len(set(working)) == 4


HACKS = {
    "all numbers": " ".join(map(str, range(240, 260))),
    "list": "The answer is 238, 239, 240.",
    "alternatives": "The answer is 240 or 241.",
    "many boxes": r"\boxed{239} \boxed{240}",
    "many statements": "The answer is 239. The answer is 240.",
    "empty box": r"\boxed{}",
    "empty hashes": "240\n####",
    "range": "The answer is between 200 and 300.",
    "variable": "The answer is 240x.",
    "negated": "The answer is not 240.",
    "the words": "the right answer",
    "the prompt": "How many eggs does he get in 4 weeks?",
    "huge": "9" * 5000,
}


@pytest.mark.parametrize("hack", HACKS)
def test_hacks_earn_nothing(hack: str) -> None:
    assert rewards.correct(completions=[HACKS[hack]], answer=["240"]) == [0.0]
    assert rewards.composite(completions=[HACKS[hack]], answer=["240"]) == [0.0]


def test_gold_answers_may_be_written_as_in_the_data_sets() -> None:
    golds = ["5 + 5 = 10\n#### 10", r"We get \boxed{10}.", "10", "10.0", 10]
    assert rewards.correct(completions=["#### 10"] * 5, answer=golds) == [1.0] * 5  # type: ignore[arg-type]


OPTIONS = ["oven", "fridge", "book shelf", "shelf"]


@pytest.mark.parametrize(
    ("text", "score"),
    [
        ("The answer is B.", 1.0),
        ("(B)", 1.0),
        ("B", 1.0),
        ("B. fridge", 1.0),
        (r"\boxed{B}", 1.0),
        (r"\boxed{\text{B}}", 1.0),
        ("#### B", 1.0),
        ("The correct answer is (B) because A is hot.", 1.0),
        ("You keep it in the fridge.", 1.0),
        ("A good place is cold. I would say the answer is fridge", 1.0),
        ("The answer is b", 1.0),
        ("Option B is correct.", 1.0),
        ("**B**", 1.0),
        ("A fridge keeps it cold.", 1.0),
        ("The answer is A.", 0.0),
        ("A, B, C, D", 0.0),
        ("The answer is A, B, C or D.", 0.0),
        ("The answer is A or B.", 0.0),
        ("The answer is A. The answer is B.", 0.0),
        ("(A) (B)", 0.0),
        ("oven fridge shelf", 0.0),
        ("", 0.0),
        ("No idea.", 0.0),
    ],
)
def test_choice(text: str, score: float) -> None:
    assert rewards.choice(completions=[text], answer=["B"], choices=[OPTIONS]) == [score]
    assert rewards.choice(completions=[text], answer=["B. fridge"], choices=[OPTIONS]) == [score]
    assert rewards.choice(completions=[text], answer=["fridge"], choices=[OPTIONS]) == [score]


def test_choice_prefers_the_longer_option_and_names_bad_rows() -> None:
    texts = ["On the book shelf.", "On the shelf."]
    assert rewards.choice(completions=texts, answer=["C", "D"], choices=[OPTIONS] * 2) == [1.0, 1.0]
    assert rewards.choice(completions=["7"], answer=["7"], choices=[["5", "7"]]) == [1.0]
    with pytest.raises(ValueError, match="neither a letter nor the text of one of 4 choices"):
        rewards.choice(completions=["A"], answer=["cellar"], choices=[OPTIONS])


def gym_entry(**changes: Any) -> dict[str, Any]:
    metadata = {"source_dataset": "gsm_symbolic", "answer_value": 20}
    return {"question": "How many?", "answer": "20", "metadata": metadata} | changes


def test_gym_uses_the_data_sets_scorer_and_pays_nothing_for_trying() -> None:
    texts = ["The answer is 20", "<answer>20</answer>", "20", "The answer is 7", "", "\\boxed{20} \\boxed{7}"]
    entries = [gym_entry()] * len(texts)
    assert rewards.gym(completions=texts, entry=entries) == [1.0, 1.0, 1.0, 0.0, 0.0, 0.0]
    assert rewards.gym(completions=texts[:1], entry=[json.dumps(gym_entry())]) == [1.0]
    partial = rewards.make_gym(partial=1.0)(texts[3:4], entries[:1])[0]
    assert partial is not None
    assert 0.0 < partial < 0.1
    named = rewards.gym(completions=texts[:1], entry=[gym_entry(metadata={})], dataset=["gsm_symbolic"])
    assert named == [1.0]


@pytest.mark.parametrize(
    "name", ["chain_sum", "leg_counting", "word_sorting", "tower_of_hanoi", "syllogism", "countdown"]
)
def test_gym_on_real_items(name: str) -> None:
    import reasoning_gym

    items = list(reasoning_gym.create_dataset(name, size=2, seed=5))
    bare = [item["answer"] for item in items]
    assert rewards.gym(completions=bare, entry=items) == [1.0, 1.0]
    assert rewards.gym(completions=[f"So:\n<answer>{answer}</answer>" for answer in bare], entry=items) == [1.0, 1.0]
    assert rewards.gym(completions=["<answer>no idea</answer>"] * 2, entry=items) == [0.0, 0.0]


def test_gym_names_what_is_missing() -> None:
    with pytest.raises(ValueError, match=r"lacks metadata\.source_dataset"):
        rewards.gym(completions=["1"], entry=[gym_entry(metadata={})])
    with pytest.raises(ValueError, match="no data set 'nope'"):
        rewards.gym(completions=["1"], entry=[gym_entry()], dataset=["nope"])


def test_composite_takes_the_reward_that_fits_the_row() -> None:
    given_rows: dict[str, list[Any]] = {
        "answer": ["240", "B", None, None],
        "choices": [None, OPTIONS, None, None],
        "entry": [None, None, gym_entry(), None],
    }
    texts = [RIGHT, "It must be cold there, so the answer is B.", "A count shows that the answer is 20", "x"]
    assert rewards.composite(completions=texts, **given_rows) == [1.0, 1.0, 1.0, None]
    wrong = ["The well written working leads us to this answer.\n#### 3"] * 4
    assert rewards.composite(completions=wrong, **given_rows) == [0.0, 0.0, 0.0, None]


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=200), st.text(max_size=20))
def test_reading_survives_any_text(text: str, gold: str) -> None:
    answer = final_answer(text)
    assert answer is None or answer in text or answer == answer.strip()
    assert number(text) is None or isinstance(number(text), Fraction)
    for wrapped in (f"\\boxed{{{text}", f"#### {text}", f"The answer is {text}", f"<answer>{text}</answer>"):
        assert rewards.choice([wrapped], ["A"], [["yes", "no"]])[0] in (0.0, 1.0)
        assert final_answer(wrapped) is None or isinstance(final_answer(wrapped), str)
