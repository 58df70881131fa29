"""What generated examples are worth, from a comparison to a table."""

import json
from pathlib import Path

import pytest

from recipes.tasks_gain import main
from rlgen.data import prompt_text
from rlgen.human_pairs import RATED_ARCHIVE, RATED_SENTENCES
from rlgen.tasks import get_task


def write_comparison(folder: Path, texts: dict[str, list[str]], prompts: list[str]) -> None:
    samples = [
        {"sampling": "greedy", "prompt": prompt, "completions": {name: [{"text": texts[name][i]}] for name in texts}}
        for i, prompt in enumerate(prompts)
    ]
    results = {"task": "augmentation", "checkpoints": [{"name": name} for name in texts], "samples": samples}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "results.json").write_text(json.dumps(results))


def test_people_help_and_a_contradiction_harms(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if not (RATED_SENTENCES.folder / RATED_ARCHIVE).is_file():
        pytest.skip("the rated sentences are not in rlgen's cache; use the task once to fetch them")
    rows = get_task("augmentation").split("heldout", 120)
    opposite = {label: [row["reference"] for row in rows if row["label"] != label] for label in set(rows["label"])}
    wrong = [opposite[row["label"]][i % len(opposite[row["label"]])] for i, row in enumerate(rows)]
    prompts = [prompt_text(prompt) for prompt in rows["prompt"]]
    write_comparison(tmp_path, {"sft": list(rows["reference"]), "bad": wrong}, prompts)
    main(["--comparison", str(tmp_path)])
    gains = json.loads((tmp_path / "gain.json").read_text())
    assert list(gains) == ["sft", "bad", "people"]
    assert gains["sft"] == gains["people"]
    assert len({(row["n"], row["mean_a"]) for row in gains.values()}) == 1  # one test for all
    assert gains["bad"]["difference"] < gains["people"]["difference"]
    assert gains["bad"]["low"] <= gains["bad"]["difference"] <= gains["bad"]["high"]
    assert f"report: {tmp_path}" in capsys.readouterr().out


def test_another_comparison_is_one_clear_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--comparison", str(tmp_path / "nowhere")])
    assert "cannot be read" in capsys.readouterr().err
    if not (RATED_SENTENCES.folder / RATED_ARCHIVE).is_file():
        pytest.skip("the rated sentences are not in rlgen's cache; use the task once to fetch them")
    write_comparison(tmp_path, {"sft": ["x"]}, ["Say it."])
    with pytest.raises(SystemExit):
        main(["--comparison", str(tmp_path)])
    assert "no comparison on the held-out rows" in capsys.readouterr().err
