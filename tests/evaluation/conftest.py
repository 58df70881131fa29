"""A comparison made of invented completions: no model, all of the results."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import Dataset

from rlgen.data import conversational
from rlgen.evaluation.assemble import assemble
from rlgen.evaluation.checkpoints import Checkpoint
from rlgen.evaluation.compare import _score_all
from rlgen.evaluation.computed import add_kl, nothing_computed
from rlgen.evaluation.generations import Generated, Sampling, Steps
from rlgen.evaluation.measures import diagnostic_measures, metric_measures, reward_measures
from rlgen.evaluation.metrics import rouge_l
from rlgen.generation import Completion

SUBJECTS = (
    "file name",
    "list of keys",
    "socket address",
    "message header",
    "time zone",
    "parser state",
    "byte buffer",
)
VERBS = ("Return", "Set", "Close", "Parse", "Build", "Check", "Remove")
CODE = """def {name}(self, value, *, default=None):
    result = self._lookup(value)
    if result is None and default is not None:
        return default
    return result.normalize(strict=self.strict, encoding=self.encoding or "utf-8", errors="replace")"""


def make_rows(count: int) -> Dataset:
    """Rows shaped like those of the docstring task."""
    rows = []
    for index in range(count):
        verb, subject = VERBS[index % len(VERBS)], SUBJECTS[index // len(VERBS) % len(SUBJECTS)]
        code = CODE.format(name=f"{verb.lower()}_{subject.replace(' ', '_')}_{index}")
        reference = f"{verb} the {subject}, or the default."
        rows.append(
            {
                "prompt": conversational(f"Write the docstring.\n\n{code}"),
                "completion": [{"role": "assistant", "content": reference}],
                "reference": reference,
                "code": code,
            }
        )
    return Dataset.from_list(rows)


def ends_with_period(completions: list[Any], **_: Any) -> list[float | None]:
    """1 for a sentence that ends with a period."""
    return [float(completion[-1]["content"].endswith(".")) for completion in completions]


def brevity(completions: list[Any], **_: Any) -> list[float | None]:
    """1 for at most six words, less for each more."""
    return [min(1.0, 6 / max(len(completion[-1]["content"].split()), 1)) for completion in completions]


def invent(name: str, reference: str, rng: np.random.Generator) -> Completion:
    """What a checkpoint of that name might write."""
    skill = {"base": 0.1, "sft": 0.7, "ppo": 0.85, "dpo": 0.72}.get(name, 0.5)
    words = [word for word in reference.rstrip(".").split() if rng.random() < skill + 0.1]
    while rng.random() > skill:
        words.append(str(rng.choice(["which", "is", "the", "given", "value", "function", "def"])))
    text = " ".join(words) + ("." if rng.random() < skill else "")
    if name == "base" and rng.random() < 0.2:
        text = "Sure! Here is the docstring:\n```python\n<b>" + text + "</b></script>\n```"
    ids = list(range(len(text.split()) + 1))
    return Completion(text, ids, [-1.0] * len(ids), bool(rng.random() < 0.4 + skill / 2))


@pytest.fixture(scope="session")
def fake_results() -> Callable[..., dict[str, Any]]:
    """Builds the content of results.json from invented completions."""

    def build(
        count: int = 24,
        names: tuple[str, ...] = ("base", "sft", "ppo", "dpo"),
        temperatures: tuple[float, ...] = (0.0,),
    ) -> dict[str, Any]:
        rows = make_rows(count)
        samplings = [Sampling(t, 2 if t else 1, 32, 0) for t in temperatures]
        checkpoints = [Checkpoint(name, f"runs/{name}", f"{index:016x}") for index, name in enumerate(names)]
        rng = np.random.default_rng(0)
        answers = {
            sampling.name: {
                name: Generated(
                    [[invent(name, text, rng) for _ in range(sampling.num_samples)] for text in rows["reference"]],
                    [],
                    12.0,
                )
                for name in names
            }
            for sampling in samplings
        }
        reference = "sft" if "sft" in names else None
        ratios = {
            plan: {
                name: [[0.0 if name == reference else float(rng.gamma(2.0))] * len(s) for s in generated.completions]
                for name, generated in by_name.items()
            }
            for plan, by_name in answers.items()
        }
        measures = [
            *reward_measures([ends_with_period, brevity], [0.6, 0.4]),
            *metric_measures(None, {"rouge_l": rouge_l}, lambda _: rouge_l, rows.column_names),
            *diagnostic_measures(reference),
        ]
        computed = nothing_computed(answers)
        if reference:
            add_kl(computed, answers, ratios, reference)
        scores = _score_all(rows, answers, computed, measures, Steps(1))
        return assemble(
            checkpoints,
            rows,
            samplings,
            measures,
            answers,
            scores,
            task="docstring",
            kl_reference=reference,
            warnings=[],
        )

    return build


@pytest.fixture
def fake_runs(tmp_path: Path) -> dict[str, str]:
    """Run folders with metrics.jsonl as the recipes leave them."""
    return write_runs(tmp_path)


def write_runs(folder: Path, points: int = 50) -> dict[str, str]:
    """Invented learning curves for every stage."""
    rng = np.random.default_rng(1)
    logs: dict[str, Callable[[float], dict[str, float]]] = {
        "sft": lambda x: {"loss": 3 - 1.4 * x**0.3, "mean_token_accuracy": 0.4 + 0.2 * x**0.3},
        "reward": lambda x: {"loss": 0.69 - 0.3 * x, "accuracy": 0.5 + 0.35 * x},
        "ppo": lambda x: {
            "reward": 0.7 + 0.15 * x,
            "objective/kl": 3.0 * x,
            "critic/explained_variance": 0.25 * x - 0.05,
            "policy/entropy": 3.1 - x,
        },
        "dpo": lambda x: {"loss": 0.69 - 0.2 * x, "rewards/accuracies": 0.5 + 0.3 * x},
    }
    for stage, curve in logs.items():
        run = folder / stage
        run.mkdir(parents=True)
        (run / "run.json").write_text(json.dumps({"stage": stage}))
        rows = []
        for index in range(points):
            values = {key: value + rng.normal() * 0.03 for key, value in curve(index / points).items()}
            rows.append({"step": 10 * index, "time": 0.0, **values})
            if index % 10 == 9:
                rows.append({"step": 10 * index, "time": 0.0, "eval_loss": values.get("loss", 1.0) + 0.1})
        rows.append({"step": 10 * points, "train_runtime": 1.0, "train_loss": 2.0})
        (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"step": 51')
    return {stage: str(folder / stage) for stage in logs}
