"""The critic: values of states, read off one frozen layer of the reference model.

A frozen layer costs nothing extra, because the reference's forward pass visits it anyway, and holds more about the
return than the policy's last layer, which is shaped for the next token. Letters for shapes: N prompts, G completions
a prompt, T completion tokens, S tokens of a packed row, M completion tokens in all, H hidden size, F features.
"""

from collections import deque
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from rlgen.ppo.losses import value_loss
from rlgen.scoring import PROMPT, PackedRows

CRITIC_FILE, STATE_FILE = "critic.safetensors", "critic_state.pt"


def critic_features(hidden: Tensor, packed: PackedRows, max_completion_length: int) -> Tensor:
    """What the critic sees of each state: the hidden state, the mean of all so far, and how far along it is.

    Args:
        hidden: (N, S, H) activations of one layer for the packed rows.
        packed: the rows.
        max_completion_length: limit of completion tokens, the unit of the last feature.

    Returns:
        (M, 2H + 1) float32, in the order of `packed.completion_mask`'s True positions.
    """
    hidden = hidden.float()
    n, groups, tokens = packed.source.shape
    index = packed.source.reshape(n, -1, 1).expand(-1, -1, hidden.shape[-1])
    states = hidden.gather(1, index).reshape(n, groups, tokens, -1)
    in_prompt = (packed.segment_ids == PROMPT)[:, :, None]
    prompt_sum = (hidden * in_prompt).sum(1)[:, None, None]  # (N, 1, 1, H)
    steps = torch.arange(tokens, device=hidden.device)
    # The state before the first token is the prompt's last one, which the prompt's sum holds already.
    read = (states * (steps > 0)[:, None]).cumsum(2)
    means = (prompt_sum + read) / (in_prompt.sum(1)[:, None, None] + steps[:, None])
    progress = (steps / max_completion_length).expand(n, groups, tokens)[..., None]
    size = (hidden.shape[-1],)
    parts = [nn.functional.layer_norm(part, size) for part in (states, means)]  # activations reach 1e4 in mid layers
    return torch.cat([*parts, progress], -1)[packed.completion_mask]


class Critic(nn.Module):
    """Value of a state from its features, with its own optimizer.

    Args:
        hidden_size: H of the frozen layer.
        width: units of the hidden layer; 0 for a linear critic.
        learning_rate: of AdamW.
        dropout: during fitting.
        weight_decay: of AdamW.
        replay_rollouts: how many of the latest rollouts each fit learns from, at least 1. Values change slowly under
            a KL penalty, so that older states teach them still (Cobbe et al. 2021, arXiv 2009.04416, auxiliary phase).
        device: where it lives.
    """

    def __init__(
        self,
        hidden_size: int,
        *,
        width: int,
        learning_rate: float,
        dropout: float,
        weight_decay: float,
        replay_rollouts: int,
        device: torch.device,
    ) -> None:
        super().__init__()
        features = 2 * hidden_size + 1
        self.body = nn.Sequential(nn.Dropout(dropout))
        if width:
            self.body.extend([nn.Linear(features, width), nn.GELU(), nn.Dropout(dropout)])
        self.head = nn.Linear(width or features, 1)
        nn.init.zeros_(self.head.weight)  # starts as a constant, the mean return of the first fit
        nn.init.zeros_(self.head.bias)
        self.fitted: Tensor
        self.register_buffer("fitted", torch.tensor(False))
        self.replay: deque[tuple[Tensor, Tensor]] = deque(maxlen=replay_rollouts)
        self.to(device)
        self.optimizer = torch.optim.AdamW(self.parameters(), lr=learning_rate, weight_decay=weight_decay)

    def forward(self, features: Tensor) -> Tensor:
        """Values (M,) of states with features (M, F)."""
        values: Tensor = self.head(self.body(features.float()))[:, 0]
        return values

    @torch.no_grad()
    def values(self, features: Tensor) -> Tensor:
        """Values (M,) without dropout or gradient."""
        self.eval()
        return self(features)

    def start_at(self, mean_return: float) -> None:
        """Predict the mean return everywhere before the first fit, so that the first advantages are centred."""
        with torch.no_grad():
            self.head.bias.fill_(mean_return)
            self.fitted.fill_(True)

    def fit(
        self,
        features: Tensor,
        returns: Tensor,
        *,
        epochs: int,
        minibatches: int,
        cliprange_value: float | None,
        mean_gradient: Callable[[Tensor], Tensor] = lambda gradient: gradient,
    ) -> tuple[float, float]:
        """Several passes over this rollout and the ones remembered.

        Args:
            features: (M, F).
            returns: (M,) targets.
            epochs: passes.
            minibatches: steps a pass and rollout.
            cliprange_value: see `value_loss`.
            mean_gradient: averages a gradient over all processes.

        Returns:
            Mean value loss, and the fraction of values that were clipped.
        """
        device = self.head.weight.device
        self.replay.append((features.half().cpu(), returns.cpu()))  # layer-normed features lose nothing in half
        features, returns = (torch.cat(parts) for parts in zip(*self.replay, strict=True))
        old_values = torch.cat([self.values(part.to(device)) for part in features.split(4096)])
        self.train()
        losses, clipped = [], []
        for _ in range(epochs):
            order = torch.randperm(len(features))
            # tensor_split, not chunk: every process must take the same number of steps, if need be over no rows
            for chunk in order.tensor_split(minibatches * len(self.replay)):
                values, targets = self(features[chunk].to(device)), returns[chunk].to(device)
                loss, was_clipped = value_loss(values, old_values[chunk.to(device)], targets, cliprange_value)
                mean = loss.sum() / max(len(chunk), 1)
                self.optimizer.zero_grad()
                mean.backward()
                for parameter in self.parameters():
                    if parameter.grad is not None:
                        parameter.grad = mean_gradient(parameter.grad)
                nn.utils.clip_grad_norm_(self.parameters(), 1.0)
                self.optimizer.step()
                losses.append(float(mean.detach()))
                clipped.append(float(was_clipped.sum()) / max(len(chunk), 1))
        return sum(losses) / len(losses), sum(clipped) / len(clipped)

    def save(self, folder: str | Path, *, for_resuming: bool = True) -> None:
        """Write the weights into `folder`, and for resuming the optimizer's state and the remembered rollouts."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        save_file({name: tensor.contiguous() for name, tensor in self.state_dict().items()}, folder / CRITIC_FILE)
        if for_resuming:
            torch.save({"optimizer": self.optimizer.state_dict(), "replay": list(self.replay)}, folder / STATE_FILE)

    def load(self, folder: str | Path, *, with_replay: bool = True) -> None:
        """Read what `save` wrote for resuming; the remembered rollouts are those of the process that saved."""
        self.load_state_dict(load_file(Path(folder) / CRITIC_FILE))
        state = torch.load(Path(folder) / STATE_FILE, map_location="cpu", weights_only=True)
        self.optimizer.load_state_dict(state["optimizer"])
        self.replay.clear()
        if with_replay:
            self.replay.extend(state["replay"])
