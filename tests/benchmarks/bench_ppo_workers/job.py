"""What a contender is asked to do, as the file between the benchmark and its workers. Standard library only."""

import json
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any


@dataclass
class Job:
    """What a contender is asked to do; the same for all but for `options`."""

    contender: str
    model: str
    """Folder of the model to start from."""
    rows: str
    """JSON lines with `prompt` (chat messages or text) and what the reward reads."""
    reward: str
    """Name in `REWARDS`."""
    output_dir: str
    prompts: int = 16
    """Prompts a rollout."""
    num_generations: int = 4
    """Completions a prompt."""
    max_new_tokens: int = 48
    minibatch: int = 16
    """Completions an optimizer step."""
    epochs: int = 2
    learning_rate: float = 1e-5
    max_grad_norm: float = 1.0
    """Of the trainers that clip gradients; TRL 1.12's PPO does not."""
    temperature: float = 1.0
    lora_r: int | None = 16
    """LoRA on all linear maps, alpha twice the rank; None trains all weights."""
    kl_coef: float = 0.05
    vf_coef: float = 0.1
    gamma: float = 1.0
    lam: float = 0.95
    cliprange: float = 0.2
    cliprange_value: float = 0.2
    device: str = "cpu"
    dtype: str = "bfloat16"
    seed: int = 0
    rollouts: int = 3
    """Rollouts to train for, unless `minutes` ends the run."""
    minutes: float = 0.0
    """Train for that long instead, and leave the trained adapter in `output_dir`."""
    options: dict[str, Any] = field(default_factory=dict)
    """The contender's own settings."""

    @classmethod
    def read(cls) -> "Job":
        """The job that the command line names."""
        return cls(**json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))

    def write(self, file: Path) -> None:
        file.write_text(json.dumps(asdict(self), indent=1), encoding="utf-8")

    @property
    def samples(self) -> int:
        """Completions a rollout."""
        return self.prompts * self.num_generations

    @property
    def minibatches(self) -> int:
        return self.samples // self.minibatch

    @property
    def updates(self) -> int:
        """Optimizer steps a rollout."""
        return self.minibatches * self.epochs

    @property
    def planned_rollouts(self) -> int:
        return 10**6 if self.minutes else self.rollouts

    def read_rows(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in Path(self.rows).read_text(encoding="utf-8").splitlines()]
