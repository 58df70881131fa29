"""Settings of PPO on top of TRL's GRPO settings, whose machinery it runs on."""

from dataclasses import dataclass, field, fields
from math import ceil

from trl import GRPOConfig

from rlgen.errors import ConfigError
from rlgen.ppo.critic.settings import KINDS, settle_critic

# What these do in GRPO's loss or advantage has no place in PPO; set away from its default, each is an error.
GRPO_ONLY = {
    "beta": "kl_coef",
    "num_iterations": "num_ppo_epochs",
    "epsilon": "cliprange",
    "epsilon_high": "cliprange",
    "delta": "cliprange",
    "loss_type": None,
    "scale_rewards": "whiten_rewards",
    "multi_objective_aggregation": None,
    "importance_sampling_level": None,
    "sync_ref_model": None,
    "ref_model_mixup_alpha": None,
    "ref_model_sync_steps": None,
    "top_entropy_quantile": None,
    "use_adaptive_entropy": "entropy_coef",
    "entropy_coef_min": "entropy_coef",
    "entropy_coef_max": "entropy_coef",
    "entropy_coef_delta": "entropy_coef",
    "entropy_target": "entropy_coef",
    "off_policy_mask_threshold": None,
    "use_bias_correction_kl": None,
    "sapo_temperature_neg": None,
    "sapo_temperature_pos": None,
    "vespo_k_pos": None,
    "vespo_lambda_pos": None,
    "vespo_k_neg": None,
    "vespo_lambda_neg": None,
    "repetition_penalty": None,
    "router_aux_loss_coef": None,
    "cast_lm_head_to_fp32": None,
    "generation_kwargs": None,
    # Probability ratios are those of the whole distribution; a truncated one would be sampled but not scored.
    "top_k": "temperature",
    "top_p": "temperature",
    "min_p": "temperature",
}


class _AnyCount(int):
    """An int of which GRPOConfig's "at least 2 completions a prompt" does not complain: a critic needs no group."""

    def __lt__(self, other: int) -> bool:
        return False


@dataclass
class PPOConfig(GRPOConfig):
    """Settings of `PPOTrainer`: those of TRL's GRPOConfig, less what only GRPO means, and the ones below.

    A rollout holds `per_device_train_batch_size * steps_per_generation` completions a process and is used for
    `num_ppo_epochs` passes in minibatches of `per_device_train_batch_size * gradient_accumulation_steps`.

    Raises:
        ConfigError: a value out of range, an option of GRPO that PPO does not have, or sizes that don't divide.
    """

    output_dir: str | None = field(default="runs/ppo", metadata={"help": "Folder for the policy, critic and logs."})
    learning_rate: float | None = field(
        default=None,
        metadata={"help": "Learning rate of the policy; default 5e-4 for adapters, 1e-5 for full fine-tuning."},
    )
    lr_scheduler_type: str = field(default="constant", metadata={"help": "Schedule of the policy's learning rate."})
    per_device_train_batch_size: int = field(default=16, metadata={"help": "Completions a minibatch and process."})
    steps_per_generation: int | None = field(default=4, metadata={"help": "Minibatches a rollout."})
    num_generations: int = field(default=4, metadata={"help": "Completions a prompt; 1 is allowed."})
    num_generations_eval: int | None = field(default=1, metadata={"help": "Completions a prompt in evaluation."})
    max_completion_length: int | None = field(default=32, metadata={"help": "Longest completion, in tokens."})
    disable_dropout: bool = field(default=True, metadata={"help": "Turn dropout off in the policy."})
    gradient_checkpointing: bool = field(default=False, metadata={"help": "Trade time for memory."})
    logging_steps: float = field(default=1, metadata={"help": "Log every N optimizer steps."})
    save_steps: float = field(default=80, metadata={"help": "Checkpoint every so many steps, at whole rollouts."})
    report_to: str | list[str] | None = field(default="none", metadata={"help": "Where TRL reports to, e.g. trackio."})
    num_ppo_epochs: int = field(default=2, metadata={"help": "Passes over each rollout."})
    total_episodes: int | None = field(
        default=None, metadata={"help": "Completions to train on over the whole run; sets max_steps."}
    )
    kl_coef: float = field(default=0.05, metadata={"help": "Weight of the per-token KL penalty in the reward."})
    kl_target: float | None = field(
        default=None,
        metadata={"help": "KL to the reference, in nats a completion, that kl_coef adapts to."},
    )
    kl_horizon: int = field(default=10_000, metadata={"help": "Completions over which kl_coef adapts to kl_target."})
    kl_estimator: str = field(default="k1", metadata={"help": "Estimator of that KL: k1, k2 or k3."})
    target_kl: float | None = field(
        default=None,
        metadata={
            "help": "Skip a rollout's remaining updates once the policy's KL to the sampling one, in nats a "
            "token, is above 1.5 times this."
        },
    )
    cliprange: float = field(default=0.2, metadata={"help": "Clip range of the probability ratio."})
    cliprange_value: float | None = field(default=0.2, metadata={"help": "Clip range of the value; none for none."})
    gamma: float = field(default=1.0, metadata={"help": "Discount factor."})
    lam: float = field(default=0.95, metadata={"help": "Lambda of generalised advantage estimation."})
    whiten_rewards: bool = field(default=False, metadata={"help": "Scale token rewards of a rollout to variance 1."})
    whiten_advantages: bool = field(default=True, metadata={"help": "Scale advantages to mean 0, variance 1."})
    normalize_rewards: bool = field(
        default=False, metadata={"help": "Scale scores by mean and deviation of all so far."}
    )
    reward_clip: float | None = field(
        default=None, metadata={"help": "Clip scores to [-this, this], after normalisation; none for none."}
    )
    missing_eos_penalty: float | None = field(
        default=None,
        metadata={"help": "Taken off the clipped score of a completion that hit the length limit."},
    )
    mask_truncated_completions: bool = field(
        default=False, metadata={"help": "Leave completions that hit the length limit out of the update."}
    )
    token_reward_weights: list[float] | None = field(
        default=None, metadata={"help": "Weights of the token-level rewards; default 1.0 each."}
    )
    ptx_coef: float = field(
        default=0.0, metadata={"help": "Weight of the language-modelling loss on rows of text (PPO-ptx); 0 for none."}
    )
    ptx_batch_size: int = field(default=4, metadata={"help": "Rows of text a minibatch and process."})
    ptx_max_length: int = field(default=1024, metadata={"help": "Longer rows of text lose their end, in tokens."})
    critic: str = field(
        default="frozen",
        metadata={
            "help": "frozen: reads a frozen layer of the reference; head: the policy's final hidden state; adapter: a "
            "second adapter on the policy's base; model: a model of its own.",
            "choices": list(KINDS),
        },
    )
    critic_model_name_or_path: str | None = field(
        default=None, metadata={"help": "Decoder or encoder with the policy's vocabulary, for critic model."}
    )
    critic_init: str | None = field(
        default=None,
        metadata={
            "help": "Reward model to start from: a folder or hub id for critic model, an adapter folder (SEQ_CLS) on "
            "the policy's base for critic adapter."
        },
    )
    critic_layer: int | None = field(
        default=None, metadata={"help": "Decoder layers below critic frozen; default two thirds of them."}
    )
    critic_width: int = field(default=0, metadata={"help": "Units of the critic's hidden layer; 0 for linear."})
    critic_learning_rate: float | None = field(
        default=None, metadata={"help": "Learning rate of the critic; default 1e-4, for critic model 1e-5."}
    )
    critic_epochs: int = field(default=2, metadata={"help": "Passes of the critic over the latest rollouts."})
    critic_minibatches: int = field(default=4, metadata={"help": "Steps of the critic a pass and rollout."})
    critic_dropout: float = field(default=0.1, metadata={"help": "Dropout in the critic while it is fitted."})
    critic_weight_decay: float = field(default=0.01, metadata={"help": "Weight decay of the critic."})
    critic_replay_rollouts: int | None = field(
        default=None,
        metadata={"help": "Latest rollouts each fit of the critic learns from; default 16 for critic frozen, else 1."},
    )
    critic_warmup_rollouts: int = field(
        default=4, metadata={"help": "Rollouts of the starting policy that only the critic learns from."}
    )
    cache_trunk: bool = field(
        default=True,
        metadata={"help": "Compute frozen lower layers once a rollout when only adapters above them train."},
    )

    def __post_init__(self) -> None:
        by_name = {option.name: option for option in fields(GRPOConfig)}
        for name, instead in GRPO_ONLY.items():
            if getattr(self, name) != by_name[name].default:
                hint = f"; PPO has {instead} for it" if instead else ""
                raise ConfigError(f"{name} is an option of GRPO that PPO does not have: leave it out{hint}")
        settle_critic(self)
        self._check_ranges()
        self.num_iterations = self.num_ppo_epochs
        if self.use_vllm:  # old log-probabilities are scored by the policy itself, so there is nothing to correct
            self.vllm_importance_sampling_correction = False
        requested, self.num_generations = self.num_generations, _AnyCount(self.num_generations)
        try:
            super().__post_init__()
        except ValueError as error:
            raise ConfigError(f"PPO settings don't fit together: {error}") from error
        self.num_generations = int(requested)
        self._check_combinations()
        assert self.steps_per_generation is not None  # GRPOConfig has filled it in
        updates = self.steps_per_generation * self.num_ppo_epochs
        if updates % self.gradient_accumulation_steps:
            raise ConfigError(
                f"steps_per_generation * num_ppo_epochs = {updates} is no multiple of gradient_accumulation_steps = "
                f"{self.gradient_accumulation_steps}: an update would mix two rollouts; change one of them"
            )
        self.updates_per_rollout = updates // self.gradient_accumulation_steps
        if self.total_episodes is not None:
            self.max_steps = ceil(self.total_episodes / self.generation_batch_size) * self.updates_per_rollout
        if self.save_strategy == "steps":
            # A checkpoint between the epochs of a rollout could not go on exactly where it stopped.
            self.save_steps = ceil(self.save_steps / self.updates_per_rollout) * self.updates_per_rollout

    def settle_learning_rate(self, *, adapters: bool) -> None:
        """Fill in the default of `learning_rate`, which depends on whether adapters train or the whole model.

        Adam moves each weight by about the rate, and a whole model has many times the weights of an adapter.
        """
        if self.learning_rate is None:
            self.learning_rate = 5e-4 if adapters else 1e-5

    def _check_ranges(self) -> None:
        at_least = {
            "max_completion_length": 1,
            "critic_dropout": 0.0,
            "critic_weight_decay": 0.0,
            "critic_learning_rate": 0.0,
            "num_generations": 1,
            "num_ppo_epochs": 1,
            "critic_epochs": 1,
            "critic_minibatches": 1,
            "critic_replay_rollouts": 1,
            "critic_width": 0,
            "critic_warmup_rollouts": 0,
            "kl_coef": 0.0,
            "kl_horizon": 1,
            "ptx_coef": 0.0,
            "ptx_batch_size": 1,
            "ptx_max_length": 2,
        }
        for name, lowest in at_least.items():
            if getattr(self, name) is None or getattr(self, name) < lowest:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be at least {lowest}")
        for name in ("steps_per_generation", "total_episodes"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if self.save_strategy == "steps" and self.save_steps < 1:
            raise ConfigError(f"save_steps is {self.save_steps}; give a number of steps, not a share of all")
        for name in ("gamma", "lam", "critic_dropout"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be between 0 and 1")
        for name in ("cliprange", "cliprange_value", "temperature", "kl_target", "target_kl", "reward_clip"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ConfigError(f"{name} is {value}; it must be above 0")
        if self.kl_estimator not in ("k1", "k2", "k3"):
            raise ConfigError(f"kl_estimator is {self.kl_estimator!r}; choose k1, k2 or k3")

    def _check_combinations(self) -> None:
        if self.kl_target is not None and self.kl_coef == 0:
            raise ConfigError("kl_target scales kl_coef, which is 0: give it a start above 0")
        if self.kl_target is not None and self.kl_horizon < self.generation_batch_size:
            raise ConfigError(
                f"kl_horizon is {self.kl_horizon}; it must be at least {self.generation_batch_size}, the completions "
                "of a rollout"
            )
        if self.mask_truncated_completions and self.missing_eos_penalty is not None:
            raise ConfigError("mask_truncated_completions leaves out what missing_eos_penalty would punish: give one")
        if self.target_kl is not None and (self.fp16 or self.deepspeed):
            raise ConfigError(
                "target_kl takes gradients back, which fp16 and DeepSpeed do not allow: use bf16, no DeepSpeed"
            )
