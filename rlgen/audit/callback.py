"""The audit as a callback of a transformers trainer: sample, score, compare with the start, act."""

import hashlib
import json
import logging
import math
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from rlgen.audit.config import AuditArguments
from rlgen.audit.good_state import can_raise_kl, good_checkpoint, raise_kl, restore_good, save_good
from rlgen.audit.judge import Scores, Verdict, judge
from rlgen.audit.measures import Watched
from rlgen.audit.sampling import Score, answer, in_first_process, score, undisturbed
from rlgen.data import prompt_text, row_hashes
from rlgen.errors import ConfigError
from rlgen.runs import finite, read_metrics, write_atomic

logger = logging.getLogger(__name__)

LOG, FOLDER, START = "audit.jsonl", "audit", "start.json"
MOST_INTERVENTIONS = 3
"""Raises of the KL weight in a run. A reward that still gets hacked with the penalty raised so often needs mending."""
WORST = 3


@dataclass
class Answers:
    """What the policy wrote for the audited prompts at one time, and its scores."""

    texts: list[str]
    optimized: Scores
    watched: dict[str, Scores]


class AuditCallback(TrainerCallback):
    """Scores held-out prompts every so many steps with rewards that are not optimized, and acts when they fall.

    Works with any TRL trainer that optimizes rewards; what changes the trainer (rolling back, raising the KL weight)
    needs `bind`. Leaves `audit.jsonl` and `audit/` in the run folder; see docs/rewards/audit.md.

    Args:
        folder: the run folder.
        rows: held-out rows with `prompt`; further columns reach the rewards.
        rewards: what training optimizes.
        weights: one factor per reward.
        measures: what is watched, see `watched_measures`.
        settings: when to audit and what to do on alarm.
        max_new_tokens: length limit of the answers.
        seed: of the answers, if they are drawn at a temperature.

    Raises:
        ConfigError: there is nothing that training optimizes, or nothing to watch, or no prompt.
    """

    def __init__(
        self,
        folder: str | Path,
        rows: Dataset,
        rewards: Sequence[Score],
        weights: Sequence[float],
        measures: Sequence[Watched],
        settings: AuditArguments,
        *,
        max_new_tokens: int,
        seed: int = 0,
    ) -> None:
        if not rewards:
            raise ConfigError("the audit compares with a reward that is optimized: there is none of whole completions")
        if not measures or len(rows) == 0:
            raise ConfigError("the audit needs held-out prompts and at least one measure to watch")
        self.folder = Path(folder)
        self.rows = rows
        self.rewards, self.weights = list(rewards), list(weights)
        self.measures = {measure.name: measure for measure in measures}
        self.settings = settings
        self.max_new_tokens, self.seed = max_new_tokens, seed
        self.trainer: Any = None
        self.every = self.looks = settings.audit_steps
        self.start: Answers | None = None
        self.audited = -1
        self.interventions = 0
        self.active: set[str] = set()

    def bind(self, trainer: Any) -> "AuditCallback":
        """Hang the audit on a trainer and let it act on it."""
        self.trainer = trainer
        trainer.add_callback(self)
        return self

    # --- the trainer's events ---

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Audit the policy that training starts from, or take up the audit of the run that goes on."""
        self._check(args)
        updates = updates_per_rollout(args)
        self.every = math.ceil(self.settings.audit_steps / updates) * updates
        self.looks = math.ceil(state.max_steps / self.every)
        self.audited, self.active = state.global_step, set()
        known = self._read_log(state)
        self.interventions = sum(row["action"] in ("raise_kl", "rollback") for row in known)
        if self.interventions and self.trainer is not None:
            raise_kl(self.trainer, self.settings.audit_kl_factor**self.interventions, resumed=True)
        if not state.is_world_process_zero:
            return
        write_atomic(self.log, "".join(json.dumps(row) + "\n" for row in known))
        self.start = self._read_start() if state.global_step else None
        if self.start is not None:
            return
        if state.global_step:
            logger.warning("audit: %s has no start of this audit, so it compares with this step", self.folder)
        shutil.rmtree(self.folder / FOLDER, ignore_errors=True)
        (self.folder / FOLDER).mkdir(parents=True)
        with undisturbed():
            self.start = self._answers(args, state, kwargs)
            self._keep(state)
        record = {"audit": self._identity(), **asdict(self.start)}
        write_atomic(self.folder / FOLDER / START, json.dumps(record) + "\n")

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Audit if it is time to, and after the last step."""
        if state.global_step % self.every == 0 or state.global_step >= state.max_steps:
            self._audit(args, state, control, kwargs)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Audit a policy that training ends with before it was time to."""
        if self.audited != state.global_step:
            self._audit(args, state, control, kwargs)

    # --- one audit ---

    def _audit(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, kwargs: dict[str, Any]
    ) -> None:
        """The first process finds out what is to be done; all of them do it."""
        self.audited = state.global_step
        work = partial(self._look, args, state, kwargs)
        with undisturbed():
            self._act(in_first_process(state, work, "the audit"), control)

    def _look(self, args: TrainingArguments, state: TrainerState, kwargs: dict[str, Any]) -> str:
        """Answer, score, judge, write and warn; returns the action."""
        assert self.start is not None
        now = self._answers(args, state, kwargs)
        verdict = judge(
            (self.start.optimized, now.optimized),
            {name: (self.start.watched[name], now.watched[name]) for name in self.measures},
            list(self.measures.values()),
            looks=self.looks,
        )
        if verdict.good:
            self._keep(state)
        action = self._choose(verdict)
        worst = self._worst(verdict, now) if verdict.alarms else []
        row = {
            "step": state.global_step,
            "time": round(time.time(), 3),
            "optimized": asdict(verdict.optimized),
            "watched": {change.name: asdict(change) for change in verdict.watched},
            "alarms": list(verdict.alarms),
            "good": verdict.good,
            "action": action,
            "worst": worst,
        }
        with self.log.open("a", encoding="utf-8") as file:
            file.write(json.dumps(finite(row), ensure_ascii=False) + "\n")
        if set(verdict.alarms) - self.active or action not in ("none", "warn"):
            self._warn(state.global_step, verdict, action, worst)
        self.active = set(verdict.alarms)
        return action

    def _choose(self, verdict: Verdict) -> str:
        if not verdict.alarms:
            return "none"
        action = self.settings.audit_action
        may_raise = self.interventions < MOST_INTERVENTIONS and self.trainer is not None and can_raise_kl(self.trainer)
        if action == "rollback":
            if good_checkpoint(self.folder / FOLDER) is None:
                return "stop"
            return "rollback" if may_raise else "rollback_stop"
        if action == "raise_kl":
            return "raise_kl" if may_raise else "warn"
        return action

    def _act(self, action: str, control: TrainerControl) -> None:
        if action in ("rollback", "rollback_stop"):
            good = good_checkpoint(self.folder / FOLDER)
            assert good is not None  # `_choose` has looked
            restore_good(self.trainer, good)
        if action in ("rollback", "raise_kl"):
            self.interventions += 1
            weight = raise_kl(self.trainer, self.settings.audit_kl_factor)
            logger.warning("audit: the weight of the KL penalty is %.3g from now on", weight)
        if action in ("rollback_stop", "stop"):
            control.should_training_stop = True

    def _answers(self, args: TrainingArguments, state: TrainerState, kwargs: dict[str, Any]) -> Answers:
        completions = answer(
            kwargs["model"],
            kwargs["processing_class"],
            self.rows,
            args,
            max_new_tokens=self.max_new_tokens,
            temperature=self.settings.audit_temperature,
            seed=self.seed,
        )
        functions = {name: measure.score for name, measure in self.measures.items()}
        optimized, watched = score(functions, self.rewards, self.weights, self.rows, completions, state)
        return Answers([completion.text for completion in completions], optimized, dict(watched))

    def _keep(self, state: TrainerState) -> None:
        """Save a good state, where there is a trainer to save and to go back."""
        if self.trainer is not None:
            save_good(self.trainer, self.folder / FOLDER, state)

    def _worst(self, verdict: Verdict, now: Answers) -> list[dict[str, Any]]:
        """The prompts on which the most significant alarm's measure fell most."""
        assert self.start is not None
        changes = [change for change in verdict.watched if change.name in verdict.alarms]
        measure = self.measures[min(changes, key=lambda change: change.p_value).name]
        both = zip(self.start.watched[measure.name], now.watched[measure.name], strict=True)
        rises = [(b - a, i) for i, (a, b) in enumerate(both) if a is not None and b is not None]
        falls = [(-abs(rise) if measure.both_ways else rise, i) for rise, i in rises]
        return [
            {
                "measure": measure.name,
                "prompt": prompt_text(self.rows[i]["prompt"]),
                "start": self.start.texts[i],
                "now": now.texts[i],
                "score_start": self.start.watched[measure.name][i],
                "score_now": now.watched[measure.name][i],
                "optimized_start": self.start.optimized[i],
                "optimized_now": now.optimized[i],
            }
            for _, i in sorted(falls)[:WORST]
        ]

    def _warn(self, step: int, verdict: Verdict, action: str, worst: Sequence[dict[str, Any]]) -> None:
        rise = verdict.optimized
        good = good_checkpoint(self.folder / FOLDER)
        done = {
            "warn": "training goes on",
            "stop": "training stops" + (f"; the last good state is {good}" if good else ""),
            "raise_kl": "the KL penalty is raised",
            "rollback": f"back to {good}, the KL penalty is raised",
            "rollback_stop": f"back to {good}, training stops",
        }[action]
        for change in verdict.watched:
            if change.name in verdict.alarms:
                measure = self.measures[change.name]
                logger.warning(
                    "audit alarm at step %d: the optimized reward rose from %.3g to %.3g, but %s went from %.3g to "
                    "%.3g on %d held-out prompts (p = %.1g); likely cause: %s; to change: %s; done: %s",
                    *(step, rise.start, rise.now, change.name, change.start, change.now, change.n, change.p_value),
                    *(measure.cause, measure.change, done),
                )
        for sample in worst:
            logger.warning(
                "audit, largest fall of %s (%.3g to %.3g): %s | before: %s | now: %s",
                *(sample["measure"], sample["score_start"], sample["score_now"]),
                *(_short(sample[key]) for key in ("prompt", "start", "now")),
            )

    # --- what survives the process ---

    @property
    def log(self) -> Path:
        """Where each audit leaves a line."""
        return self.folder / LOG

    def _read_log(self, state: TrainerState) -> list[dict[str, Any]]:
        """The audits before the checkpoint that training goes on from; later ones are done again."""
        rows = read_metrics(self.log) if self.log.is_file() and state.global_step else []
        return [row for row in rows if row["step"] <= state.global_step]

    def _read_start(self) -> Answers | None:
        try:
            record = json.loads((self.folder / FOLDER / START).read_text(encoding="utf-8"))
            same = record.pop("audit") == self._identity()
            return Answers(**record) if same else None
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def _identity(self) -> str:
        """What makes two audits comparable."""
        parts = [row_hashes(self.rows), sorted(self.measures), self.settings.audit_temperature, self.max_new_tokens]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]

    def _check(self, args: TrainingArguments) -> None:
        if getattr(args, "deepspeed", None) or getattr(args, "fsdp", None):
            raise ConfigError("the audit samples in one process, which needs the whole model: train without sharding")
        action = self.settings.audit_action
        if action in ("raise_kl", "rollback") and self.trainer is None:
            raise ConfigError(f"audit_action {action} changes the trainer: call bind(trainer)")
        if action == "raise_kl" and not can_raise_kl(self.trainer):
            raise ConfigError("audit_action raise_kl multiplies the KL penalty, which is 0: give it a weight above 0")


def updates_per_rollout(args: Any) -> int:
    """Optimizer steps that learn from one rollout: between two of them nothing sampled is left over."""
    known = getattr(args, "updates_per_rollout", None)  # PPO's own
    if known is None:
        uses = (getattr(args, "steps_per_generation", None) or 1) * (getattr(args, "num_iterations", None) or 1)
        known = math.ceil(uses / args.gradient_accumulation_steps)
    return max(int(known), 1)


def _short(text: str, limit: int = 160) -> str:
    text = " ".join(text.split())
    return text if len(text) <= limit else f"{text[: limit // 2]} ... {text[-limit // 2 :]}"
