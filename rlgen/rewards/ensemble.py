"""Several trained reward models that disagree where none of them knows: adapters with their own heads on one base.

An ensemble's folder holds `ensemble.json` and one folder per member, each a PEFT adapter of its own.
"""

import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel

from rlgen.errors import RewardError
from rlgen.models import adapter_base, is_adapter, load_reward_model, load_tokenizer
from rlgen.rewards.aggregate import aggregate as aggregated
from rlgen.rewards.aggregate import check_aggregate
from rlgen.rewards.model import (
    RewardModel,
    default_device,
    longest_text,
    prepare_for_scoring,
    read_statistics,
    score_texts,
)
from rlgen.runs import write_atomic

ENSEMBLE = "ensemble.json"


class RewardEnsemble(RewardModel):
    """Scores completions with all members of an ensemble and makes one score of theirs.

    Only the members' adapters and heads multiply: the base is in memory once.

    Args:
        folder: what `rlgen reward --num_members N` wrote.
        aggregate: "mean", "worst" (the lowest member), or "uncertainty" (the mean less `uncertainty_coef` times the
            members' variance).
        uncertainty_coef: at least 0.
        standardize: bring each member's scores to the mean and deviation that its folder records, without which the
            scales of members do not compare; None does so where they are recorded.
        batch_size: texts per forward pass.
        device: where the model runs; None for the accelerator, if there is one.
        max_length: as for `RewardModel`.
        model_options: passed on to `load_reward_model` (`dtype`, `trust_remote_code`).

    Raises:
        ConfigError: an unknown aggregate or a negative coefficient.
        RewardError: the folder holds no ensemble, or its members do not belong together.
        ModelError: the base or a member cannot be loaded.

    Source: Coste et al. 2023, "Reward model ensembles help mitigate overoptimization", arXiv 2310.02743, section 3.3;
        Zhai et al. 2023, arXiv 2401.00243, for members that are adapters on one base.
    """

    __name__ = "reward_ensemble"

    def __init__(
        self,
        folder: str,
        *,
        aggregate: str = "mean",
        uncertainty_coef: float = 0.5,
        standardize: bool | None = None,
        batch_size: int = 16,
        device: str | torch.device | None = None,
        max_length: int | None = None,
        **model_options: Any,
    ) -> None:
        check_aggregate(aggregate, uncertainty_coef)
        base, self.members = read_ensemble(folder)
        path = Path(folder).expanduser()
        self.aggregate, self.uncertainty_coef = aggregate, uncertainty_coef
        remote_code = bool(model_options.get("trust_remote_code", False))
        self.tokenizer = load_tokenizer(str(path / self.members[0]), trust_remote_code=remote_code, needs_eos=False)
        self.model = load_reward_model(base, **model_options)
        self.statistics = [read_statistics(str(path / name), standardize) for name in self.members]
        self.mean, self.deviation = 0.0, statistics.fmean(deviation for _, deviation in self.statistics)
        self.adapters = _with_members(self.model, path, self.members)
        prepare_for_scoring(self.model, self.tokenizer)
        self.model.to(device or default_device())
        self.batch_size = batch_size
        self.max_length = max_length or longest_text(self.model, self.tokenizer)

    def __call__(self, prompts: Sequence[Any], completions: Sequence[Any], **_: Any) -> list[float]:
        """Score rows.

        Args:
            prompts: plain or conversational, one per row.
            completions: likewise.

        Returns:
            One score per row, the members' aggregate.
        """
        scores = aggregated(self.member_scores(prompts, completions), self.aggregate, self.uncertainty_coef)
        return [score for score in scores if score is not None]  # members always have something to say

    def member_scores(self, prompts: Sequence[Any], completions: Sequence[Any], **_: Any) -> list[list[float]]:
        """Every member's scores.

        Args:
            prompts: plain or conversational, one per row.
            completions: likewise.

        Returns:
            Members x rows.
        """
        texts = self.tokenized(prompts, completions)
        scores = []
        for name, (mean, deviation) in zip(self.members, self.statistics, strict=True):
            self.adapters.set_adapter(name, inference_mode=True)
            raw = score_texts(self.model, texts, batch_size=self.batch_size)
            scores.append([(score - mean) / deviation for score in raw])
        return scores


def is_ensemble(path: str | Path) -> bool:
    """Whether `path` is the folder of an ensemble."""
    return (Path(path).expanduser() / ENSEMBLE).is_file()


def write_ensemble(folder: str | Path, base: str, members: Sequence[str]) -> None:
    """Say which folders inside `folder` belong together, once all members are there.

    Args:
        folder: the ensemble's.
        base: what all members were trained on; inside `folder` it is kept as a relative path, so that the folder may
            move.
        members: names of the members' folders.
    """
    folder = Path(folder)
    inside = Path(base).is_absolute() and Path(base).is_relative_to(folder.resolve())
    kept = str(Path(base).relative_to(folder.resolve())) if inside else base
    write_atomic(folder / ENSEMBLE, json.dumps({"base": kept, "members": list(members)}, indent=2) + "\n")


def read_ensemble(folder: str | Path) -> tuple[str, list[str]]:
    """The base model and the members' folder names of an ensemble.

    Raises:
        RewardError: the folder holds no ensemble, or its members do not belong together.
    """
    path = Path(folder).expanduser()
    try:
        record = json.loads((path / ENSEMBLE).read_text(encoding="utf-8"))
        base, members = str(record["base"]), [str(name) for name in record["members"]]
    except FileNotFoundError as error:
        raise RewardError(
            f"{folder} holds no ensemble: there is no {ENSEMBLE}; `rlgen reward --num_members 5` writes one when its "
            "last member is trained"
        ) from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RewardError(f"{path / ENSEMBLE} cannot be read: {error!r}; write the ensemble again") from error
    if not members or len(set(members)) < len(members):
        raise RewardError(f"{path / ENSEMBLE} must name at least one member, and each once; it names {members}")
    missing = [name for name in members if not is_adapter(path / name)]
    if missing:
        raise RewardError(f"{path / missing[0]} holds no adapter, but {ENSEMBLE} counts it; train it again")
    bases = {name: adapter_base(path / name) for name in members}
    if len(set(bases.values())) > 1:
        told = ", ".join(f"{name} on {trained_on}" for name, trained_on in bases.items())
        raise RewardError(f"the members of {folder} were trained on different bases ({told}); an ensemble has one")
    return (str(path / base) if (path / base / "config.json").is_file() else base), members


def _with_members(model: Any, path: Path, members: Sequence[str]) -> PeftModel:
    """Put all members on the base, in the base's number format: in float32 they would weigh twice as much."""
    first, *others = members
    try:
        adapters = PeftModel.from_pretrained(
            model, str(path / first), adapter_name=first, autocast_adapter_dtype=False
        )
        for name in others:
            adapters.load_adapter(str(path / name), adapter_name=name, autocast_adapter_dtype=False)
    except (ValueError, RuntimeError, KeyError) as error:
        reason = str(error).strip().split("\n")[0]
        raise RewardError(f"the members of {path} cannot be put on their base: {reason}") from error
    return adapters
