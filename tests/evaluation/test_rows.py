import json

import pytest
from datasets import Dataset

from rlgen.config import TaskArguments
from rlgen.errors import ConfigError, DataError
from rlgen.evaluation.rows import distinct_rows, heldout_rows, requested_rows


def test_own_rows_get_their_reference_from_the_completion(tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps({"prompt": "p", "completion": "c"}) + "\n")
    rows = heldout_rows(None, str(file))
    assert rows["reference"][0] == "c"


def test_the_flags_of_all_recipes_mean_the_same(tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps({"prompt": f"p{i}"}) + "\n" for i in range(30)))
    source, rows, warnings = requested_rows(TaskArguments(dataset_name=str(file), max_eval_rows=12), None, 20)
    assert (source, len(rows), warnings) == (str(file), 12, [])
    other = TaskArguments(dataset_name="nowhere.jsonl", eval_dataset_name=str(file), dataset_train_split="test")
    assert len(requested_rows(other, None, None)[1]) == 30


def test_rows_must_come_from_somewhere():
    with pytest.raises(ConfigError, match="--dataset_name"):
        heldout_rows(None, None)


def test_repeated_prompts_are_left_out_with_a_warning():
    rows, warnings = distinct_rows(Dataset.from_dict({"prompt": [f"p{i % 12}" for i in range(20)]}))
    assert rows["prompt"][:] == [f"p{i}" for i in range(12)]
    assert warnings == ["8 of 20 held-out prompts are repeats and were left out"]


def test_few_prompts_are_a_warning_and_none_an_error():
    _, warnings = distinct_rows(Dataset.from_dict({"prompt": ["a", "b"]}))
    assert "only 2 held-out prompts" in warnings[0]
    with pytest.raises(DataError, match="no held-out rows"):
        distinct_rows(Dataset.from_dict({"prompt": []}))
