"""PPO on TRL's GRPOTrainer, which brings data, generation backends, rewards, PEFT, logging and checkpoints.

Everything that rlgen touches of TRL's private surface is in this file: `_generate_single_turn`, `_calculate_rewards`,
`_get_per_token_logps_and_entropies`, `_generate_and_score_completions`, `_prepare_inputs`, `_compute_loss`,
`_get_train_sampler`, `_log_completion_extra`, `_log_metric`, `_metrics`, `_step`, and transformers'
`_load_optimizer_and_scheduler` and `_get_grad_norm`.

One step: `_generate_and_score_completions` samples a rollout, `rlgen.ppo.rollout` scores it, `_finish_rollout`
estimates advantages and fits the critic, and `_compute_loss` is called for every minibatch of every epoch.

Letters for shapes: B completions, N prompts, G completions a prompt, T completion tokens, S tokens of a packed row.
"""

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import PeftConfig, PeftModel
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from trl import GRPOTrainer

from rlgen.decoding import HiddenStates, sample
from rlgen.dropout import set_dropout
from rlgen.errors import ConfigError, TrainingError
from rlgen.families import is_encoder_decoder
from rlgen.hidden import frozen_depth, replay_hidden
from rlgen.models import load_policy
from rlgen.ppo.advantages import explained_variance, gae, kl_estimate, token_rewards, whiten
from rlgen.ppo.calibration import calibration
from rlgen.ppo.checks import check_reference, check_settings, sharing_is_sound
from rlgen.ppo.config import PPOConfig
from rlgen.ppo.critic import build_critic
from rlgen.ppo.diagnostics import DiagnosticsCallback
from rlgen.ppo.early_stop import KLStop
from rlgen.ppo.finite import require_finite
from rlgen.ppo.kl_control import KLControl
from rlgen.ppo.losses import policy_loss
from rlgen.ppo.metrics import objective_metrics, pooled, pooled_mean, update_metrics
from rlgen.ppo.ptx import PTX
from rlgen.ppo.rollout import Rollout, Scored, group_completions, pack_hidden, score_rollout
from rlgen.ppo.scores import ScoreShaping, TokenScores, no_score, pad_token_rewards
from rlgen.ppo.shared_reward import share_reward_models
from rlgen.ppo.state import load_state, save_state, skip_past_epochs
from rlgen.progress import report_progress
from rlgen.rewards.state import load_reward_state, save_reward_state
from rlgen.rewards.tokens import TokenReward
from rlgen.scoring import token_logprobs, unwrapped
from rlgen.sharing import can_share_prompts
from rlgen.tuning import leave_casts_to_autocast


class PPOTrainer(GRPOTrainer):
    """Proximal policy optimisation with a learned critic.

    Args:
        model: policy to start from: a plain decoder or encoder-decoder, or its name.
        reward_funcs: reward functions with TRL's signature, weighted by `args.reward_weights`.
        args: settings.
        train_dataset: rows with a `prompt` column; further columns reach the rewards.
        eval_dataset: rows like these, for evaluation during training.
        processing_class: tokenizer.
        peft_config: adapters to train; the reference is then the same model with them off. Without it the whole
            model trains and the reference is a copy of it.
        token_reward_funcs: rewards of single tokens, see `rlgen.rewards.tokens`; weighted by
            `args.token_reward_weights` and added to the per-token rewards. With them `reward_funcs` may be empty.
        ptx_dataset: `prompt` and `completion` rows for `args.ptx_coef`.
        **kwargs: as in TRL's GRPOTrainer.

    Raises:
        ConfigError: settings that this model cannot have.
        TrainingError: at the first rollout, if policy and reference are not the same model; at any time, if a number
            that weights would learn from is NaN or infinite.
    """

    _tag_names = ["trl", "ppo", "rlgen"]
    _name = "PPO"

    def __init__(
        self,
        model: str | PreTrainedModel,
        reward_funcs: Any,
        args: PPOConfig,
        train_dataset: Dataset,
        eval_dataset: Dataset | None = None,
        processing_class: PreTrainedTokenizerBase | None = None,
        peft_config: PeftConfig | None = None,
        *,
        token_reward_funcs: Sequence[TokenReward] = (),
        ptx_dataset: Dataset | None = None,
        **kwargs: Any,
    ) -> None:
        check_settings(args, len(train_dataset), len(ptx_dataset or ()), kwargs)
        if isinstance(model, str):
            model = load_policy(model, dtype="auto" if peft_config else "float32", merge=True)
        args.settle_learning_rate(adapters=peft_config is not None or isinstance(model, PeftModel))
        self.reference: PreTrainedModel | None = None
        if peft_config is None and not isinstance(model, PeftModel):
            self.reference = copy.deepcopy(model).eval().requires_grad_(False)
        super().__init__(
            model=model,
            reward_funcs=reward_funcs or ([no_score] if token_reward_funcs else []),
            args=args,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            processing_class=processing_class,
            peft_config=peft_config,
            **kwargs,
        )
        self.add_callback(DiagnosticsCallback())
        if self.reference is not None:
            self.reference.to(self.accelerator.device)
        policy = unwrapped(self.model)
        if args.disable_dropout:
            set_dropout(policy, 0.0)  # TRL knows modules only, but BART and T5 have rates that are plain numbers
        if args.bf16 or args.fp16:
            leave_casts_to_autocast(policy)
        sharded = self.is_deepspeed_enabled or self.is_fsdp_enabled
        if sharded and is_encoder_decoder(policy):
            raise ConfigError("an encoder-decoder is sampled from on one device: leave out DeepSpeed and FSDP")
        if isinstance(policy, PeftModel) and not sharded:
            share_reward_models(self.reward_funcs, policy, self.accelerator.autocast)
        # Dropout in the lower layers is drawn anew at each update; what was computed once cannot have it.
        cached = args.cache_trunk and args.disable_dropout and self.reference is None
        self.trunk_depth = frozen_depth(policy) if cached else 0
        if args.critic == "adapter" and sharded:
            raise ConfigError("critic adapter needs the whole model in each process: take another critic")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(args.seed)  # TRL has seeded each process differently; critics must start alike
            self.critic = build_critic(
                args,
                policy,
                self._tokenizer,
                device=self.accelerator.device,
                trunk_depth=self.trunk_depth,
                autocast=self.accelerator.autocast,
            )
        # Siblings share one packed row where the model takes a mask that hides them; None until that is tried.
        self._shares_prompts = None if can_share_prompts(policy) else False
        self._rewards_per_func: Tensor | None = None
        self._sampled_hidden: dict[int, HiddenStates] = {}
        self._token_rewards: list[list[float] | None] | None = None
        self._reference_checked = False
        self.shaping = ScoreShaping(args)
        self.token_scores = TokenScores(token_reward_funcs, args.token_reward_weights)
        self.kl_control = KLControl(args.kl_coef, args.kl_target, args.kl_horizon)
        self.kl_stop = KLStop(args.target_kl, self._sum_over_processes)
        self.mask_truncated_completions = False  # TRL would cut their tokens away; `shaping` leaves them out
        self.ptx = None
        if ptx_dataset is not None:
            self.ptx = PTX(
                ptx_dataset, self._tokenizer, args, self.accelerator, self.eos_token_ids, self.chat_template_kwargs
            )

    # --- rollout ---

    def _generate_single_turn(self, prompt_ids: list[list[int]], images: Any, *args: Any, **kwargs: Any) -> Any:
        """Sample completions in-process; TRL's other backends keep their own way."""
        sharded = self.is_deepspeed_enabled or self.is_fsdp_enabled
        if self.use_vllm or self.use_transformers_continuous_batching or sharded or images is not None:
            return super()._generate_single_turn(prompt_ids, images, *args, **kwargs)
        group = self._group_size(prompt_ids)
        # Activations of frozen layers are the reference's too: what sampling has visited need not be computed again.
        depths = {self.trunk_depth, self.critic.layer or self.trunk_depth}
        with self.accelerator.autocast():
            sampled = sample(
                unwrapped(self.model),
                prompt_ids[::group],
                num_generations=group,
                max_new_tokens=self.max_completion_length,
                eos_token_ids=self.eos_token_ids,
                pad_token_id=self._tokenizer.pad_token_id,
                temperature=self.temperature,
                share_prompts=self._shares_prompts is not False,
                hidden_depths=sorted(depths) if 0 < max(depths) == self.trunk_depth else [],
            )
        self._sampled_hidden = sampled.hidden
        return sampled.tokens, None

    def _group_size(self, prompt_ids: list[list[int]]) -> int:
        """Completions that stand side by side with the same prompt on this process; 1 if groups are torn apart."""
        group = self.num_generations if self.model.training else self.num_generations_eval
        whole = len(prompt_ids) % group == 0
        if whole and all(ids == prompt_ids[i - i % group] for i, ids in enumerate(prompt_ids)):
            return group
        return 1

    def _get_per_token_logps_and_entropies(self, *_: Any, **__: Any) -> tuple[None, None, None]:
        """TRL asks here for old log-probabilities; `score_rollout` computes them with the reference's."""
        return None, None, None

    def _calculate_rewards(self, inputs: Any, prompts: Any, completions: Any, completion_ids: Any) -> Tensor:
        """TRL folds the rewards into its own advantages at once; PPO needs them as they are."""
        self._rewards_per_func = super()._calculate_rewards(inputs, prompts, completions, completion_ids)
        self._record("objective/unscored_rows", float(self._rewards_per_func.isnan().all(1).sum()))
        if self.token_scores.functions:
            extras = {"trainer_state": self.state, "log_metric": self._log_metric}
            extras["log_extra"] = self._log_completion_extra
            self._token_rewards, sums = self.token_scores(inputs, prompts, completions, completion_ids, extras)
            for name, each in sums.items():
                self._record(f"token_rewards/{name}/mean", pooled_mean(each, self.accelerator)[0])
        return self._rewards_per_func

    def _prepare_inputs(self, generation_batch: Any) -> Any:
        if self.model.training and self.state.global_step == 0 and not bool(self.critic.fitted):
            self._warm_up_critic()
        return super()._prepare_inputs(generation_batch)

    def _warm_up_critic(self) -> None:
        """Let the critic learn from rollouts of the starting policy before it drives any update."""
        self.args.seed += 1  # another order of prompts than that of the first updates
        batches = iter(self.get_train_dataloader())
        self.args.seed -= 1
        repeats = self.args.steps_per_generation * self.num_iterations
        for done in range(self.args.critic_warmup_rollouts):
            if self.accelerator.is_main_process:
                report_progress("critic warm-up", done, self.args.critic_warmup_rollouts)
            batch = next(batches, None)
            if batch is None:
                break
            self._generate_and_score_completions(batch)
            for _ in range(repeats - 1):  # the sampler hands each rollout's rows out once for every use of it
                next(batches, None)
            self._metrics["train"].clear()
        if self.accelerator.is_main_process:
            report_progress("ppo", 0, self.state.max_steps)  # the clock of the updates starts now

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Tensor]:
        """Sample, score, estimate advantages and fit the critic: one rollout, as rows to split into minibatches."""
        self._sampled_hidden = {}
        output = super()._generate_and_score_completions(inputs)
        training = self.model.training
        rows = output["prompt_mask"].shape[0]
        prompts = _ragged(output["prompt_ids"], output["prompt_mask"])
        completions = _ragged(output["completion_ids"], output["completion_mask"])
        if "pixel_values" in output:
            raise ConfigError("PPO takes text prompts only, but these rows have images")
        group = self._group_size(prompts)
        if self._shares_prompts is None and group > 1:
            siblings = prompts[:group], completions[:group], self._tokenizer.pad_token_id
            self._shares_prompts = sharing_is_sound(
                unwrapped(self.model), *siblings, temperature=self.temperature, accelerator=self.accelerator
            )
        group = group if self._shares_prompts else 1
        if training and self.args.per_device_train_batch_size % group:
            group = 1  # a minibatch would tear the group apart
        packed = group_completions(prompts, completions, group, self._tokenizer.pad_token_id)
        packed = packed.to(self.accelerator.device)
        scores, scorable = self._local_scores(rows, completions)
        packed.completion_mask &= scorable.view(-1, group, 1)

        scored = self._score(packed, group)
        self._require_finite("log-probabilities", scored.logprobs)
        self._require_finite("log-probabilities of the reference", scored.ref_logprobs)
        if not self._reference_checked and packed.completion_mask.any():
            self._reference_checked = True
            if self.state.global_step == 0:  # in a resumed run the policy has moved
                check_reference(scored, unwrapped(self.model), self.reference, self.accelerator)
        kl = kl_estimate(scored.logprobs, scored.ref_logprobs, self.args.kl_estimator).flatten(0, 1)
        bonus = None if self._token_rewards is None else pad_token_rewards(self._token_rewards, kl)
        keep = packed.completion_mask.flatten(0, 1)
        coef = self.kl_control.kl_coef
        self._record_all(objective_metrics(scores, scorable, kl, bonus, keep, coef, self._pooled_mean))
        self._record_all(self.shaping.metrics())
        self._metrics[self._mode].pop("frac_reward_zero_std", None)  # GRPO's; meaningless for one completion a prompt
        if not training:
            return {}
        self.kl_control.observe(*pooled_mean(torch.where(keep, kl, 0.0).sum(1)[scorable], self.accelerator))
        return self._finish_rollout(scored, kl, bonus, scores).as_dict()

    def _local_scores(self, rows: int, completions: list[list[int]]) -> tuple[Tensor, Tensor]:
        """Weighted scores (B,) of this process's completions, and whether any reward applied to them (B,)."""
        assert self._rewards_per_func is not None  # TRL has just gathered them
        scores, scorable = self.shaping(self._rewards_per_func, self.reward_weights, learn=self.model.training)
        local = slice(self.accelerator.process_index * rows, (self.accelerator.process_index + 1) * rows)
        ended = [bool(ids) and ids[-1] in self.eos_token_ids for ids in completions]
        return self.shaping.local(scores[local], scorable[local], ended, self._token_rewards)

    def _score(self, packed: Any, group: int) -> Scored:
        policy = unwrapped(self.model)
        policy_was_training = policy.training
        policy.eval()
        size = self.args.per_device_train_batch_size if policy_was_training else self.args.per_device_eval_batch_size
        # Sampling has packed each prompt with its whole group; rows that were packed otherwise are read anew.
        same_rows = all(len(states.completion) == len(packed.input_ids) for states in self._sampled_hidden.values())
        sampled = self._sampled_hidden if same_rows else {}
        known = {depth: pack_hidden(states, packed) for depth, states in sampled.items()}
        with torch.no_grad(), self.accelerator.autocast():
            scored = score_rollout(
                policy,
                self.reference,
                packed,
                critic=self.critic,
                trunk_depth=self.trunk_depth,
                temperature=self.temperature,
                rows_at_a_time=max(size // group, 1),
                known=known or None,
            )
        self._sampled_hidden = {}
        policy.train(policy_was_training)
        return scored

    def _finish_rollout(self, scored: Scored, kl: Tensor, bonus: Tensor | None, scores: Tensor) -> Rollout:
        """Values and advantages of the rollout; then the critic learns from it."""
        args, packed = self.args, scored.packed
        shape, keep = packed.completion_mask.shape, packed.completion_mask.flatten(0, 1)
        rewards = token_rewards(scores, kl, keep, self.kl_control.kl_coef, bonus)
        self._require_finite("rewards", rewards)
        if args.whiten_rewards:
            rewards = whiten(rewards, keep, shift_mean=False, total=self._sum_over_processes)
        if not bool(self.critic.fitted):
            self.critic.start_at(self._pooled_mean(rewards.sum(1), keep.any(1)))
        states = self.critic.states(scored)
        known = self.critic.values(states)
        self._require_finite("values", known)
        values = torch.zeros(keep.shape, device=keep.device).masked_scatter(keep, known)
        advantages, returns = gae(rewards, values, keep, args.gamma, args.lam)
        if args.whiten_advantages:
            advantages = whiten(advantages, keep, total=self._sum_over_processes)
        self._require_finite("advantages", advantages)
        self._record("policy/entropy_estimate", self._pooled_mean(-scored.logprobs, packed.completion_mask))
        predictions, targets = pooled(known, self.accelerator), pooled(returns[keep], self.accelerator)
        self._record("critic/explained_variance", explained_variance(predictions, targets))
        for name, number in zip(("slope", "intercept"), calibration(predictions, targets), strict=True):
            self._record(f"critic/calibration_{name}", number)
        self._record("critic/value", self._pooled_mean(values, keep))
        self._record("critic/return", self._pooled_mean(returns, keep))
        loss, clipped = self.critic.fit(
            states,
            returns[keep],
            known,
            epochs=args.critic_epochs,
            minibatches=args.critic_minibatches,
            cliprange_value=args.cliprange_value,
            mean_over_processes=self._mean_over_processes,
        )
        self._require_finite("critic's loss", torch.tensor(loss))
        self._record("loss/value", loss)
        self._record("critic/clip_fraction", clipped)
        tokens = self._sum_over_processes(keep.sum().float())
        per_minibatch = tokens / (args.steps_per_generation * self.accelerator.num_processes)
        return Rollout(packed, scored.logprobs, advantages.view(shape), scored.trunk, per_minibatch.clamp(min=1))

    # --- update ---

    def training_step(self, model: nn.Module, inputs: Any, num_items_in_batch: Any = None) -> Tensor:
        """One minibatch. Once `target_kl` has ended the rollout's updates, the rest of them count but change nothing.

        A parameter without gradient stays as it is in every optimizer of torch: no weight decay, no momentum.
        """
        uses = self.args.steps_per_generation * self.num_iterations
        if self._step % uses == 0:
            self.kl_stop.begin_rollout()
        if self.kl_stop.stopped:
            model.train()  # as if the step had been taken: an evaluation may lie before it
            loss = torch.zeros((), device=self.accelerator.device)
            self._step += 1
        else:
            loss = super().training_step(model, inputs, num_items_in_batch)
        if self.args.target_kl is not None and self._step % self.args.gradient_accumulation_steps == 0:
            if self.kl_stop.ends_update(self.accelerator.device):
                model.zero_grad()
            self._record("policy/stopped_updates", float(self.kl_stop.stopped))
        if self._step % uses == 0:
            self.kl_control.adapt(self.args.generation_batch_size)
        return loss

    def _compute_loss(self, model: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
        """Clipped policy loss of one minibatch; a token weighs the same wherever the split puts it."""
        rollout = Rollout.from_dict(inputs)
        keep = rollout.packed.completion_mask
        bonus = self.args.entropy_coef
        if rollout.trunk is not None and (self.args.gradient_checkpointing_kwargs or {}).get("use_reentrant"):
            rollout.trunk.requires_grad_()  # such a checkpoint passes no gradient on if none of its inputs has one
        with replay_hidden(model, self.trunk_depth, rollout.trunk):
            logprobs, entropy = token_logprobs(
                model, rollout.packed, temperature=self.temperature, with_entropy=bonus != 0
            )
        loss, ratio, clipped = policy_loss(logprobs, rollout.logprobs, rollout.advantages, self.args.cliprange)
        self._record("loss/policy", self._pooled_mean(loss.detach(), keep))
        if entropy is not None:
            loss = loss - bonus * entropy
        moved = kl_estimate(rollout.logprobs, logprobs.detach(), "k3")
        self.kl_stop.observe(moved, keep)
        self._record_all(update_metrics(ratio, clipped, moved, entropy, keep, self._pooled_mean))
        self._require_finite("loss", loss[keep])
        loss = (
            torch.where(keep, loss, 0.0).sum()
            / rollout.tokens_per_minibatch
            / self.current_gradient_accumulation_steps
        )
        if self.ptx is not None:
            part = self._step % self.args.gradient_accumulation_steps
            written, cross_entropy = self.ptx.loss(model, self.state.global_step, part)
            self._record("loss/ptx", cross_entropy)
            loss = loss + written
        return loss

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> Any:
        """Transformers asks here right before the optimizer's step."""
        norm = super()._get_grad_norm(model, grad_norm=grad_norm)
        if norm is not None and self.accelerator.scaler is None:  # float16's scaler skips such a step and goes on
            self._require_finite("gradient norm", torch.as_tensor(norm))
        return norm

    def prediction_step(self, model: nn.Module, inputs: Any, *_: Any, **__: Any) -> tuple[None, None, None]:
        """Evaluation samples and scores; there is no loss to speak of."""
        self._prepare_inputs(inputs)
        return None, None, None

    def evaluation_loop(self, *args: Any, **kwargs: Any) -> Any:
        """Evaluate with randomness of its own, always the same, so that training goes on as if nothing had been."""
        with torch.random.fork_rng():
            torch.manual_seed(self.args.seed + self.accelerator.process_index)
            return super().evaluation_loop(*args, **kwargs)

    # --- metrics, processes, checkpoints ---

    @property
    def _mode(self) -> str:
        return "train" if self.model.training else "eval"

    def _record_all(self, values: dict[str, float]) -> None:
        for name, value in values.items():
            self._record(name, value)

    def _record(self, name: str, value: float) -> None:
        value = float(self._mean_over_processes(torch.tensor(value, device=self.accelerator.device)))
        self._metrics[self._mode][name].append(value)

    def _require_finite(self, name: str, values: Tensor) -> None:
        require_finite(name, values, step=self.state.global_step, output_dir=self.args.output_dir)

    def _sum_over_processes(self, value: Tensor) -> Tensor:
        return self.accelerator.reduce(value, "sum")

    def _mean_over_processes(self, value: Tensor) -> Tensor:
        return self.accelerator.reduce(value, "mean")

    def _pooled_mean(self, values: Tensor, mask: Tensor) -> float:
        return pooled_mean(values[mask], self.accelerator)[0]

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save the policy as TRL does, and the critic beside it in `critic/`."""
        super().save_model(output_dir, _internal_call)
        if self.args.should_save:
            self.critic.save(Path(output_dir or self.args.output_dir) / "critic")
            save_state(output_dir or self.args.output_dir, self.kl_control, self.shaping)
            save_reward_state(output_dir or self.args.output_dir, self.reward_funcs)

    def _get_train_sampler(self, dataset: Dataset | None = None) -> Any:
        self._train_sampler = super()._get_train_sampler(dataset)
        return self._train_sampler

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is not None:
            folder = Path(checkpoint) / "critic"
            if not folder.is_dir():
                raise TrainingError(f"{checkpoint} holds no critic; it was not written by PPO, start from its model")
            # On several processes each has rollouts of its own, of which only the first process's were saved.
            self.critic.load(folder, with_replay=self.accelerator.num_processes == 1)
            load_state(checkpoint, self.kl_control, self.shaping)
            load_reward_state(checkpoint, self.reward_funcs)
            skip_past_epochs(self._train_sampler, int(self.state.epoch + 1e-6))


def _ragged(ids: Tensor, mask: Tensor) -> list[list[int]]:
    return [row[keep].tolist() for row, keep in zip(ids, mask.bool(), strict=True)]
