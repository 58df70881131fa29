"""The weight of the KL penalty: fixed, or adapted to a target."""


def adapted_kl_coef(kl_coef: float, kl: float, *, target: float, episodes: int, horizon: int) -> float:
    """Next weight of the KL penalty: raised where the policy is further from the reference than wanted, else lowered.

    e = clip(kl / target - 1, -0.2, 0.2); next = kl_coef * (1 + e * episodes / horizon).

    Args:
        kl_coef: weight of the rollout that was just used, above 0.
        kl: mean over its completions of the KL to the reference, summed over tokens, in nats.
        target: wanted value of that.
        episodes: completions of the rollout, over all processes.
        horizon: completions over which an error of e changes the weight by about e times itself.

    Source: Ziegler et al. 2019, arXiv 1909.08593, section 2.2, whose constant K_beta of 0.1 is episodes / horizon in
        the code that they published (lm-human-preferences, horizon 10,000).
    """
    error = min(max(kl / target - 1, -0.2), 0.2)
    return kl_coef * (1 + error * episodes / horizon)


class KLControl:
    """Weight of the KL penalty from rollout to rollout.

    Args:
        kl_coef: weight at the start.
        target: see `adapted_kl_coef`; None keeps the weight.
        horizon: see `adapted_kl_coef`.
    """

    def __init__(self, kl_coef: float, target: float | None, horizon: int) -> None:
        self.kl_coef = kl_coef
        self.target = target
        self.horizon = horizon
        self.observed: float | None = None

    def observe(self, kl: float, completions: int) -> None:
        """Note the mean KL of the latest rollout; one without any scored completion says nothing."""
        self.observed = kl if completions else None

    def adapt(self, episodes: int) -> None:
        """Adapt the weight once the updates of a rollout are done, so that it is the same within a rollout."""
        if self.target is not None and self.observed is not None:
            self.kl_coef = adapted_kl_coef(
                self.kl_coef, self.observed, target=self.target, episodes=episodes, horizon=self.horizon
            )

    def tighten(self, factor: float, *, resumed: bool = False) -> None:
        """Raise the weight from outside, for good: an adaptive one gets a target that is as much lower.

        Args:
            factor: above 1.
            resumed: repeat it in a resumed run, whose checkpoint has kept an adaptive weight, but not its target.
        """
        if self.target is not None:
            self.target /= factor
        if self.target is None or not resumed:
            self.kl_coef *= factor
