"""IFEval's accuracies, against if-verifiable's own evaluation."""

import json
import zipfile

import pytest

pytest.importorskip("if_verifiable")

from datasets import Dataset

from recipes.compare import main
from rlgen import wheels
from rlgen.errors import ConfigError
from rlgen.evaluation import ifeval
from rlgen.evaluation.ifeval import as_messages, ifeval_metrics, ifeval_rows

ROWS = [
    {"key": 1, "prompt": "Say it without commas.", "instruction_id_list": ["punctuation:no_comma"], "kwargs": [{}]},
    {
        "key": 2,
        "prompt": "In small letters, with the word rain, in under 9 words.",
        "instruction_id_list": [
            *("change_case:english_lowercase", "keywords:existence", "length_constraints:number_words"),
        ],
        "kwargs": [{}, {"keywords": ["rain"]}, {"relation": "less than", "num_words": 9}],
    },
    {
        "key": 3,
        "prompt": "End with done, and quote it.",
        "instruction_id_list": ["startend:end_checker", "startend:quotation"],
        "kwargs": [{"end_phrase": "done"}, {}],
    },
]
ANSWERS = {
    "plain": ["No comma here.", "there is rain today", '"It is done"'],
    "spoiled": ["Sure, here it is:\nNo comma here.", "Sure!\nthere is rain", "Of course\nall is done"],
    "wrong": ["One, two.", "Nothing but SUNSHINE, all the long and lovely day of June.", "no"],
    "empty": ["", " ", "\n"],
    "bold": ["*No comma*", "*rain* is falling", '"*done*"'],
}
NAMES = ["ifeval_prompt_strict", "ifeval_prompt_loose", "ifeval_instruction_strict", "ifeval_instruction_loose"]


def theirs(answers):
    from if_verifiable import IFEvalSample, evaluate_output_for_sample

    met = dict.fromkeys(NAMES, 0.0)
    asked = 0
    for row, answer in zip(ROWS, answers, strict=True):
        sample = IFEvalSample(**row)
        results, scores = evaluate_output_for_sample("ifeval", sample, answer)
        asked += len(row["instruction_id_list"])
        met["ifeval_prompt_strict"] += scores.binary_strict / len(ROWS)
        met["ifeval_prompt_loose"] += scores.binary_loose / len(ROWS)
        met["ifeval_instruction_strict"] += sum(result.strict_pass for result in results)
        met["ifeval_instruction_loose"] += sum(result.loose_pass for result in results)
    return {name: value / asked if "instruction" in name else value for name, value in met.items()}


@pytest.mark.parametrize("kind", ANSWERS)
def test_all_four_are_those_of_if_verifiable(kind):
    columns = {name: [row[name] for row in ROWS] for name in ("instruction_id_list", "kwargs")}
    columns["prompts"] = [row["prompt"] for row in ROWS]
    rows = Dataset.from_list([{**row, "kwargs": json.dumps(row["kwargs"])} for row in ROWS])
    ours = {name: metric(ANSWERS[kind], **columns) for name, metric in ifeval_metrics(rows).items()}
    assert list(ours) == NAMES
    assert {name: sum(values) / len(values) for name, values in ours.items()} == pytest.approx(theirs(ANSWERS[kind]))


def test_the_answers_tell_the_four_apart():
    found = {kind: tuple(theirs(answers).values()) for kind, answers in ANSWERS.items()}
    assert found["plain"] == pytest.approx((1, 1, 1, 1))
    assert found["empty"] == (0, 0, 0, 0)
    assert found["spoiled"][0] < found["spoiled"][1]
    assert found["spoiled"][2] < found["spoiled"][3]


def test_rows_in_another_format_are_one_clear_line():
    with pytest.raises(ConfigError, match="needs the column 'instruction_id_list'"):
        ifeval_metrics(Dataset.from_list([{"prompt": "a"}]))
    with pytest.raises(ConfigError, match="no row has an entry"):
        ifeval_metrics(Dataset.from_list([{"prompt": "a", "instruction_id_list": [], "kwargs": []}]))


def test_plain_prompts_become_messages_and_conversations_stay():
    rows = Dataset.from_list([{"prompt": "a", "x": 1}, {"prompt": "b", "x": 2}])
    chat = as_messages(rows)
    assert chat["prompt"][1] == [{"role": "user", "content": "b"}]
    assert chat["x"] == [1, 2]
    assert as_messages(chat) is chat


@pytest.fixture
def published(tmp_path, monkeypatch):
    """A package with three prompts in place of the published one."""
    import dataclasses
    import hashlib

    monkeypatch.setenv("RLGEN_CACHE", str(tmp_path / "cache"))
    (tmp_path / "cache").mkdir()
    archive = tmp_path / "cache" / ifeval.PROMPTS.file
    with zipfile.ZipFile(archive, "w") as opened:
        opened.writestr(
            "eval_framework/tasks/ifeval/data/input_data.jsonl", "".join(json.dumps(row) + "\n" for row in ROWS)
        )
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    monkeypatch.setattr(ifeval, "PROMPTS", dataclasses.replace(ifeval.PROMPTS, sha256=digest))
    monkeypatch.setattr(wheels, "_download", lambda *_: pytest.fail("nothing is to be fetched"))


def test_the_published_prompts_are_unpacked_once(published):
    rows = ifeval_rows()
    assert len(rows) == 3
    assert rows[0]["prompt"] == [{"role": "user", "content": ROWS[0]["prompt"]}]
    assert len(ifeval_rows(2)) == 2


def test_a_comparison_on_ifeval(published, tiny_llama, tmp_path):
    folder = tmp_path / "out"
    main.__wrapped__(
        [
            *("--checkpoints", f"a={tiny_llama}", "--dataset_name", "ifeval", "--metrics", "ifeval"),
            *("--max_new_tokens", "4", "--output_dir", str(folder)),
        ]
    )
    results = json.loads((folder / "results.json").read_text())
    summary = results["summary"]["a"]["greedy"]
    assert set(NAMES) <= set(summary)
    texts = [sample["completions"]["a"][0]["text"] for sample in results["samples"]]
    assert {name: summary[name]["mean"] for name in NAMES} == pytest.approx(theirs(texts), abs=1e-6)
