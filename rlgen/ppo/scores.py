"""From rewards to scores: running normalisation, clipping, truncated completions; and rewards of single tokens.

Letters for shapes: B completions, T completion tokens.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from rlgen.errors import ConfigError
from rlgen.ppo.advantages import masked_mean
from rlgen.ppo.config import PPOConfig
from rlgen.rewards.compose import call_reward
from rlgen.rewards.moments import RunningMoments
from rlgen.rewards.tokens import CheckedTokenReward, TokenReward, checked_tokens


class ScoreShaping:
    """From the rewards of a completion to the score that PPO sees: added up, normalised, clipped, then penalised.

    Normalising before clipping is the order of TRL's earlier PPO trainer (`use_score_norm`, then `score_clip`): with
    both on, the clip counts deviations. The penalty for a missing EOS comes last, so that it is as large as it says
    (Huang et al. 2024, arXiv 2403.17031, "EOS trick", sets a fixed score at this place). Rewards of single tokens are
    added later, as they are.
    """

    def __init__(self, args: PPOConfig) -> None:
        self.args = args
        self.moments = RunningMoments()
        self.clipped = 0.0  # share of the latest scores

    def __call__(self, rewards: Tensor, weights: Tensor, *, learn: bool) -> tuple[Tensor, Tensor]:
        """Add up the rewards, normalise to (score - mean) / deviation, and clip.

        Args:
            rewards: (B, F) of all processes, so that each of them learns the same; NaN where one does not apply.
            weights: (F,).
            learn: whether these scores count among those so far, these included; not in evaluation.

        Returns:
            Scores (B,), and whether any reward applied (B,); where none did, the score is 0. Scores are not normalised
            while none is known.
        """
        scored = ~rewards.isnan().all(1)
        scores = (rewards * weights.to(rewards.device)).nansum(1)
        if self.args.normalize_rewards and learn:
            self.moments.update(scores[scored].cpu())
        if self.args.normalize_rewards and self.moments.count:
            scores = torch.where(scored, (scores - self.moments.mean) / (self.moments.deviation + 1e-8), scores)
        if (clip := self.args.reward_clip) is not None:
            self.clipped = float(masked_mean((scores.abs() > clip).float(), scored))
            scores = scores.clamp(-clip, clip)
        return scores, scored

    def local(
        self,
        scores: Tensor,
        scored: Tensor,
        ended: Sequence[bool],
        token_rewards: Sequence[Sequence[float] | None] | None,
    ) -> tuple[Tensor, Tensor]:
        """Penalise or leave out truncated completions.

        Args:
            scores: (B,) of one process.
            scored: (B,) whether any reward of whole completions applied.
            ended: for each completion whether it ended by itself, not at the length limit.
            token_rewards: rewards of its tokens, if there are such.

        Returns:
            Scores (B,), and whether the completion takes part in the update (B,).
        """
        truncated = ~torch.tensor(ended, device=scores.device)
        if token_rewards is not None:
            scored = scored | torch.tensor([row is not None for row in token_rewards], device=scores.device)
        if self.args.missing_eos_penalty is not None:
            scores = scores - self.args.missing_eos_penalty * truncated
        return scores, scored & ~truncated if self.args.mask_truncated_completions else scored

    def metrics(self) -> dict[str, float]:
        """What the latest call did, for the log."""
        values = {}
        if self.args.normalize_rewards:
            values = {"objective/score_mean": self.moments.mean, "objective/score_deviation": self.moments.deviation}
        if self.args.reward_clip is not None:
            values["objective/clipped_scores"] = self.clipped
        return values


class TokenScores:
    """Weighted sum of rewards that say something about single tokens.

    Args:
        functions: see `rlgen.rewards.tokens`.
        weights: one factor each; None for 1.0 each.

    Raises:
        ConfigError: weights that do not fit.
    """

    def __init__(self, functions: Sequence[TokenReward], weights: Sequence[float] | None) -> None:
        self.functions: list[CheckedTokenReward] = [checked_tokens(function) for function in functions]
        self.weights = [1.0] * len(self.functions) if weights is None else list(weights)
        if len(self.weights) != len(self.functions):
            raise ConfigError(
                f"{len(self.weights)} token_reward_weights for {len(self.functions)} token rewards; give one each"
            )

    def __call__(
        self,
        rows: Sequence[Mapping[str, Any]],
        prompts: Sequence[Any],
        completions: Sequence[Any],
        completion_ids: Sequence[Sequence[int]],
        extras: Mapping[str, Any],
    ) -> tuple[list[list[float] | None], dict[str, Tensor]]:
        """Ask all functions, with what TRL gives to rewards.

        Args:
            rows: the dataset's row of each completion, whose columns reach the functions.
            prompts: one per completion, plain or conversational.
            completions: B of them.
            completion_ids: their tokens.
            extras: further keyword arguments.

        Returns:
            B lists as long as the completions, None where no function applied; and under each function's name, for
            the rows where it applied, the sums over tokens.

        Raises:
            RewardError: a function raised or broke the contract.
        """
        names = [name for name in rows[0] if name not in ("prompt", "completion", "completion_ids")]
        columns = {name: [row[name] for row in rows] for name in names}
        totals: list[list[float] | None] = [None] * len(prompts)
        sums: dict[str, Tensor] = {}
        for function, weight in zip(self.functions, self.weights, strict=True):
            judged: Sequence[Any] = call_reward(
                function, prompts, completions, completion_ids=completion_ids, **extras, **columns
            )
            sums[function.__name__] = torch.tensor([sum(row) for row in judged if row is not None])
            for i, row in enumerate(judged):
                if row is not None:
                    known = totals[i] or [0.0] * len(row)
                    totals[i] = [a + weight * b for a, b in zip(known, row, strict=True)]
        return totals, sums


def no_score(prompts: Sequence[Any], **_: Any) -> list[float]:
    """Reward of completions that only token-level rewards judge."""
    return [0.0] * len(prompts)


def pad_token_rewards(rows: Sequence[Sequence[float] | None], like: Tensor) -> Tensor:
    """Token rewards as a tensor of the shape and place of `like` (B, T), 0 past each completion and where None."""
    padded = torch.zeros(like.shape, dtype=torch.float32)
    for i, row in enumerate(rows):
        if row:
            padded[i, : len(row)] = torch.tensor(row)
    return padded.to(like.device)
