import json
from pathlib import Path

import pytest
from datasets import Dataset

from rlgen.data import row_hashes
from rlgen.errors import ConfigError, DataError, ModelError
from rlgen.evaluation.checkpoints import (
    check_same_prompts,
    check_unseen,
    open_checkpoints,
    parse_named,
    refuse_examples,
    reward_runs,
)


def make_model(folder: Path, weights: bytes = b"w") -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(weights)
    return folder


def make_adapter(folder: Path, base: Path, weights: bytes = b"a") -> Path:
    folder.mkdir(parents=True)
    (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(base), "r": 8}))
    (folder / "adapter_model.safetensors").write_bytes(weights)
    return folder


def test_names_and_paths_are_read_in_order():
    assert list(parse_named(["sft=runs/sft", "a=b=c"], "--checkpoints").items()) == [("sft", "runs/sft"), ("a", "b=c")]


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        (["runs/sft"], "NAME=PATH"),
        (["=runs/sft"], "NAME=PATH"),
        (["sft="], "NAME=PATH"),
        (["a/b=x"], "letters, digits"),
        (["sft=x", "sft=y"], "given twice"),
    ],
)
def test_bad_entries_are_one_clear_line(entries, message):
    with pytest.raises(ConfigError, match=message) as error:
        parse_named(entries, "--checkpoints")
    assert "\n" not in str(error.value)


def test_a_folder_without_a_model_names_the_checkpoint(tmp_path):
    with pytest.raises(ModelError, match=r"checkpoint ppo: .*no model"):
        open_checkpoints({"ppo": str(tmp_path)})


def test_the_fingerprint_is_the_models_and_nothing_elses(tmp_path):
    folder = make_model(tmp_path / "a")
    before = open_checkpoints({"x": str(folder)})[0].fingerprint
    (folder / "metrics.jsonl").write_text("{}")
    (folder / "optimizer.pt").write_bytes(b"o")
    assert open_checkpoints({"x": str(folder)})[0].fingerprint == before
    assert open_checkpoints({"x": str(make_model(tmp_path / "b"))})[0].fingerprint == before
    (folder / "model.safetensors").write_bytes(b"other")
    assert open_checkpoints({"x": str(folder)})[0].fingerprint != before


def test_an_adapters_fingerprint_includes_its_base_but_not_where_it_lies(tmp_path):
    bases = [make_model(tmp_path / "one"), make_model(tmp_path / "moved"), make_model(tmp_path / "other", b"v")]
    adapters = {str(i): str(make_adapter(tmp_path / f"adapter{i}", base)) for i, base in enumerate(bases)}
    first, moved, other = [checkpoint.fingerprint for checkpoint in open_checkpoints(adapters)]
    assert first == moved != other


def test_runs_of_an_adapter_include_those_of_its_base(tmp_path):
    base = make_model(tmp_path / "sft")
    adapter = make_adapter(tmp_path / "ppo" / "checkpoint-7", base)
    for folder in (base, tmp_path / "ppo"):
        (folder / "run.json").write_text("{}")
    assert open_checkpoints({"ppo": str(adapter)})[0].runs == (str(tmp_path / "ppo"), str(base))


def test_different_prompts_are_shown_where_they_differ():
    rendered = {"sft": ["same", "<user>hello"], "ppo": ["same", "<human>hello"]}
    vocabularies = {"sft": "v", "ppo": "v"}
    with pytest.raises(ConfigError, match=r"sft and ppo .*prompt 1 differs at character 1: '<user>hello' against"):
        check_same_prompts(rendered, vocabularies)
    (warning,) = check_same_prompts(rendered, vocabularies, allow_different=True)
    assert "prompt 1" in warning


def test_different_vocabularies_are_a_warning():
    rendered = {"a": ["x"], "b": ["x"]}
    assert check_same_prompts(rendered, {"a": "v", "b": "v"}) == []
    assert "no KL" in check_same_prompts(rendered, {"a": "v", "b": "w"})[0]


def test_held_out_rows_that_a_run_has_used_are_refused(tmp_path):
    rows = Dataset.from_dict({"prompt": ["one", "two", "three"]})
    hashes = row_hashes(rows)
    data = tmp_path / "sft" / "data"
    data.mkdir(parents=True)
    (data / "train.hashes").write_text("0" * 16 + "\n")
    found = check_unseen(rows, {"sft": (str(tmp_path / "sft"),), "base": ()})
    assert found["checked"] == [{"run": str(tmp_path / "sft"), "data": {"train": 1}}]
    assert (found["unchecked"], found["overlap"]) == (["base"], 0)
    (data / "rl.hashes").write_text("\n".join(hashes[:2]) + "\n")
    with pytest.raises(DataError, match=r"2 of 3 held-out prompts occur in the rl data of run .*sft"):
        check_unseen(rows, {"sft": (str(tmp_path / "sft"),)})


def test_reward_models_are_found_wherever_they_are_named(tmp_path):
    for name in ("first", "second"):
        make_model(tmp_path / name)
        (tmp_path / name / "run.json").write_text("{}")
    first, second = str(tmp_path / "first"), str(tmp_path / "second")
    mix = tmp_path / "mix.yaml"
    mix.write_text(f"rewards: {{a: {{reward: {second}}}, b: {{reward: no_echo}}}}\n")
    assert reward_runs(["grounding", first], str(mix)) == {first: (first,), second: (second,)}


def test_recipes_that_ask_the_bare_prompt_refuse_examples(tmp_path):
    path = make_model(tmp_path / "m")
    refuse_examples(open_checkpoints({"plain": str(path)}))
    with pytest.raises(ConfigError, match="checkpoint prompted: examples"):
        refuse_examples(open_checkpoints({"prompted": f"{path}@4shot"}))
