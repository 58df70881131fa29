"""Win rates by a judge, against a server of our own whose tastes are known."""

import json
import re

import pytest
from datasets import Dataset

from recipes.compare import main
from rlgen.errors import ConfigError, ModelError
from rlgen.evaluation.judged import judge_pairs, open_judge


def shown(body):
    question = body["messages"][0]["content"]
    return [re.search(rf"<answer_{x}>\n(.*)\n</answer_{x}>", question, re.DOTALL)[1] for x in "ab"]


def likes_longer(body):
    a, b = map(len, shown(body))
    return f"Verdict: {'tie' if a == b else 'A' if a > b else 'B'}"


def likes_what_comes_first(body):
    return "Verdict: A"


def case(texts):
    """Rows and results of two checkpoints, `texts` by name per prompt."""
    count = len(next(iter(texts.values())))
    rows = Dataset.from_list([{"prompt": f"p{i}", "topic": f"t{i}"} for i in range(count)])
    samples = [
        {"sampling": plan, "completions": {name: [{"text": plan[0] + given[i]}] for name, given in texts.items()}}
        for plan in ("greedy", "T=1")
        for i in range(count)
    ]
    checkpoints = [{"name": name} for name in texts]
    return rows, {"sampling": [{"name": "greedy"}, {"name": "T=1"}], "checkpoints": checkpoints, "samples": samples}


@pytest.fixture
def judged(chat_server, tmp_path):
    def judge(texts, reply, *, max_rows=None, **options):
        chat_server.reply = reply
        address = f"openai:wise@{chat_server.url}"
        opened = open_judge(address, cache=tmp_path / "judge", concurrency=1, **options)
        opened.endpoint.backoff = 0.01
        return judge_pairs(opened, *case(texts), max_rows=max_rows)

    return judge


def test_both_orders_are_asked_about_the_greedy_answers(judged, chat_server):
    (entry,) = judged({"sft": ["x", "xx", "x"], "ppo": ["xxx", "x", "y"]}, likes_longer)
    assert (entry["a"], entry["b"], entry["n"]) == ("sft", "ppo", 3)
    assert entry["outcomes"] == ["win", "loss", "tie"]
    assert (entry["wins"], entry["ties"], entry["losses"], entry["disagreements"]) == (1, 1, 1, 0)
    assert entry["win_rate"] == 0.5
    assert entry["ci_low"] < 0.5 < entry["ci_high"]
    assert [shown(body) for body in chat_server.seen[:2]] == [["gxxx", "gx"], ["gx", "gxxx"]]
    assert "no preference shown" in entry["sentence"]


def test_a_judge_that_likes_the_first_text_gives_ties(judged):
    (entry,) = judged({"sft": ["a"] * 12, "ppo": ["b"] * 12}, likes_what_comes_first)
    assert (entry["ties"], entry["disagreements"], entry["win_rate"]) == (12, 12, 0.5)
    assert entry["p_value"] is None
    assert "the two orders disagreed on 100%" in entry["sentence"]


def test_wins_alone_leave_doubt(judged):
    (entry,) = judged({"sft": [f"a{i}" for i in range(12)], "ppo": [f"long {i}" for i in range(12)]}, likes_longer)
    assert entry["win_rate"] == 1.0
    assert entry["ci_low"] == pytest.approx(0.735, abs=0.001)  # 0.025 ** (1 / 12)
    assert entry["p_value"] == pytest.approx(2 * 0.5**12, abs=1e-6)
    assert "prefers PPO" in entry["sentence"]


def test_the_surest_preference_is_one(judged):
    count = 32  # so many that the rounded p-value is 0
    (entry,) = judged({"sft": ["x"] * count, "ppo": ["xxx"] * count}, likes_longer)
    assert entry["p_value"] == 0.0
    assert "prefers PPO" in entry["sentence"]


def test_equal_tastes_on_equal_texts_have_no_order(judged):
    texts = {"sft": ["a", "bb"], "ppo": ["bb", "a"]}
    forward = judged(texts, likes_longer)[0]
    backward = judged({"sft": texts["ppo"], "ppo": texts["sft"]}, likes_longer)[0]
    assert forward["outcomes"] == ["win", "loss"]
    assert backward["outcomes"] == ["loss", "win"]


def test_what_cannot_be_read_is_no_tie(judged):
    (entry,) = judged({"sft": ["x"] * 3, "ppo": ["y"] * 3}, lambda body: "I cannot say.")
    assert (entry["n"], entry["unread"], entry["win_rate"]) == (0, 3, None)
    assert "too few verdicts" in entry["sentence"]


def test_a_budget_ends_the_judging_and_answers_are_kept(judged, chat_server):
    texts = {"sft": [f"a{i}" for i in range(20)], "ppo": [f"long {i}" for i in range(20)]}
    (entry,) = judged(texts, likes_longer, budget=10)
    assert len(chat_server.seen) == 10
    assert (entry["n"], entry["unread"]) == (5, 15)
    (whole,) = judged(texts, likes_longer)
    assert len(chat_server.seen) == 40
    assert whole["n"] == 20


def test_a_failing_judge_is_one_clear_line(judged, chat_server):
    chat_server.statuses = [200, 401]
    with pytest.raises(ModelError, match=r"judge: .*401.*run the same command again"):
        judged({"sft": ["x", "z"], "ppo": ["y", "w"]}, likes_longer)


def test_only_the_first_rows_are_judged(judged, chat_server):
    (entry,) = judged({"sft": ["x", "z", "q"], "ppo": ["yy", "ww", "p"]}, likes_longer, max_rows=2)
    assert entry["n"] == 2
    assert len(chat_server.seen) == 4


def test_an_own_rubric_may_hold_columns(judged, chat_server, tmp_path):
    rubric = tmp_path / "rubric.txt"
    rubric.write_text("{topic}: {prompt}\n<answer_a>\n{first}\n</answer_a>\n<answer_b>\n{second}\n</answer_b>")
    judged({"sft": ["x"], "ppo": ["y"]}, likes_longer, rubric=str(rubric))
    assert chat_server.seen[0]["messages"][0]["content"].startswith("t0: p0\n")
    rubric.write_text("{prompt} {first}")
    with pytest.raises(ConfigError, match=r"judge: .*\{second\}"):
        judged({"sft": ["x"], "ppo": ["y"]}, likes_longer, rubric=str(rubric))
    with pytest.raises(ConfigError, match="cannot be read"):
        judged({"sft": ["x"], "ppo": ["y"]}, likes_longer, rubric=str(tmp_path / "missing.txt"))


def test_the_judge_in_a_comparison(chat_server, tiny_llama, tmp_path):
    chat_server.reply = lambda body: likes_longer(body) if "<answer_a>" in str(body) else "x" * 40
    data = tmp_path / "prompts.jsonl"
    data.write_text("".join(json.dumps({"prompt": f"Say {i}."}) + "\n" for i in range(12)))
    words = [
        *("--checkpoints", f"sft={tiny_llama}", f"gpt=openai:m@{chat_server.url}", "--dataset_name", str(data)),
        *("--max_new_tokens", "2", "--as_chat", "true"),
        *("--output_dir", str(tmp_path / "out"), "--judge", f"openai:wise@{chat_server.url}"),
    ]
    main.__wrapped__(words)
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    (entry,) = results["judge"]
    assert entry["n"] == 12
    assert entry["sentence"] == results["verdict"][-1]
    asked = len(chat_server.seen)
    main.__wrapped__(words)
    assert len(chat_server.seen) == asked
    assert json.loads((tmp_path / "out" / "results.json").read_text()) == results
