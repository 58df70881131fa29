"""Early stopping and the best checkpoint: by which evaluation, said in words, the same after a restart."""

import logging
import math
from pathlib import Path
from typing import Any

from transformers import EarlyStoppingCallback, TrainerControl, TrainerState, TrainingArguments

from rlgen.controls import best_metric
from rlgen.errors import ConfigError
from rlgen.runs import Run

logger = logging.getLogger(__name__)


class BestCheckpoint(EarlyStoppingCallback):
    """transformers' early stopping, which here also survives a restart, checks its metric and reports what it chose.

    It leaves `best_checkpoint` in `run.json`: step, metric, value, number of evaluations, and whether it stopped the
    training.

    Args:
        run: of the training.
        patience: evaluations in a row that may be no better; None never stops.
        threshold: how much better an evaluation must be.
    """

    def __init__(self, run: Run, patience: int | None, threshold: float = 0.0) -> None:
        super().__init__(patience or 1, threshold)
        self.run, self.patience = run, patience
        self.best: float | None = None
        self.over = False

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Take up where a checkpoint left off: what was counted until then follows from the evaluations so far."""
        super().on_train_begin(args, state, control, **kwargs)
        self.early_stopping_patience_counter, self.best = 0, None
        for row in state.log_history:
            if best_metric(args) in row:
                self._count(args, row[best_metric(args)])
        if state.best_model_checkpoint is None and state.best_global_step:  # the folder was moved in the meantime
            moved = Path(str(args.output_dir)) / f"checkpoint-{state.best_global_step}"
            state.best_model_checkpoint = str(moved) if moved.is_dir() else None
        self.over = self._out_of_patience()

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, metrics: Any = None, **_: Any
    ) -> None:
        """Count this evaluation; stop if it was one too many.

        Raises:
            ConfigError: the evaluation does not have the metric.
        """
        name = best_metric(args)
        if name not in metrics:
            known = sorted(key for key in metrics if not key.endswith(("_runtime", "_per_second")) and key != "epoch")
            raise ConfigError(f"--metric_for_best_model {name}: the evaluation has only {', '.join(known)}")
        if metrics[name] is None:
            metrics[name] = math.nan  # no row had a score; transformers compares it next
        self._count(args, metrics[name])
        control.should_training_stop |= self._out_of_patience()

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """End a run that had stopped before it was interrupted: the step taken to find this out counts for nothing."""
        if self.over:
            control.should_training_stop = True
            control.should_evaluate = control.should_save = False

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """As `on_step_end`."""
        self.on_step_end(args, state, control)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Say which checkpoint the run ends with and why."""
        values = [(row["step"], row[best_metric(args)]) for row in state.log_history if best_metric(args) in row]
        if not state.is_world_process_zero:
            return
        if state.best_model_checkpoint is None:
            logger.warning("no evaluation had a number for %s: the last step is kept", best_metric(args))
            return
        stopped = self._out_of_patience()
        self.run.note(
            "best_checkpoint",
            {
                "step": state.best_global_step,
                "metric": best_metric(args),
                "value": state.best_metric,
                "evaluations": len(values),
                "last_step": values[-1][0],
                "stopped_early": stopped,
            },
        )
        logger.info(
            "best checkpoint: step %d, whose %s of %.4g is the %s of %d evaluations up to step %d%s",
            *(state.best_global_step, best_metric(args), state.best_metric),
            *("highest" if args.greater_is_better else "lowest", len(values), values[-1][0]),
            f"; stopped early after {self.patience} without a better one" if stopped else "",
        )

    def _count(self, args: TrainingArguments, value: float | None) -> None:
        value = math.nan if value is None else value
        as_seen = TrainerState(best_metric=self.best)
        self.check_metric_value(args, as_seen, None, value)
        sign = 1 if args.greater_is_better else -1
        if not math.isnan(value) and (self.best is None or sign * value > sign * self.best):
            self.best = value

    def _out_of_patience(self) -> bool:
        return self.patience is not None and self.early_stopping_patience_counter >= self.patience


def best_checkpoint(run: Run, args: Any) -> list[BestCheckpoint]:
    """The callback, if the settled arguments ask for a best checkpoint."""
    if not args.load_best_model_at_end:
        return []
    # TRL's own settings, as `train_reward_model` takes them, know no early stopping.
    patience = getattr(args, "early_stopping_patience", None)
    return [BestCheckpoint(run, patience, getattr(args, "early_stopping_threshold", 0.0))]
