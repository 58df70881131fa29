"""The recipe from its command line to the report, with tiny random models."""

import json
import shutil
from pathlib import Path

import pytest

from recipes.compare import main
from rlgen.errors import RlgenError
from rlgen.evaluation import generations


@pytest.fixture
def setting(tmp_path: Path, tiny_llama: str) -> dict[str, str]:
    """Two checkpoints that differ in weights alone, own prompts, and an own reward."""
    from rlgen.tiny import tiny_model

    other = tiny_model(tmp_path / "other", "llama", seed=1)
    data = tmp_path / "prompts.jsonl"
    rows = [{"prompt": f"Say {i} things.", "completion": f"{i} things."} for i in range(12)]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    reward = tmp_path / "mine.py"
    reward.write_text("def letters(completions, **_):\n    return [float(len(text)) for text in completions]\n")
    return {"sft": tiny_llama, "ppo": other, "data": str(data), "reward": f"{reward}:letters"}


def flags(setting: dict[str, str], folder: Path, *more: str) -> list[str]:
    return [
        *("--checkpoints", f"sft={setting['sft']}", f"ppo={setting['ppo']}"),
        *("--dataset_name", setting["data"], "--reward", setting["reward"]),
        *("--max_new_tokens", "4", "--output_dir", str(folder), *more),
    ]


def test_a_comparison_end_to_end(setting, tmp_path, monkeypatch, capsys):
    folder = tmp_path / "compare"
    main.__wrapped__(flags(setting, folder, "--num_samples", "2", "--temperature", "0.9"))
    assert str(folder / "report.html") in capsys.readouterr().out
    results = json.loads((folder / "results.json").read_text())
    assert results["schema_version"] == 1
    assert [checkpoint["name"] for checkpoint in results["checkpoints"]] == ["sft", "ppo"]
    assert [measure["name"] for measure in results["measures"]] == [
        *("letters", "rouge_l", "length", "truncated", "kl_sft", "token_kl_sft"),
        *("distinct_1", "distinct_2"),
    ]
    assert results["n_prompts"] == 12
    assert results["heldout_check"]["unchecked"] == ["sft", "ppo"]
    assert results["summary"]["ppo"]["T=0.9"]["kl_sft"]["mean"] > 0
    assert "<h1>" in (folder / "report.html").read_text()

    # A second run loads no model and says the same to the last digit.
    monkeypatch.setattr(generations, "load_policy", lambda path: pytest.fail(f"{path} was loaded"))
    main.__wrapped__(flags(setting, folder, "--num_samples", "2", "--temperature", "0.9"))
    assert json.loads((folder / "results.json").read_text()) == results


def test_all_measures_other_capabilities_and_conditions(setting, tmp_path, monkeypatch, capsys):
    other = tmp_path / "qa.jsonl"
    rows = [{"prompt": f"What is {i} + {i}?", "reference": str(2 * i)} for i in range(12)]
    other.write_text("".join(json.dumps(row) + "\n" for row in rows))
    sampled = ("--num_samples", "2", "--temperature", "0.9")
    metrics = ["bleu", "exact_match", "log_perplexity", "refusal", "self_bleu", "embedding_spread", "repetition_rate"]
    words = flags(
        setting,
        tmp_path / "out",
        *(*sampled, "--metrics", *metrics, "pass@2:exact_match", "--also", f"qa={other}@log_perplexity,chrf"),
        *("--fail_if", "ppo < sft on letters by > 1000", "ppo < sft on qa/log_perplexity by > 1000"),
    )
    main.__wrapped__(words)
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    greedy, warm = (results["summary"]["ppo"][plan] for plan in ("greedy", "T=0.9"))
    assert greedy["log_perplexity"]["perplexity"] > 1
    assert greedy["log_perplexity"]["mean"] == warm["log_perplexity"]["mean"]
    assert 0 <= warm["bleu"]["corpus"] <= 1
    # One sample has no spread; two have one.
    for name in ("self_bleu", "embedding_spread", "pass@2:exact_match"):
        assert (greedy[name]["n"], warm[name]["n"]) == (0, 12)
    assert warm["embedding_spread"]["mean"] > 0
    assert {row["sampling"] for row in results["win_rates"]} == {"greedy", "T=0.9"}
    assert {row["checkpoint"] for row in results["pareto"] if row["on_front"]} >= {"sft"}
    (capability,) = results["capabilities"]
    assert capability["measure"] == "log_perplexity"
    assert {(v["a"], v["b"], v["sampling"]) for v in capability["verdicts"]} == {
        ("sft", "ppo", "greedy"),
        ("sft", "ppo", "T=0.9"),
    }
    assert len(capability["samples"]) == 2 * 12
    assert [condition["failed"] for condition in results["conditions"]] == [False, False]
    text = (tmp_path / "out" / "summary.md").read_text()
    assert "### Other capabilities" in text
    assert "rlgen compare --checkpoints" in text

    # A condition that holds ends with code 3 after everything is written; no model is loaded again for it.
    monkeypatch.setattr(generations, "load_policy", lambda path: pytest.fail(f"{path} was loaded"))
    capsys.readouterr()
    words += ["ppo < sft on T_letters"]
    with pytest.raises(RlgenError, match="unknown measure T_letters: did you mean letters"):
        main.__wrapped__(words)
    measured = {name: results["summary"][name]["greedy"]["log_perplexity"]["mean"] for name in ("sft", "ppo")}
    less, more = sorted(measured, key=measured.__getitem__)
    with pytest.raises(SystemExit) as end:
        main.__wrapped__([*words[:-1], f"{less} < {more} on log_perplexity"])
    assert end.value.code == 3
    assert capsys.readouterr().err.count("failed: ") == 1
    again = json.loads((tmp_path / "out" / "results.json").read_text())
    changed = {key for key in again if again[key] != results[key]}
    assert changed == {"config", "conditions"}


def test_one_model_under_two_names_is_a_warning(setting, tmp_path):
    main.__wrapped__(flags(setting | {"ppo": setting["sft"]}, tmp_path / "out"))
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert results["warnings"] == [
        "checkpoints sft and ppo are the same model: weights, configuration and tokenizer are equal"
    ]


def test_probabilities_of_other_tokens_are_not_compared(setting, tmp_path, tiny_gpt2):
    mixed = setting | {"ppo": tiny_gpt2}
    main.__wrapped__(
        flags(mixed, tmp_path / "out", "--metrics", "log_perplexity", "--allow_different_prompts", "true")
    )
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    counts = {name: results["summary"][name]["greedy"]["log_perplexity"]["n"] for name in ("sft", "ppo")}
    different = [line for line in results["warnings"] if "vocabular" in line]
    assert counts == {"sft": 12, "ppo": 0 if different else 12}
    assert any("log_perplexity is not measured for ppo" in line for line in results["warnings"]) is bool(different)


def test_kl_is_measured_on_as_many_prompts_as_asked_for(setting, tmp_path, monkeypatch):
    monkeypatch.setattr(generations, "CHUNK", 4)
    for module in ("setup", "compare"):
        monkeypatch.setattr(f"rlgen.evaluation.{module}.CHUNK", 4)
    main.__wrapped__(flags(setting, tmp_path / "out", "--kl_rows", "6"))
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    counts = {row["measure"]: row["n"] for row in results["comparisons"]}
    assert counts == {"letters": 12, "rouge_l": 12, "length": 12, "truncated": 12, "kl_sft": 8, "token_kl_sft": 8}
    assert results["summary"]["sft"]["greedy"]["kl_sft"]["n"] == 8


def test_prompts_that_a_run_was_trained_on_are_refused(setting, tmp_path):
    from rlgen.data import load_rows, row_hashes

    run = tmp_path / "sft"
    shutil.copytree(setting["sft"], run)
    (run / "run.json").write_text("{}")
    (run / "data").mkdir()
    (run / "data" / "sft.hashes").write_text("\n".join(row_hashes(load_rows(setting["data"], columns=["prompt"]))[:3]))
    with pytest.raises(RlgenError, match="3 of 12 held-out prompts occur in the sft data"):
        main.__wrapped__(flags(setting | {"sft": str(run)}, tmp_path / "out"))


def test_different_templates_are_refused_or_warned_about(setting, tmp_path):
    changed = tmp_path / "changed"
    shutil.copytree(setting["ppo"], changed)
    template = changed / "chat_template.jinja"
    template.write_text(template.read_text().replace("<|im_start|>", "<|start|>"))
    data = tmp_path / "chat.jsonl"
    rows = [{"prompt": [{"role": "user", "content": f"Say {i}."}]} for i in range(10)]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    reward = tmp_path / "other.py"
    reward.write_text("def words(completions, **_):\n    return [len(c[0]['content'].split()) for c in completions]\n")
    mixed = setting | {"ppo": str(changed), "data": str(data), "reward": f"{reward}:words"}
    with pytest.raises(RlgenError, match="do not see the same text: prompt 0 differs at character"):
        main.__wrapped__(flags(mixed, tmp_path / "out"))
    main.__wrapped__(flags(mixed, tmp_path / "out", "--allow_different_prompts", "true"))
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert "do not see the same text" in results["warnings"][0]
    assert results["summary"]["ppo"]["greedy"]["kl_sft"]["n"] == 0


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--checkpoints", "runs/sft"], "NAME=PATH"),
        (["--checkpoints", "a=x", "a=y"], "given twice"),
        (["--checkpoints", "a=/nowhere/at/all"], "checkpoint a: .*nowhere"),
        (["--kl_reference", "dpo"], "no checkpoint has that name"),
        (["--num_samples", "2", "--temperature", "0"], "temperature above 0"),
        (["--max_rows", "0"], "at least 1"),
        (["--dataset_name", "missing.jsonl"], "missing.jsonl"),
        (["--reward", "nosuchreward"], "nosuchreward"),
        (["--reward_weights", "1", "2"], "2 reward weights for 1 rewards"),
        (["--metrics", "nosuchmetric"], "nosuchmetric"),
        (["--metrics", "perplexity"], "unknown metric perplexity: did you mean log_perplexity"),
        (["--metrics", "pass@2:exact_match"], "'exact_match' is not measured for every completion"),
        (["--metrics", "language_fit"], "needs a 'language' or 'target_language' column"),
        (["--fail_if", "ppo below sft"], "write it as: A < B on MEASURE"),
        (["--fail_if", "pop < sft on letters"], "unknown checkpoint pop: did you mean ppo"),
        (["--fail_if", "ppo < sft on letters at T=1"], "unknown sampling plan T=1"),
        (["--also", "qa=nosuchfile.jsonl"], "nosuchfile.jsonl"),
        (["--margin", "-1"], "margin must not be negative"),
        (["--encoder", "/nowhere/at/all"], "checkpoint encoder: .*nowhere"),
        (["--max_prompt", "3"], "max_prompt"),
    ],
)
def test_bad_input_is_one_clear_line(setting, tmp_path, more, message):
    with pytest.raises(RlgenError, match=message) as error:
        main.__wrapped__(flags(setting, tmp_path / "out", *more))
    assert "\n" not in str(error.value)


def test_missing_checkpoints_are_asked_for(tmp_path):
    with pytest.raises(RlgenError, match="checkpoints are missing"):
        main.__wrapped__(["--output_dir", str(tmp_path)])


def test_a_checkpoint_with_examples_stands_beside_the_same_without(setting, tmp_path):
    examples = tmp_path / "examples.jsonl"
    shown = [{"prompt": f"Say {i} things.", "completion": f"{i} things."} for i in (3, 40, 41)]
    examples.write_text("".join(json.dumps(row) + "\n" for row in shown))
    named = ["--checkpoints", f"sft={setting['sft']}", f"prompted={setting['sft']}@2shot"]
    words = [*flags(setting, tmp_path / "out")[3:], *named]
    with pytest.raises(RlgenError, match="checkpoint prompted: examples need rows"):
        main.__wrapped__(words)
    main.__wrapped__([*words, "--examples", str(examples)])
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert [checkpoint["shots"] for checkpoint in results["checkpoints"]] == [None, "2shot"]
    assert results["checkpoints"][0]["fingerprint"] == results["checkpoints"][1]["fingerprint"]
    assert results["warnings"] == [] or "do not see the same text" not in " ".join(results["warnings"])
    assert results["summary"]["prompted"]["greedy"]["kl_sft"]["n"] == 0  # other prompts: no KL between them
    assert any(len(set(texts)) > 1 for texts in _texts(results))
    for written, row in (
        ("summary.md", "| {} | `{}` |"),
        ("report.html", '<tr><th scope="row">{}</th><td><code>{}</code></td>'),
    ):
        page = (tmp_path / "out" / written).read_text(encoding="utf-8")
        assert row.format("sft", setting["sft"]) in page
        assert row.format("prompted", f"{setting['sft']}@2shot") in page
    # Row 3 is held out, so that two examples are left and three are too many.
    with pytest.raises(RlgenError, match="3 examples are asked for, but there are 2 rows"):
        main.__wrapped__([*words[:-1], f"prompted={setting['sft']}@3shot", "--examples", str(examples)])


def _texts(results):
    return [[answers[0]["text"] for answers in sample["completions"].values()] for sample in results["samples"]]
