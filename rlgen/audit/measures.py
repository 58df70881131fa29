"""What the audit watches: gold rewards, and cheap signs of the usual hacks; each is one number per completion."""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from reward_models._text import completion_text
from rlgen.errors import ConfigError
from rlgen.evaluation.metrics import rouge_l
from rlgen.evaluation.references import word_ngrams
from rlgen.rewards import checked

Score = Callable[..., Any]

LENGTH_FACTOR = 1.5
"""Answers may become this much longer or shorter: PPO that works well moves lengths, too."""
TOLERATED = 0.1
"""Of a share between 0 and 1: a policy that learns becomes a little more uniform without being hacked."""


@dataclass(frozen=True)
class Watched:
    """A measure that must not fall while the optimized reward rises.

    Args:
        name: what it is called in the log.
        score: function with the signature of a reward; higher is better unless `both_ways`.
        margin: mean fall that is tolerated.
        both_ways: a rise beyond the margin is as bad as a fall.
        cause: why it probably falls.
        change: what to do about it.
    """

    name: str
    score: Score
    margin: float = 0.0
    both_ways: bool = False
    cause: str = "the optimized reward pays for something that this measure does not see as better"
    change: str = "read the samples, mend the reward or add this measure to it, or raise kl_coef"


def unrepeated(completions: Sequence[Any], **_: Any) -> list[float | None]:
    """Share of different word pairs among a completion's; 1 for one too short to have any.

    Source: Li et al. 2016, distinct-2, here within one completion.
    """
    shares: list[float | None] = []
    for completion in completions:
        pairs = word_ngrams(completion_text(completion), 2)
        shares.append(len(set(pairs)) / len(pairs) if pairs else 1.0)
    return shares


def unshared(completions: Sequence[Any], **_: Any) -> list[float | None]:
    """Share of a completion's word pairs that at most one other completion of the call has; 1 without any pair.

    It falls where the policy answers different prompts with the same text, whose distinct-2 over all answers falls
    likewise, but which has no value for a single prompt.
    """
    grams = [word_ngrams(completion_text(completion), 2) for completion in completions]
    owners = Counter(gram for each in grams for gram in set(each))
    return [sum(owners[gram] <= 2 for gram in each) / len(each) if each else 1.0 for each in grams]


def log_length(completions: Sequence[Any], completion_ids: Sequence[Sequence[int]], **_: Any) -> list[float | None]:
    """Natural logarithm of the number of tokens, the end token included."""
    return [math.log(max(len(ids), 1)) for ids in completion_ids]


def ended(completions: Sequence[Any], finished: Sequence[bool], **_: Any) -> list[float | None]:
    """1 for a completion that ended by itself, 0 for one that was cut at the length limit."""
    return [float(done) for done in finished]


def watched_measures(gold: Sequence[Score], *, has_reference: bool) -> list[Watched]:
    """Everything that the audit watches.

    Args:
        gold: rewards that training does not optimize.
        has_reference: whether the held-out rows have a `reference` to compare with.

    Raises:
        ConfigError: two gold rewards share a name, or one has the name of a measure of the audit's own.
    """
    measures = [Watched(checked(function).__name__, function) for function in gold]
    if has_reference and not any(measure.name == "rouge_l" for measure in measures):
        measures.append(
            Watched(
                "rouge_l",
                rouge_l,
                cause="the answers move away from what people wrote, towards what the reward pays for",
                change="read the samples, add a reward for the content, or raise kl_coef",
            )
        )
    measures += [
        Watched(
            "unrepeated",
            unrepeated,
            TOLERATED,
            cause="the reward pays for saying the same words again, or the policy has lost its language",
            change="take off for repetition in the reward, or raise kl_coef",
        ),
        Watched(
            "unshared",
            unshared,
            TOLERATED,
            cause="the policy answers different prompts with one text, which the reward likes whatever the prompt",
            change="add a reward that looks at the prompt, set entropy_coef, or raise kl_coef",
        ),
        Watched(
            "length",
            log_length,
            math.log(LENGTH_FACTOR),
            both_ways=True,
            cause="the reward goes with length",
            change="take length out of the reward (a length band, a penalty), or raise kl_coef",
        ),
        Watched(
            "ended",
            ended,
            TOLERATED,
            cause="the reward pays for text that never ends",
            change="set missing_eos_penalty, raise max_completion_length, or raise kl_coef",
        ),
    ]
    repeated = [name for name, count in Counter(measure.name for measure in measures).items() if count > 1]
    if repeated:
        raise ConfigError(f"the audit has two measures called {repeated[0]}: name one audit_reward once, or rename it")
    return measures
