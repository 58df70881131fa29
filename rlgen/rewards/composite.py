"""A composition of rewards as one reward: debiased, normalised, clipped, gated, weighted, added up, and explained.

For each part of each row: raw score -> `debias_length` -> `normalize` -> `clip` -> `gate` -> times `weight` and
`schedule`; the reward is the sum. docs/rewards/composition.md has the formulas.
"""

import dataclasses
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from reward_models._text import completion_text
from rlgen.errors import ConfigError, RewardError
from rlgen.rewards.aggregate import aggregate, disagreement
from rlgen.rewards.check import CheckedReward, contract_floats
from rlgen.rewards.compose import add_up, call_rewards
from rlgen.rewards.moments import RunningLine, RunningMoments
from rlgen.rewards.spec import COMPOSITE, Part
from rlgen.rewards.state import state_of

Scores = list[float | None]

ENOUGH_POINTS = 16
"""Rows from which on a line over the length is believed; through a handful of points it would explain the reward."""


@dataclass(frozen=True)
class PartScore:
    """What one part gave to one row, step by step; None from the step on where the part does not apply.

    Args:
        name: of the part.
        raw: what the reward returned.
        members: what an ensemble's members returned.
        debiased: after `debias_length`.
        normalized: after `normalize`.
        clipped: after `clip`.
        gate: why the part does not count in this row; "" where it does.
        weight: times the schedule's factor.
        value: what is weighted: `clipped`, or `when_closed`.
        contribution: weight times value.
    """

    name: str
    raw: float | None
    members: tuple[float | None, ...]
    debiased: float | None
    normalized: float | None
    clipped: float | None
    gate: str
    weight: float
    value: float | None
    contribution: float | None


@dataclass(frozen=True)
class Explanation:
    """One row's reward, the sum of its parts' contributions; None where no part applies."""

    reward: float | None
    parts: tuple[PartScore, ...]


@dataclass
class _Component:
    """A part with its rewards and what it has learned of their scores."""

    part: Part
    functions: Sequence[CheckedReward]
    moments: RunningMoments = field(default_factory=RunningMoments)
    line: RunningLine = field(default_factory=RunningLine)

    @property
    def learns(self) -> bool:
        return self.part.normalize or self.part.debias_length

    def learn(self, lengths: Sequence[float], raw: Sequence[float]) -> None:
        if self.part.debias_length:
            self.line.update(lengths, raw)
        if self.part.normalize:
            self.moments.update([self.debiased(*point) for point in zip(lengths, raw, strict=True)])

    def debiased(self, length: float, raw: float) -> float:
        if not self.part.debias_length:
            return raw
        return raw - self.line.slope(ENOUGH_POINTS) * (length - self.line.mean_x)

    def normalized(self, debiased: float) -> float:
        return self.moments.standardized(debiased) if self.part.normalize else debiased

    def clipped(self, normalized: float) -> float:
        if self.part.clip is None:
            return normalized
        low, high = self.part.clip
        return min(max(normalized, low), high)

    def weight(self, progress: float) -> float:
        schedule = self.part.schedule
        return self.part.weight * (1.0 if schedule is None else schedule.factor(progress))


class CompositeReward(CheckedReward):
    """Several rewards as one, with TRL's signature: for rlgen's PPO, TRL's GRPOTrainer, or a call of one's own.

    It learns running statistics in a trainer's training steps only, from the rows of all processes alike; anywhere
    else (evaluation, comparison, `explain`) it uses what it has learned. `state_dict` and `load_state_dict` keep that.

    Args:
        parts: see `rlgen.rewards.spec`.
        functions: by part, its reward, or the members of its ensemble.

    Raises:
        ConfigError: a part asks to aggregate a reward that is no ensemble.
    """

    def __init__(self, parts: Sequence[Part], functions: Mapping[str, Sequence[CheckedReward]]) -> None:
        super().__init__(self._train_or_score, COMPOSITE)
        self.progress = 1.0
        """Share of the training that is done, for schedules; 1 where no trainer says."""
        self._components = {part.name: _Component(part, functions[part.name]) for part in parts}
        for part in parts:
            single = functions[part.name][0].function
            if part.aggregate and not part.is_ensemble and not hasattr(single, "member_scores"):
                raise ConfigError(
                    f"rewards.{part.name}: 'aggregate' needs an ensemble, but {part.members[0].reward} is one reward"
                )

    @property
    def parts(self) -> list[Part]:
        """The parts, in their order."""
        return [component.part for component in self._components.values()]

    @property
    def functions(self) -> dict[str, Sequence[CheckedReward]]:
        """By part, its reward, or the members of its ensemble."""
        return {name: component.functions for name, component in self._components.items()}

    @property
    def unlearned(self) -> list[str]:
        """Parts that are normalized or debiased by statistics which nothing has been learned for."""
        return [
            name
            for name, component in self._components.items()
            if component.learns and not (component.moments.count or component.line.count)
        ]

    def explain(self, prompts: Sequence[Any], completions: Sequence[Any], **columns: Any) -> list[Explanation]:
        """Score rows as they would be scored now, and say how.

        Args:
            prompts: one per row, plain or conversational.
            completions: one per row, likewise.
            columns: the dataset's other columns.

        Returns:
            Per row its reward, exactly the sum of the contributions in their order.

        Raises:
            RewardError: a reward raised or broke the contract.
        """
        raw, members = self.raw_scores(prompts, completions, **columns)
        return self.explain_scores(raw, completions, members)

    def raw_scores(
        self, prompts: Sequence[Any], completions: Sequence[Any], **columns: Any
    ) -> tuple[dict[str, Scores], dict[str, list[Scores]]]:
        """Ask all rewards.

        Returns:
            By part its scores, and for ensembles those of the members.

        Raises:
            RewardError: a reward raised or broke the contract.
        """
        return _ask(list(self._components.values()), prompts, completions, columns)

    def part_reward(self, name: str) -> Callable[..., Scores]:
        """The raw score of one part as a reward of its own."""
        component = self._components[name]
        if len(component.functions) == 1 and not component.part.aggregate:
            return component.functions[0]

        def reward(prompts: Sequence[Any], completions: Sequence[Any], **columns: Any) -> Scores:
            return _ask([component], prompts, completions, columns)[0][name]

        return reward

    def explain_scores(
        self,
        raw: Mapping[str, Scores],
        completions: Sequence[Any],
        members: Mapping[str, list[Scores]] | None = None,
        *,
        progress: float | None = None,
    ) -> list[Explanation]:
        """Compose scores that are known already.

        Args:
            raw: by part, its scores.
            completions: one per row, for their lengths.
            members: by part, those of an ensemble's members, to be shown.
            progress: share of the training that is done; None for what was last learned at.
        """
        progress = self.progress if progress is None else progress
        rows = []
        for i, completion in enumerate(completions):
            scores = {name: raw[name][i] for name in self._components}
            length = _length(completion)
            parts = tuple(
                _score_part(component, scores, length, self._closed(component.part, scores), progress, shown)
                for name, component in self._components.items()
                for shown in [tuple(each[i] for each in (members or {}).get(name, ()))]
            )
            (reward,) = add_up([[part.contribution] for part in parts], [1.0] * len(parts))
            rows.append(Explanation(reward, parts))
        return rows

    def state_dict(self) -> dict[str, Any]:
        """What was learned, and the states of the rewards that have one, in JSON's types."""
        return {
            "progress": self.progress,
            "parts": {
                name: {
                    "moments": dataclasses.asdict(component.moments),
                    "line": dataclasses.asdict(component.line),
                    "rewards": [state.state_dict() if state else None for state in map(state_of, component.functions)],
                }
                for name, component in self._components.items()
            },
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` gave.

        Raises:
            RewardError: it is the state of other rewards.
        """
        saved = state["parts"]
        counts = {name: len(entry["rewards"]) for name, entry in saved.items()}
        own = {name: len(component.functions) for name, component in self._components.items()}
        if counts != own:
            raise RewardError(
                f"the saved state is of the rewards {', '.join(counts)}, not of {', '.join(own)}: "
                "use the composition that it was saved with"
            )
        self.progress = float(state["progress"])
        for name, component in self._components.items():
            component.moments = RunningMoments(**saved[name]["moments"])
            component.line = RunningLine(**saved[name]["line"])
            for function, inner in zip(component.functions, saved[name]["rewards"], strict=True):
                owner = state_of(function)
                if owner is not None and inner is not None:
                    owner.load_state_dict(inner)

    def _train_or_score(
        self, prompts: Sequence[Any], completions: Sequence[Any], **columns: Any
    ) -> list[float | None]:
        raw, members = self.raw_scores(prompts, completions, **columns)
        log_metric = columns.get("log_metric")
        # TRL does not tell rewards whether it trains or evaluates, but the trainer stands behind its `log_metric`.
        trainer = getattr(log_metric, "__self__", None)
        progress, state = self.progress, columns.get("trainer_state")
        if state is not None and state.max_steps > 0:
            progress = min(state.global_step / state.max_steps, 1.0)
        if getattr(getattr(trainer, "model", None), "training", False):
            self.progress = progress
            self._learn(raw, [_length(completion) for completion in completions])
        rows = self.explain_scores(raw, completions, members, progress=progress)
        if log_metric is not None:
            self._log(rows, log_metric, columns.get("log_extra"))
        return [row.reward for row in rows]

    def _learn(self, raw: Mapping[str, Scores], lengths: Sequence[int]) -> None:
        """Take in the rows of all processes in one order, so that each of them learns the same to the bit."""
        learners = [component for component in self._components.values() if component.learns]
        if not learners:
            return
        rows = list(zip(lengths, *(raw[component.part.name] for component in learners), strict=True))
        from accelerate import PartialState  # only now: it brings torch, and there is a trainer
        from accelerate.utils import gather_object

        if PartialState().num_processes > 1:
            rows = gather_object(rows)
        for i, component in enumerate(learners, start=1):
            known: list[tuple[int, float]] = [(row[0], row[i]) for row in rows if row[i] is not None]
            component.learn([length for length, _ in known], [value for _, value in known])

    def _closed(self, part: Part, scores: Mapping[str, float | None]) -> str:
        """Why a part's gate is closed in a row, "" if it is open; what another gate holds back has not passed."""
        for other, (low, high) in part.gate.items():
            score = scores[other]
            if score is None:
                return f"{other} does not apply"
            if not low <= score <= high:
                return f"{other} {score:.3g} {'<' if score < low else '>'} {low if score < low else high:g}"
            if self._closed(self._components[other].part, scores):
                return f"{other} is held back"
        return ""

    def _log(
        self,
        rows: Sequence[Explanation],
        log_metric: Callable[[str, float], Any],
        log_extra: Callable[[str, list[Any]], Any] | None,
    ) -> None:
        for i, (name, component) in enumerate(self._components.items()):
            scores = [row.parts[i] for row in rows]
            values: dict[str, Sequence[float | None]] = {
                "mean": [score.raw for score in scores],
                "contribution": [score.contribution for score in scores],
                "skipped": [float(score.raw is None) for score in scores],
            }
            if component.part.gate:
                values["gate_open"] = [None if score.raw is None else float(not score.gate) for score in scores]
            if component.part.schedule:
                values["weight"] = [scores[0].weight]
            if component.part.debias_length:
                values["length_slope"] = [component.line.slope(ENOUGH_POINTS)]
            if component.part.aggregate:
                values["disagreement"] = disagreement(list(zip(*(score.members for score in scores), strict=True)))
            for key, each in values.items():
                known = [value for value in each if value is not None]
                if known:
                    log_metric(f"rewards/{name}/{key}", statistics.fmean(known))
            if log_extra is not None:
                log_extra(name, [math.nan if score.contribution is None else score.contribution for score in scores])
        log_metric(f"rewards/{COMPOSITE}/unscored", float(sum(row.reward is None for row in rows)))


def _ask(
    components: Sequence[_Component], prompts: Sequence[Any], completions: Sequence[Any], columns: Mapping[str, Any]
) -> tuple[dict[str, Scores], dict[str, list[Scores]]]:
    """Scores by part, and those of the members of ensembles."""
    asked = [
        (component.part.name, function)
        for component in components
        if not _by_members(component)
        for function in component.functions
    ]
    answers = call_rewards([function for _, function in asked], prompts, completions, **columns)
    raw: dict[str, Scores] = {}
    members: dict[str, list[Scores]] = {}
    for component in components:
        part = component.part
        if _by_members(component):
            mine = _member_scores(component.functions[0], prompts, completions, columns)
        else:
            mine = [scores for (owner, _), scores in zip(asked, answers, strict=True) if owner == part.name]
        if part.aggregate:
            members[part.name] = mine
            raw[part.name] = aggregate(mine, part.aggregate, part.uncertainty_coef)
        else:
            raw[part.name] = mine[0]
    return raw, members


def _score_part(
    component: _Component,
    scores: Mapping[str, float | None],
    length: int,
    gate: str,
    progress: float,
    members: tuple[float | None, ...],
) -> PartScore:
    """One part of one row, in the order of operations."""
    part, raw = component.part, scores[component.part.name]
    weight = component.weight(progress)
    if raw is None:
        return PartScore(part.name, None, members, None, None, None, "", weight, None, None)
    debiased = component.debiased(length, raw)
    normalized = component.normalized(debiased)
    clipped = component.clipped(normalized)
    value = part.when_closed if gate else clipped
    contribution = None if value is None else weight * value
    return PartScore(part.name, raw, members, debiased, normalized, clipped, gate, weight, value, contribution)


def _by_members(component: _Component) -> bool:
    """Whether one reward is an ensemble in itself, whose members the composition aggregates."""
    return bool(component.part.aggregate) and not component.part.is_ensemble


def _member_scores(
    ensemble: CheckedReward, prompts: Sequence[Any], completions: Sequence[Any], columns: Mapping[str, Any]
) -> list[Scores]:
    """Members x rows of a reward that is an ensemble, under the contract."""
    name = ensemble.__name__
    try:
        given = getattr(ensemble.function, "member_scores")(prompts, completions, **columns)  # noqa: B009
    except RewardError:
        raise
    except Exception as error:
        raise RewardError(f"ensemble '{name}' raised {type(error).__name__}: {error}") from error
    return [contract_floats(f"{name}[{i}]", rows, len(prompts)) for i, rows in enumerate(given)]


def _length(completion: Any) -> int:
    """Characters of a completion: known wherever its text is, whatever the tokenizer."""
    return len(completion_text(completion))
