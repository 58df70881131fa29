"""What each family of models can do: one table, every cell of which is tried here; docs/families.md shows it.

python tests/test_families.py    # prints the table for the page
"""

import importlib
import json
import math
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset
from transformers import (
    BartConfig,
    BertConfig,
    DistilBertConfig,
    GPT2Config,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaModel,
    ModernBertConfig,
    Qwen3Config,
    RobertaConfig,
    T5Config,
)

from rlgen.config import ModelArguments
from rlgen.errors import ConfigError, ModelError
from rlgen.generation import completion_logprobs, generate
from rlgen.models import family_of, load_policy, load_tokenizer, save_model
from rlgen.ppo import PPOConfig, PPOTrainer
from rlgen.ppo.critic import completion_values, load_critic
from rlgen.rewards.model import RewardModel
from rlgen.tuning import start_tuning

PAGE = Path(__file__).parent.parent / "docs" / "families.md"
YES, UNUSED = "yes", "not used"
STAGES = {
    "sft": "SFT",
    "ppo": "PPO",
    "cached": "frozen lower layers computed once",
    "shared": "completions share their prompt's tokens",
    "critics": "critics `frozen`, `head`, `adapter`, `model`",
    "dpo": "DPO",
    "reward": "reward model",
    "as_critic": "is a `--critic model`",
    "compare": "comparison",
}
DECODER = dict.fromkeys(STAGES, YES)
BOTH = {
    **DECODER,
    "cached": UNUSED,
    "shared": UNUSED,
    "dpo": "no: TRL's DPO is for decoders alone",
    "reward": "no: TRL's reward trainer scores one text",
    "as_critic": "no: has an encoder and a decoder",
}
# "yes", "not used", or "no: " and what the error says.
FAMILIES: dict[str, tuple[str, dict[str, str]]] = {
    "gpt2": ("GPT-2", DECODER),
    "llama": ("Llama, SmolLM2", DECODER),
    "qwen3": ("Qwen3", DECODER),
    "smollm3": ("SmolLM3", DECODER),
    "gemma3": ("Gemma 3 (sliding windows)", {**DECODER, "shared": UNUSED}),
    "t5": ("T5", BOTH),
    "bart": ("BART", BOTH),
    "bert2bert": ("two BERTs joined (EncoderDecoderModel)", BOTH),
    "bert": (
        "BERT",
        dict.fromkeys(STAGES, "no: an encoder, which writes no text") | {"reward": YES, "as_critic": YES},
    ),
}
CELLS = [(family, stage) for family in FAMILIES for stage in STAGES]
TRAINING = "--max_steps 2 --per_device_train_batch_size 4 --logging_steps 1 --learning_rate 1e-2 --warmup_steps 0"
PROMPTS = [f"Say number {i}" + " please" * (i % 3) for i in range(16)]


def table() -> str:
    """The table as Markdown."""
    lines = [f"| family | {' | '.join(STAGES.values())} |", f"|{'---|' * (len(STAGES) + 1)}"]
    lines += [f"| {title} | {' | '.join(cells[stage] for stage in STAGES)} |" for title, cells in FAMILIES.values()]
    return "\n".join(lines)


def even_tokens(prompts: Any, completions: Any, completion_ids: Any, **_: Any) -> list[float]:
    """Share of tokens with an even id."""
    return [sum(token % 2 == 0 for token in ids) / max(len(ids), 1) for ids in completion_ids]


def recipe(name: str, words: str, output_dir: Path) -> list[dict[str, Any]]:
    """Run a recipe, and return what it logged."""
    importlib.import_module(f"recipes.{name}").main.__wrapped__([*words.split(), "--output_dir", str(output_dir)])
    return [json.loads(line) for line in (output_dir / "metrics.jsonl").read_text().splitlines()]


def file_of(rows: list[dict[str, str]], folder: Path) -> Path:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def ppo_trainer(folder: str, output_dir: Path, **settings: Any) -> PPOTrainer:
    """PPO with adapters on the two top layers; two rollouts of one update."""
    defaults = {"max_steps": 2, "per_device_train_batch_size": 8, "steps_per_generation": 1, "num_ppo_epochs": 1}
    defaults |= {"learning_rate": 1e-2, "max_completion_length": 6, "critic_warmup_rollouts": 0, "bf16": False}
    defaults |= {"save_strategy": "no", "use_cpu": True, "dataloader_pin_memory": False, "disable_tqdm": True}
    model, args = load_policy(folder, dtype="float32"), ModelArguments(model_name_or_path=folder, top_layers=2)
    return PPOTrainer(
        model,
        even_tokens,
        PPOConfig(output_dir=str(output_dir), **(defaults | settings)),
        Dataset.from_dict({"prompt": PROMPTS}),
        processing_class=load_tokenizer(folder),
        peft_config=start_tuning(args, model),
    )


def sft(folder: str, tmp_path: Path) -> str:
    rows = [{"prompt": prompt, "completion": f" number {i}"} for i, prompt in enumerate(PROMPTS)]
    words = f"--model_name_or_path {folder} --dataset_name {file_of(rows, tmp_path)} {TRAINING} --dtype float32"
    logged = recipe("sft", words, tmp_path / "out")
    losses = [row["loss"] for row in logged if "loss" in row]
    assert losses[1] < losses[0]
    before, after = load_policy(folder, dtype="float32"), load_policy(str(tmp_path / "out"), dtype="float32")
    tokenizer, answer = load_tokenizer(str(tmp_path / "out")), [[[50, 60]]]
    scores = [completion_logprobs(m.eval(), tokenizer, PROMPTS[:1], answer)[0][0] for m in (before, after)]
    assert scores[0] != pytest.approx(scores[1], abs=1e-3)
    return YES


def ppo(folder: str, tmp_path: Path) -> str:
    trainer = ppo_trainer(folder, tmp_path)
    trainer.train()
    first = next(row for row in trainer.state.log_history if "objective/kl" in row)
    assert first["objective/kl"] == pytest.approx(0, abs=1e-5)
    assert all(math.isfinite(row["loss"]) for row in trainer.state.log_history if "loss" in row)
    policy, tokenizer = trainer.model.eval(), load_tokenizer(folder)
    save_model(policy, tokenizer, tmp_path / "saved", merge=False)
    loaded = load_policy(str(tmp_path / "saved"), dtype="float32").eval()
    answers = [[c.token_ids for c in row] for row in generate(policy, tokenizer, PROMPTS[:3], max_new_tokens=6)]
    wrapped = [[ids] for row in answers for ids in row]
    for one, other in zip(
        *(completion_logprobs(m, tokenizer, PROMPTS[:3], wrapped) for m in (policy, loaded)), strict=True
    ):
        assert one[0] == pytest.approx(other[0], abs=1e-5)
    merged = load_policy(str(tmp_path / "saved"), dtype="float32", merge=True).eval()
    again = completion_logprobs(merged, tokenizer, PROMPTS[:3], wrapped)
    assert again[0][0] == pytest.approx(completion_logprobs(policy, tokenizer, PROMPTS[:3], wrapped)[0][0], abs=1e-4)
    return YES


def cached(folder: str, tmp_path: Path) -> str:
    return YES if ppo_trainer(folder, tmp_path).trunk_depth == 2 else UNUSED


def shared(folder: str, tmp_path: Path) -> str:
    trainer = ppo_trainer(folder, tmp_path, max_steps=1)
    trainer.train()
    return YES if trainer._shares_prompts else UNUSED


def critics(folder: str, tmp_path: Path) -> str:
    separate = str(tmp_path / "critic")
    tokenizer = load_tokenizer(folder)
    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    LlamaModel(LlamaConfig(vocab_size=len(tokenizer), **small)).save_pretrained(separate)
    tokenizer.save_pretrained(separate)
    for kind in ("frozen", "head", "adapter", "model"):
        more = {"critic_model_name_or_path": separate} if kind == "model" else {}
        trainer = ppo_trainer(folder, tmp_path, critic=kind, max_steps=1, **more)
        before = [parameter.clone() for parameter in trainer.critic.parameters()]
        trainer.train()
        after = list(trainer.critic.parameters())
        assert any(not one.equal(other) for one, other in zip(before, after, strict=True))
        if kind in ("frozen", "head"):
            trainer.critic.save(tmp_path / kind)
            on = load_policy(folder, dtype="float32") if kind == "frozen" else trainer.model
            loaded = load_critic(tmp_path / kind, on)
            values = completion_values(loaded, tokenizer, PROMPTS[:2], [[5, 6, 7], [8]])
            assert [len(row) for row in values] == [3, 1]
            alone = completion_values(loaded, tokenizer, PROMPTS[1:2], [[8]])
            assert values[1] == pytest.approx(alone[0], abs=1e-4)
    return YES


def dpo(folder: str, tmp_path: Path) -> str:
    pairs = [{"prompt": prompt, "chosen": " one", "rejected": " two"} for prompt in PROMPTS]
    words = f"--model_name_or_path {folder} --dataset_name {file_of(pairs, tmp_path)} {TRAINING} --dtype float32"
    logged = recipe("dpo", words, tmp_path / "out")
    losses = [row["loss"] for row in logged if "loss" in row]
    assert losses[0] == pytest.approx(math.log(2), abs=1e-3)
    assert losses[1] < losses[0]
    return YES


def reward(folder: str, tmp_path: Path) -> str:
    pairs = [{"prompt": prompt, "chosen": " one", "rejected": " two"} for prompt in PROMPTS]
    words = f"--model_name_or_path {folder} --dataset_name {file_of(pairs, tmp_path)} {TRAINING} --dtype float32"
    recipe("reward", words, tmp_path / "out")
    model = RewardModel(str(tmp_path / "out"), standardize=False)
    good, bad = model(PROMPTS[:1] * 2, [" one", " two"])
    assert good > bad
    return YES


def as_critic(folder: str, tmp_path: Path) -> str:
    rows = file_of([{"prompt": prompt} for prompt in PROMPTS], tmp_path)
    reward = f"{Path(__file__)}:even_tokens"
    policy = tiny_policy_like(folder, tmp_path)
    words = f"--model_name_or_path {policy} --dataset_name {rows} --reward {reward} --critic model --max_steps 1 "
    words += f"--critic_model_name_or_path {folder} --per_device_train_batch_size 4 --steps_per_generation 1 "
    words += "--num_ppo_epochs 1 --critic_warmup_rollouts 0 --max_completion_length 4 --reward_check false"
    recipe("ppo", words, tmp_path / "out")
    return YES


def tiny_policy_like(folder: str, tmp_path: Path) -> str:
    """A policy with the tokenizer of another model."""
    tokenizer = load_tokenizer(folder)
    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), eos_token_id=tokenizer.eos_token_id, **small))
    model.save_pretrained(tmp_path / "policy")
    tokenizer.save_pretrained(tmp_path / "policy")
    return str(tmp_path / "policy")


def compare(folder: str, tmp_path: Path) -> str:
    other = tmp_path / "other"
    load_policy(folder, dtype="float32").save_pretrained(other)
    load_tokenizer(folder).save_pretrained(other)
    rows = file_of([{"prompt": prompt, "reference": " one"} for prompt in PROMPTS[:4]], tmp_path)
    words = f"--checkpoints sft={folder} other={other} --dataset_name {rows} --reward {Path(__file__)}:even_tokens "
    words += f"--max_new_tokens 4 --output_dir {tmp_path}/out"
    importlib.import_module("recipes.compare").main.__wrapped__(words.split())
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    found = {row["measure"]: row for row in results["comparisons"] if row["sampling"] == "greedy"}
    assert found["even_tokens"]["difference"] == 0
    assert found["kl_sft"]["mean_b"] == pytest.approx(0, abs=1e-4)
    return YES


TRIALS = {
    "sft": sft,
    "ppo": ppo,
    "cached": cached,
    "shared": shared,
    "critics": critics,
    "dpo": dpo,
    "reward": reward,
    "as_critic": as_critic,
    "compare": compare,
}
PPO_STAGES = ("ppo", "cached", "shared", "critics")


@pytest.fixture
def hollow(tiny_family, tmp_path: Path):
    """Folder of a model that says what it is, but has no weights to load."""

    def make(family: str) -> str:
        folder = tmp_path / f"hollow-{family}"
        shutil.copytree(tiny_family(family), folder)
        (folder / "model.safetensors").write_bytes(b"")
        return str(folder)

    return make


@pytest.mark.parametrize(("family", "stage"), CELLS, ids=[f"{family}-{stage}" for family, stage in CELLS])
def test_a_cell_of_the_table(family: str, stage: str, tiny_family, hollow, tmp_path: Path) -> None:
    expected = FAMILIES[family][1][stage]
    if not expected.startswith("no: "):
        assert TRIALS[stage](tiny_family(family), tmp_path) == expected
        return
    trial = asked_for_ppo if stage in PPO_STAGES else TRIALS[stage]
    with pytest.raises((ConfigError, ModelError), match=re.escape(expected.removeprefix("no: "))):
        trial(hollow(family), tmp_path)


def asked_for_ppo(folder: str, tmp_path: Path) -> str:
    rows = file_of([{"prompt": prompt} for prompt in PROMPTS], tmp_path)
    recipe("ppo", f"--model_name_or_path {folder} --dataset_name {rows} --reward x", tmp_path / "out")
    return YES


OPTIONS = {
    "sft --packing true": ("joins rows into one text", "leave it out"),
    "sft --completion_only_loss false": ("the decoder writes the completion alone", "leave it out"),
    "sft --assistant_only_loss true": ("the decoder writes the completion alone", "leave it out"),
    "sft --tuning prefix_tuning": ("sampling goes past the learned prefix", "take full, gradual, bitfit, lora"),
    "sft --tuning head": ("tied to those of the input", "take full"),
    "dpo --beta 0.2": ("TRL's DPO is for decoders alone", "take rlgen sft and rlgen ppo"),
    "reward --num_members 2": ("TRL's reward trainer scores one text", "an encoder such as embedded-encoder"),
    "ppo --tuning prompt_tuning": ("does not go with ppo", "take full"),
    "ppo --tuning prefix_tuning --critic adapter": ("does not go with ppo", "lora"),
    "ppo --critic model --critic_model_name_or_path FOLDER": ("an encoder and a decoder", "or --critic frozen, head"),
    "ppo --use_transformers_continuous_batching true": ("does not sample from", "leave it out"),
}


@pytest.mark.parametrize("words", OPTIONS)
def test_what_an_encoder_decoder_cannot_have_is_said_before_anything_is_loaded_or_written(words, hollow, tmp_path):
    folder, (name, _, more) = hollow("t5"), words.partition(" ")
    rows = file_of([{"prompt": "a", "completion": "b", "chosen": "b", "rejected": "c"}], tmp_path)
    line = f"--model_name_or_path {folder} --dataset_name {rows} {more.replace('FOLDER', folder)}"
    with pytest.raises(ConfigError) as caught:
        recipe(name, line, tmp_path / "out")
    for part in OPTIONS[words]:
        assert part in str(caught.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["sft", "ppo", "dpo"])
def test_an_encoder_is_told_what_it_is_good_for(name, hollow, tmp_path):
    rows = file_of([{"prompt": "a", "completion": "b", "chosen": "b", "rejected": "c"}], tmp_path)
    with pytest.raises(ConfigError, match="serves as a reward model"):
        recipe(name, f"--model_name_or_path {hollow('bert')} --dataset_name {rows}", tmp_path / "out")


def test_a_family_is_read_from_the_configuration():
    expected = {
        "decoder": [GPT2Config(), LlamaConfig(), Qwen3Config(), BertConfig(is_decoder=True)],
        "encoder": [BertConfig(), RobertaConfig(), ModernBertConfig(), DistilBertConfig()],
        "encoder-decoder": [T5Config(), BartConfig()],
    }
    for family, configs in expected.items():
        assert {family_of(config) for config in configs} == {family}


def test_the_page_shows_the_table() -> None:
    found = re.search(r"<!-- families:.*?-->\n(.*?)\n<!-- end -->", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert found is not None
    assert found[1] == table(), "write the new table: python tests/test_families.py"


if __name__ == "__main__":
    sys.stdout.write(table() + "\n")
