"""lm-evaluation-harness on rlgen's checkpoints, with local tasks and without a network."""

import json
import math
from pathlib import Path

import pytest

pytest.importorskip("lm_eval")

import lm_eval.tasks
import torch
from peft import LoraConfig, get_peft_model

from recipes.harness import main
from rlgen.errors import ConfigError, DataError
from rlgen.evaluation.external import harness_model, harness_rows, open_tasks, run_harness
from rlgen.models import load_policy, load_tokenizer, save_model

SAY = """
task: rlgen_say
dataset_path: json
dataset_kwargs: {data_files: {test: QUESTIONS}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: choices
doc_to_target: answer
metric_list:
  - {metric: acc, aggregation: mean, higher_is_better: true}
"""
WRITE = """
task: rlgen_write
dataset_path: json
dataset_kwargs: {data_files: {test: QUESTIONS}}
test_split: test
output_type: generate_until
doc_to_text: "{{question}}"
doc_to_target: "{{choices[answer]}}"
generation_kwargs: {max_gen_toks: 4, until: ["\\n"]}
metric_list:
  - {metric: exact_match, aggregation: mean, higher_is_better: true}
"""
QUESTIONS = [
    {"question": f"What is {i} plus 1?", "choices": [f" {i + 1}", f" {i + 2} or so"], "answer": 0} for i in range(6)
]


@pytest.fixture
def tasks(tmp_path: Path) -> str:
    folder = tmp_path / "tasks"
    folder.mkdir()
    (tmp_path / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in QUESTIONS))
    for name, text in {"say": SAY, "write": WRITE}.items():
        (folder / f"{name}.yaml").write_text(text.replace("QUESTIONS", str(tmp_path / "questions.jsonl")))
    return str(folder)


@pytest.fixture
def adapter(tiny_llama: str, tmp_path: Path) -> str:
    """An adapter folder whose weights change what the model says."""
    model = get_peft_model(load_policy(tiny_llama), LoraConfig(r=2, target_modules="all-linear"))
    torch.manual_seed(0)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    save_model(model, load_tokenizer(tiny_llama), tmp_path / "adapter", merge=False)
    return str(tmp_path / "adapter")


def test_a_local_task_on_a_folder_and_an_adapter(tiny_llama, adapter, tasks, tmp_path, capsys):
    answers = {}
    for name, checkpoint in {"base": tiny_llama, "adapter": adapter}.items():
        folder = tmp_path / name
        words = ["--model_name_or_path", checkpoint, "--include_path", tasks, "--output_dir", str(folder)]
        main.__wrapped__([*words, "--tasks", "rlgen_say", "rlgen_write"])
        results = json.loads((folder / "results.json").read_text())
        assert 0 <= results["results"]["rlgen_say"]["acc,none"] <= 1
        assert results["results"]["rlgen_say"]["acc_stderr,none"] is not None
        assert results["rlgen"]["checkpoint"] == checkpoint
        samples = [json.loads(line) for line in (folder / "samples_rlgen_say.jsonl").read_text().splitlines()]
        assert len(samples) == 6
        assert "<|im_start|>user" in samples[0]["arguments"][0][0]  # its chat template
        answers[name] = [sample["filtered_resps"] for sample in samples]
    assert answers["base"] != answers["adapter"]
    shown = capsys.readouterr().out
    assert "rlgen_write" in shown
    assert "stderr" in shown


def test_log_likelihoods_are_the_models_own(tiny_llama, tasks):
    manager = open_tasks(["rlgen_say"], tasks)
    results = run_harness(harness_model(tiny_llama, dtype="float32"), ["rlgen_say"], manager, chat_template=False)
    model, tokenizer = load_policy(tiny_llama, dtype="float32").eval(), load_tokenizer(tiny_llama)
    for sample in results["samples"]["rlgen_say"][:2]:
        for (text, choice), (found, _) in zip(sample["arguments"], sample["filtered_resps"], strict=True):
            asked = tokenizer(text)["input_ids"]
            ids = torch.tensor([tokenizer(text + choice)["input_ids"]])
            with torch.inference_mode():
                logps = model(ids).logits[0, :-1].log_softmax(-1)
            own = logps.gather(1, ids[0, 1:, None])[len(asked) - 1 :].sum()
            assert math.isclose(float(found), float(own), abs_tol=1e-3)


def test_mistakes_are_one_clear_line(tiny_llama, tasks, tmp_path, monkeypatch):
    manager_of = lm_eval.tasks.TaskManager  # without lm-eval's own tasks, which take long to read
    monkeypatch.setattr(
        lm_eval.tasks,
        "TaskManager",
        lambda include_path, include_defaults=True: manager_of(include_path=include_path, include_defaults=False),
    )
    with pytest.raises(ConfigError, match="no task rlgen_sai: did you mean rlgen_say"):
        open_tasks(["rlgen_sai"], tasks)
    with pytest.raises(ConfigError, match="no such folder"):
        open_tasks(["rlgen_say"], str(tmp_path / "nowhere"))
    (tmp_path / "questions.jsonl").unlink()
    model, manager = harness_model(tiny_llama), open_tasks(["rlgen_say"], tasks)
    with pytest.raises(DataError, match=r"lm-eval cannot run rlgen_say: .*questions.jsonl") as error:
        run_harness(model, ["rlgen_say"], manager)
    assert "\n" not in str(error.value)


def test_a_template_that_is_not_there_is_refused(tiny_llama, tasks):
    model = harness_model(tiny_llama)
    model.tokenizer.chat_template = None
    with pytest.raises(ConfigError, match="no chat template"):
        run_harness(model, ["rlgen_say"], open_tasks(["rlgen_say"], tasks), chat_template=True)


def test_numbers_are_found_with_their_errors():
    metrics = {"alias": "say", "acc,none": 0.5, "acc_stderr,none": 0.1, "f1,strict": 1, "f1_stderr,strict": "N/A"}
    assert harness_rows({"results": {"say": metrics}}) == [
        ("say", "acc", "none", 0.5, 0.1),
        ("say", "f1", "strict", 1.0, None),
    ]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ([], "tasks are missing"),
        (["--tasks", "x", "--limit", "0"], "limit must be at least 1"),
        (["--tasks", "x", "--num_fewshot", "-1"], "num_fewshot must not be negative"),
    ],
)
def test_bad_settings_are_one_clear_line(more, message):
    with pytest.raises(ConfigError, match=message):
        main.__wrapped__(more)
