"""What all critics have in common: a value head, an optimizer of its own, a memory of rollouts, a folder on disk.

Letters for shapes, here and in the other modules of this package: N prompts, G completions a prompt, T completion
tokens, S tokens of a packed row, M completion tokens in all, H hidden size, F features.
"""

import json
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from rlgen.errors import ModelError, TrainingError
from rlgen.runs import write_atomic
from rlgen.scoring import PackedRows

if TYPE_CHECKING:
    from rlgen.ppo.rollout import Scored

CRITIC_FILE, STATE_FILE, CONFIG_FILE = "critic.safetensors", "critic_state.pt", "config.json"


@dataclass(frozen=True)
class CriticOptions:
    """What every kind of critic is told; see the fields `critic_*` of `PPOConfig`.

    `replay_rollouts` is how many of the latest rollouts each fit learns from. Values change slowly under a KL penalty,
    so that older states teach them still (Cobbe et al. 2021, arXiv 2009.04416, auxiliary phase).
    """

    width: int = 0
    learning_rate: float = 1e-4
    dropout: float = 0.0
    weight_decay: float = 0.0
    replay_rollouts: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))


class Critic(nn.Module, ABC):
    """Values of states: a head on features (M, F), linear or with one hidden layer, and an optimizer.

    Args:
        inputs: F.
        options: sizes and settings.
        backbone: what else trains, below the head.
    """

    kind = ""
    layer: int | None = None
    """Decoder layers of the reference below what it reads; None if it reads none."""
    reads_policy = False
    """Whether it reads the policy's final hidden state."""

    def __init__(self, inputs: int, options: CriticOptions, backbone: nn.Module | None = None) -> None:
        super().__init__()
        self.options = options
        self.body = nn.Sequential(nn.Dropout(options.dropout))
        if options.width:
            self.body.extend([nn.Linear(inputs, options.width), nn.GELU(), nn.Dropout(options.dropout)])
        self.head = nn.Linear(options.width or inputs, 1)
        nn.init.zeros_(self.head.weight)  # starts as a constant, the mean return of the first fit
        nn.init.zeros_(self.head.bias)
        self.fitted: Tensor
        self.register_buffer("fitted", torch.tensor(False))
        self.initialised = False
        """Whether its weights come from a reward model."""
        self.backbone = backbone
        self.replay: deque[tuple[Any, ...]] = deque(maxlen=options.replay_rollouts)
        self.to(options.device)
        self.optimizer = torch.optim.AdamW(
            self.parameters(),
            lr=options.learning_rate,
            weight_decay=options.weight_decay,
            # Fused, it reads the weights once a step instead of once an operation: for a whole model on a CPU most of
            # the step's time. A head alone is too small to notice.
            fused=backbone is not None and options.device.type in ("cpu", "cuda"),
        )

    def forward(self, features: Tensor) -> Tensor:
        """Values (M,) of states with features (M, F)."""
        values: Tensor = self.head(self.body(features.float()))[:, 0]
        return values

    def features(self, hidden: Mapping[int, Tensor], final: Tensor | None, packed: PackedRows) -> Tensor | None:
        """What the critic keeps of a scoring pass, (M, F); None if it computes hidden states of its own.

        Args:
            hidden: (N, S, H) activations of the reference by number of layers, `layer` among them.
            final: (N, S, H) final hidden state of the policy, if `reads_policy`.
            packed: the rows.
        """
        return None

    @abstractmethod
    def states(self, scored: "Scored") -> Any:
        """The states of a rollout, as `values` and `fit` take them."""

    @abstractmethod
    def values(self, states: Any) -> Tensor:
        """Values (M,) without dropout or gradient, in the order of `packed.completion_mask`'s True positions."""

    @abstractmethod
    def fit(
        self,
        states: Any,
        returns: Tensor,
        old_values: Tensor,
        *,
        epochs: int,
        minibatches: int,
        cliprange_value: float | None,
        mean_over_processes: Callable[[Tensor], Tensor] = lambda value: value,
    ) -> tuple[float, float]:
        """Several passes over this rollout and the ones remembered.

        Args:
            states: of this rollout.
            returns: (M,) targets.
            old_values: (M,) what `values` has just said of these states.
            epochs: passes.
            minibatches: steps a pass and rollout.
            cliprange_value: see `value_loss`.
            mean_over_processes: averages a tensor, such as a gradient, over all processes.

        Returns:
            Mean value loss, and the fraction of values that were clipped.
        """

    def start_at(self, mean_return: float) -> None:
        """Predict the mean return everywhere before the first fit, so that the first advantages are centred.

        A critic that was initialised from a reward model begins with its scores instead.
        """
        with torch.no_grad():
            if not self.initialised:
                self.head.bias.fill_(mean_return)
            self.fitted.fill_(True)

    def _step(
        self, losses: Tensor, clipped: Tensor, mean_over_processes: Callable[[Tensor], Tensor]
    ) -> tuple[float, float]:
        """One optimizer step; every process must take it, if need be over no states.

        Args:
            losses: (M,) of this process's states; a state weighs the same on whichever process it is.
            clipped: (M,) bool.
            mean_over_processes: see `fit`.

        Returns:
            Loss and fraction of clipped values, such that their means over processes are those over all states.
        """
        count = float(mean_over_processes(torch.tensor(float(len(losses)), device=losses.device))) or 1.0
        mean = losses.sum() / count
        self.optimizer.zero_grad()
        if mean.requires_grad:
            mean.backward()
        for parameter in self.parameters():
            gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            parameter.grad = mean_over_processes(gradient)
        nn.utils.clip_grad_norm_(self.parameters(), 1.0)
        self.optimizer.step()
        return float(mean.detach()), float(clipped.sum()) / count

    def describe(self) -> dict[str, Any]:
        """What `config.json` says: enough to build the critic again."""
        return {"kind": self.kind, "width": self.options.width}

    def save(self, folder: str | Path, *, for_resuming: bool = True) -> None:
        """Write weights and sizes into `folder`; for resuming also the optimizer's state and remembered rollouts."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        save_file({name: tensor.contiguous() for name, tensor in self.state_dict().items()}, folder / CRITIC_FILE)
        write_atomic(folder / CONFIG_FILE, json.dumps(self.describe(), indent=2, default=_plain) + "\n")
        if for_resuming:
            torch.save({"optimizer": self.optimizer.state_dict(), "replay": list(self.replay)}, folder / STATE_FILE)

    def load(self, folder: str | Path, *, with_replay: bool = True) -> None:
        """Read what `save` wrote for resuming; the remembered rollouts are those of the process that saved.

        Raises:
            ModelError: the folder holds no critic.
            TrainingError: it holds another kind of critic.
        """
        folder, kind = Path(folder), read_config(folder)["kind"]
        if kind != self.kind:
            raise TrainingError(f"{folder} holds a critic of kind {kind}, this run has {self.kind}: set critic to it")
        self.load_state_dict(load_file(folder / CRITIC_FILE))
        state = torch.load(folder / STATE_FILE, map_location="cpu", weights_only=True)
        self.optimizer.load_state_dict(state["optimizer"])
        self.replay.clear()
        if with_replay:
            self.replay.extend(state["replay"])


def read_config(folder: str | Path) -> dict[str, Any]:
    """What `Critic.describe` said when the folder was written.

    Raises:
        ModelError: the folder holds no critic.
    """
    file = Path(folder) / CONFIG_FILE
    try:
        config: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        return {"kind": None, **config}
    except (OSError, ValueError) as error:
        raise ModelError(f"{folder} holds no critic: {file.name} cannot be read; give the critic/ of a run") from error


def _plain(value: Any) -> Any:
    """Sets and enumerations of library settings as JSON has them."""
    return sorted(value) if isinstance(value, (set, frozenset)) else getattr(value, "value", str(value))
