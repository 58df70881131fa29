"""All that rlgen touches of the private surface of TRL, transformers, PEFT, torch and argparse, in one list.

A new release that renames, moves or changes one of these fails here, by name. The list is complete by construction:
what the code touches is derived from its syntax trees and must equal it.
"""

import argparse
import ast
import inspect
import os
import sys
from functools import cache
from pathlib import Path

import pytest
import torch
import trl.trainer.utils
from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer
from transformers import PreTrainedConfig, PreTrainedModel, Trainer
from trl import GRPOTrainer

from rlgen.ppo import PPOTrainer

ROOT = Path(__file__).parent.parent

# Methods, with the names of all their parameters. PPOTrainer overrides them (True) or only calls them (False).
METHODS = {
    (GRPOTrainer, "_calculate_rewards"): (True, "inputs prompts completions completion_ids_list"),
    (GRPOTrainer, "_compute_loss"): (True, "model inputs"),
    (GRPOTrainer, "_generate_and_score_completions"): (True, "inputs"),
    (GRPOTrainer, "_generate_single_turn"): (
        True,
        "prompt_ids images multimodal_fields num_generations has_tool_images",
    ),
    (GRPOTrainer, "_get_per_token_logps_and_entropies"): (
        True,
        "model input_ids attention_mask logits_to_keep batch_size compute_entropy compute_aux_loss pixel_values "
        "image_grid_thw num_images pixel_attention_mask spatial_shapes num_tiles image_sizes token_type_ids "
        "mm_token_type_ids image_position_ids",
    ),
    (GRPOTrainer, "_get_train_sampler"): (True, "dataset"),
    (GRPOTrainer, "_log_completion_extra"): (False, "column values"),
    (GRPOTrainer, "_log_metric"): (False, "name value"),
    (GRPOTrainer, "_prepare_inputs"): (True, "generation_batch"),
    (GRPOTrainer, "prediction_step"): (True, "model inputs prediction_loss_only ignore_keys"),
    (GRPOTrainer, "training_step"): (True, "model inputs num_items_in_batch"),
    (Trainer, "_get_eval_sampler"): (False, "eval_dataset"),
    (Trainer, "_get_grad_norm"): (True, "model grad_norm"),
    (Trainer, "_load_optimizer_and_scheduler"): (True, "checkpoint"),
    (Trainer, "evaluation_loop"): (
        True,
        "dataloader description prediction_loss_only ignore_keys metric_key_prefix",
    ),
    (Trainer, "save_model"): (True, "output_dir _internal_call"),
    (trl.trainer.utils, "_use_triton"): (False, "device"),
    (BaseTuner, "_replace_module"): (False, "parent child_name new_module child"),
    (BaseTunerLayer, "_cast_input_dtype"): (False, "x dtype"),
    (BaseTunerLayer, "_move_adapter_to_device_of_base_layer"): (False, "adapter_name device"),
    (sys, "_current_frames"): (False, ""),
    (os, "_exit"): (False, "status"),
    (torch.cpu, "_is_amx_tile_supported"): (False, ""),
    (torch.cpu, "_is_avx512_bf16_supported"): (False, ""),
    (argparse.ArgumentParser, "_check_value"): (False, "action value"),
    (argparse.ArgumentParser, "_get_value"): (False, "action arg_string"),
    (argparse.HelpFormatter, "_format_args"): (False, "action default_metavar"),
}

# Class attributes that are read or set.
CLASS_ATTRIBUTES = {
    (GRPOTrainer, "_name"),
    (GRPOTrainer, "_tag_names"),
    (PreTrainedModel, "_supports_attention_backend"),
    (PreTrainedConfig, "_attn_implementation"),
}

# Attributes that an instance gets as it is made; the public ones stand in no documentation of TRL's.
INSTANCE_ATTRIBUTES = {
    GRPOTrainer: "_metrics _step _tokenizer chat_template_kwargs environments eos_token_ids "
    "mask_truncated_completions max_completion_length num_generations num_generations_eval num_iterations "
    "reward_funcs reward_weights temperature use_transformers_continuous_batching use_vllm",
    Trainer: "accelerator current_gradient_accumulation_steps is_deepspeed_enabled is_fsdp_enabled",
    argparse.ArgumentParser: "_actions _group_actions _optionals",
}

# Keys of the rollout that TRL hands over.
KEYS = "completion_ids completion_mask prompt_ids prompt_mask"

# Private names that are set on foreign objects, but by rlgen itself.
OWN = {"_answers_with_tuple"}


def parameters(function) -> list[str]:
    names = list(inspect.signature(function).parameters)
    return names[1:] if names[:1] == ["self"] else names


@cache
def assigned(owner: type) -> set[str]:
    """Attributes that a class or one of its bases assigns to an instance."""
    found = set()
    for each in owner.__mro__[:-1]:
        try:
            tree = ast.parse(inspect.getsource(inspect.getmodule(each)))
        except (OSError, TypeError):
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
                found.add(node.attr)
    return found


@cache
def definitions(file: Path) -> set[str]:
    """Names that a file defines: functions, classes, variables and attributes of `self`."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            found.add(node.name)
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            for part in (part for target in targets for part in ast.walk(target)):
                if isinstance(part, ast.Name):
                    found.add(part.id)
                elif isinstance(part, ast.Attribute) and getattr(part.value, "id", None) == "self":
                    found.add(part.attr)
    return found


def foreign(file: Path) -> set[str]:
    """Private names that a file touches and that neither it nor what it imports of rlgen defines."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    ours, touched = set(definitions(file)), set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            touched.add(node.attr)
        elif isinstance(node, ast.ImportFrom):
            module = ROOT / (str(node.module).replace(".", "/") + ".py")
            if module.is_file():
                ours |= definitions(module)
            elif not str(node.module).startswith(("rlgen", "reward_models", "recipes")):
                touched |= {alias.name for alias in node.names}
    # What a subclass overrides is foreign although it is defined here; `super()` gives it away.
    above = {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Call) and _is_super(node.value)
    }
    return {name for name in (touched - ours) | (above & touched) if name[0] == "_" and name[:2] != "__"}


def _is_super(call: ast.Call) -> bool:
    return isinstance(call.func, ast.Name) and call.func.id == "super"


def overridden() -> set[str]:
    """Attributes of PPOTrainer that a class above it has too."""
    return {name for name in vars(PPOTrainer) if not name.startswith("__") and hasattr(GRPOTrainer, name)}


def listed() -> set[str]:
    names = {name for _, name in [*METHODS, *CLASS_ATTRIBUTES]}
    return names.union(*(text.split() for text in INSTANCE_ATTRIBUTES.values()))


@pytest.mark.parametrize(("owner", "name"), METHODS, ids=lambda value: getattr(value, "__name__", value))
def test_a_method_is_there_with_the_same_parameters(owner, name):
    function = getattr(owner, name, None)
    assert function is not None, f"{owner.__name__}.{name} has gone"
    assert parameters(function) == METHODS[owner, name][1].split(), f"{owner.__name__}.{name} has other parameters"


@pytest.mark.parametrize(
    ("owner", "name"), sorted(CLASS_ATTRIBUTES, key=str), ids=lambda value: getattr(value, "__name__", value)
)
def test_a_class_attribute_is_there(owner, name):
    assert hasattr(owner, name) or name in assigned(owner), f"{owner.__name__}.{name} has gone"


@pytest.mark.parametrize("owner", INSTANCE_ATTRIBUTES, ids=lambda owner: owner.__name__)
def test_instance_attributes_are_still_assigned(owner):
    gone = set(INSTANCE_ATTRIBUTES[owner].split()) - assigned(owner)
    assert not gone, f"{owner.__name__} assigns no more: {sorted(gone)}"


def test_trl_hands_over_a_rollout_with_the_same_keys():
    source = inspect.getsource(GRPOTrainer._generate_and_score_completions)
    missing = [key for key in KEYS.split() if f'"{key}"' not in source]
    assert not missing, f"_generate_and_score_completions has no {missing}"


def test_the_list_names_all_that_the_code_touches_and_nothing_else():
    files = [*(ROOT / "rlgen").rglob("*.py"), *(ROOT / "recipes").rglob("*.py")]
    touched = {name: file.relative_to(ROOT) for file in files for name in foreign(file)}
    touched |= dict.fromkeys(overridden(), "PPOTrainer")
    missing = {name: str(where) for name, where in touched.items() if name not in listed() | OWN}
    assert not missing, f"private names that METHODS or the attributes here do not list: {missing}"
    private = {name for name in listed() if name.startswith("_")}
    assert not private - touched.keys(), f"listed, but nothing touches it: {sorted(private - touched.keys())}"


def test_ppo_overrides_what_it_means_to_and_nothing_by_accident():
    meant = {name for (_, name), (overrides, _) in METHODS.items() if overrides} | {"_name", "_tag_names"}
    assert overridden() == meant, "a name of ours has become one of TRL's, or the other way round"
    source = ast.parse(inspect.getsource(inspect.getmodule(PPOTrainer)))
    ours = {
        node.attr
        for node in ast.walk(source)
        if isinstance(node, ast.Attribute)
        and isinstance(node.ctx, ast.Store)
        and getattr(node.value, "id", "") == "self"
    }
    assert ours & assigned(GRPOTrainer) <= {"mask_truncated_completions", "_step"}, (
        "TRL has attributes named like ours"
    )


def test_what_is_done_around_the_overrides_is_done_in_the_same_order():
    assert "self._step += 1" in inspect.getsource(GRPOTrainer.training_step)
    rewards = inspect.getsource(GRPOTrainer._calculate_rewards)
    for name in ("trainer_state", "log_extra", "log_metric"):
        assert f'reward_kwargs["{name}"]' in rewards
    assert "if self.mask_truncated_completions:" in inspect.getsource(GRPOTrainer._generate_and_score_completions)
    loop = inspect.getsource(Trainer._run_epoch)  # gradients that were taken back must still be gone at the step
    assert loop.index("self.training_step(") < loop.index("self.optimizer.step()") < loop.index("model.zero_grad()")
    buffer = inspect.getsource(GRPOTrainer._prepare_inputs)  # one rollout for all its minibatches of all its epochs
    assert "self.args.steps_per_generation * self.num_iterations" in buffer


def test_a_new_private_name_would_be_found(tmp_path):
    file = tmp_path / "module.py"
    file.write_text(
        "from trl.trainer.utils import _imported\n"
        "class Ours:\n"
        "    def _own(self):\n"
        "        self._kept = super()._own()\n"
        "        return self._kept + self._inherited + model.config._read.public + self.__class__.__name__\n"
    )
    assert foreign(file) == {"_imported", "_own", "_inherited", "_read"}
