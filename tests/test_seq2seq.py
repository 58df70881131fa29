"""Supervised fine-tuning of encoder-decoders: rows, loss, what is saved, and the ways of tuning."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from trl import SFTConfig

from recipes.sft import main
from rlgen.config import ModelArguments
from rlgen.errors import ConfigError, DataError
from rlgen.families import DECODER_ONLY_TUNING
from rlgen.generation import completion_logprobs
from rlgen.models import is_adapter, load_policy, load_tokenizer, save_model
from rlgen.ppo import PPOConfig, PPOTrainer
from rlgen.ppo.rollout import group_completions
from rlgen.scoring import token_logprobs
from rlgen.seq2seq import EncoderDecoderSFTTrainer, encode_rows
from rlgen.strategies import STRATEGIES
from rlgen.tuning import start_tuning

ROWS = Dataset.from_list([{"prompt": f"Say {'very ' * (i % 3)}{i}.", "completion": f"It is {i}."} for i in range(12)])
BOTH = ["t5", "bart", "bert2bert"]
WAYS = [name for name in STRATEGIES if name not in DECODER_ONLY_TUNING and name != "qlora"]


def trainer(folder: str, output_dir: Path, tuning: str = "full", **settings) -> EncoderDecoderSFTTrainer:
    args = SFTConfig(
        output_dir=str(output_dir),
        **{
            "bf16": False,
            "use_cpu": True,
            "dataloader_pin_memory": False,
            "report_to": "none",
            "save_strategy": "no",
            "disable_tqdm": True,
            "per_device_eval_batch_size": 5,
            "max_steps": 2,
            "learning_rate": 1e-2,
            **settings,
        },
    )
    model = load_policy(folder, dtype="float32")
    adapter = start_tuning(ModelArguments(model_name_or_path=folder, tuning=tuning), model)
    return EncoderDecoderSFTTrainer(model, args, ROWS, ROWS, load_tokenizer(folder), adapter)


def test_rows_become_a_prompt_to_encode_and_a_completion_with_its_end(tiny_family):
    tokenizer = load_tokenizer(tiny_family("t5"))
    encoded = encode_rows(ROWS, tokenizer, None)
    assert tokenizer.decode(encoded[1]["input_ids"]) == "Say very 1."
    assert tokenizer.decode(encoded[1]["labels"]) == f"It is 1.{tokenizer.eos_token}"
    messages = Dataset.from_list(
        [{"prompt": [{"role": "user", "content": "Hi"}], "completion": [{"role": "assistant", "content": "Ho"}]}]
    )
    row = encode_rows(messages, tokenizer)[0]
    assert tokenizer.decode(row["input_ids"]) == f"Hi{tokenizer.eos_token}"  # as it is sampled from
    assert tokenizer.decode(row["labels"]) == f"Ho{tokenizer.eos_token}"
    short = encode_rows(ROWS, tokenizer, 3)
    assert all(len(row["input_ids"]) <= 3 and len(row["labels"]) <= 3 for row in short)
    with pytest.raises(DataError, match="a prompt is empty"):
        encode_rows(Dataset.from_list([{"prompt": "", "completion": "b"}]), tokenizer)


@pytest.mark.parametrize("family", BOTH)
def test_the_loss_is_the_mean_of_what_scoring_says(family, tiny_family, tmp_path):
    one = trainer(tiny_family(family), tmp_path, per_device_eval_batch_size=12)
    loss = one.evaluate()["eval_loss"]
    encoded = encode_rows(ROWS, one.processing_class)
    packed = group_completions(encoded["input_ids"], encoded["labels"], 1, 0)
    with torch.no_grad():
        logprobs = token_logprobs(one.model.eval(), packed)[0][packed.completion_mask]
    assert loss == pytest.approx(-float(logprobs.mean()), abs=1e-4)


@pytest.mark.parametrize("family", BOTH)
def test_padding_changes_no_loss(family, tiny_family, tmp_path):
    one = trainer(tiny_family(family), tmp_path)
    one.model.eval()
    encoded = encode_rows(ROWS, one.processing_class)
    with torch.no_grad():
        alone = [float(one.model(**one.data_collator([row])).loss) * len(row["labels"]) for row in encoded]
        together = float(one.model(**one.data_collator(list(encoded))).loss)
    assert together == pytest.approx(sum(alone) / sum(len(row["labels"]) for row in encoded), abs=1e-4)


@pytest.mark.parametrize("family", BOTH)
def test_a_fully_tuned_model_is_the_same_after_loading(family, tiny_family, tmp_path):
    one = trainer(tiny_family(family), tmp_path)
    one.train()
    tokenizer = load_tokenizer(tiny_family(family))
    save_model(one.model.eval(), tokenizer, tmp_path / "saved", merge=True)
    answers = [[[5, 6, 7]], [[8]]]
    both = (one.model, load_policy(str(tmp_path / "saved"), dtype="float32").eval())
    before, after = (completion_logprobs(m, tokenizer, ["a b", "c"], answers) for m in both)
    assert before[0][0] == pytest.approx(after[0][0], abs=1e-5)
    assert before[1][0] == pytest.approx(after[1][0], abs=1e-5)


@pytest.mark.parametrize("name", WAYS)
def test_a_way_of_tuning_trains_what_it_says_and_leaves_the_rest(name, tiny_family, tmp_path):
    family = "bart" if name == "bitfit" else "t5"  # T5 has no biases
    one = trainer(tiny_family(family), tmp_path, name, max_steps=1)
    before = {key: value.clone() for key, value in one.model.named_parameters()}
    trains = {key for key, value in one.model.named_parameters() if value.requires_grad}
    one.train()
    changed = {key for key, value in one.model.named_parameters() if not value.equal(before[key])}
    assert changed
    assert changed <= trains
    if STRATEGIES[name].kind == "adapter":
        assert any("encoder.block" in key for key in trains)
        assert any("decoder.block" in key for key in trains)
        save_model(one.model.eval(), one.processing_class, tmp_path / "saved", merge=False)
        loaded = load_policy(str(tmp_path / "saved"), dtype="float32").eval()
        first, second = (
            completion_logprobs(m, one.processing_class, ["a b"], [[[5, 6]]])[0][0] for m in (one.model, loaded)
        )
        assert first == pytest.approx(second, abs=1e-5)


def test_bitfit_of_a_model_without_biases_names_what_would_work(tiny_family, tmp_path):
    with pytest.raises(ConfigError, match="take beft"):
        trainer(tiny_family("t5"), tmp_path, "bitfit")


@pytest.mark.parametrize("name", ["lora", "full", "houlsby", "ia3", "loha"])
def test_top_layers_are_those_of_the_decoder(name, tiny_family):
    folder = tiny_family("t5")
    model = load_policy(folder, dtype="float32")
    adapter = start_tuning(ModelArguments(model_name_or_path=folder, tuning=name, top_layers=1), model)
    if adapter is not None:
        from peft import get_peft_model

        model = get_peft_model(model, adapter)
    trained = [key for key, value in model.named_parameters() if value.requires_grad]
    assert trained
    assert all("decoder.block.3." in key for key in trained)


def test_gradients_pass_frozen_embeddings_when_activations_are_computed_anew(tiny_family, tmp_path):
    losses = []
    for again in (False, True):
        torch.manual_seed(0)  # of the adapter's first weights
        one = trainer(tiny_family("t5"), tmp_path, "lora", gradient_checkpointing=again, seed=0)
        one.train()
        losses.append(one.evaluate()["eval_loss"])
    assert losses[0] == pytest.approx(losses[1], abs=1e-3)


def test_the_recipe_goes_on_where_it_was_interrupted_and_names_the_next_stage(tiny_family, tmp_path, capsys):
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    words = f"--model_name_or_path {tiny_family('bart')} --dataset_name {rows} --output_dir {tmp_path}/sft "
    words += (
        f"--eval_dataset_name {rows} --eval_strategy no --max_steps 4 --save_steps 2 --per_device_train_batch_size 4"
    )
    main.__wrapped__(words.split())
    assert capsys.readouterr().out.splitlines()[-1].startswith("next: rlgen ppo --model_name_or_path")
    assert not is_adapter(tmp_path / "sft")
    (tmp_path / "sft" / "model.safetensors").unlink()
    shutil.rmtree(tmp_path / "sft" / "checkpoint-4")
    record = json.loads((tmp_path / "sft" / "run.json").read_text())
    (tmp_path / "sft" / "run.json").write_text(json.dumps(record | {"finished": None}))
    main.__wrapped__(words.split())
    steps = [json.loads(line)["step"] for line in (tmp_path / "sft" / "metrics.jsonl").read_text().splitlines()]
    assert max(steps) == 4
    assert load_policy(str(tmp_path / "sft")).config.is_encoder_decoder


def even_tokens(prompts, completions, completion_ids, **_):
    return [sum(token % 2 == 0 for token in ids) / max(len(ids), 1) for ids in completion_ids]


@pytest.mark.parametrize("family", BOTH)
def test_ppo_of_all_weights_starts_at_its_reference_and_moves(family, tiny_family, tmp_path):
    folder = tiny_family(family)
    args = PPOConfig(
        output_dir=str(tmp_path),
        max_steps=24 if family == "t5" else 8,
        per_device_train_batch_size=16,
        steps_per_generation=2,
        num_ppo_epochs=2,
        learning_rate=2e-3,
        max_completion_length=6,
        kl_coef=0.0,
        ptx_coef=1e-4,
        ptx_batch_size=2,
        eval_strategy="steps",
        eval_steps=8,
        critic_warmup_rollouts=0,
        save_strategy="no",
        bf16=False,
        use_cpu=True,
        dataloader_pin_memory=False,
        disable_tqdm=True,
    )
    prompts = [f"Say {i}." for i in range(64)]
    if family == "bart":  # whose tokenizer has no chat template of its own
        prompts = [[{"role": "user", "content": prompt}] for prompt in prompts]
    prompts = Dataset.from_dict({"prompt": prompts})
    one = PPOTrainer(
        load_policy(folder, dtype="float32"),
        even_tokens,
        args,
        prompts,
        prompts.select(range(8)),
        processing_class=load_tokenizer(folder),
        ptx_dataset=ROWS,
    )
    one.train()
    logged = [row for row in one.state.log_history if "objective/kl" in row]
    assert logged[0]["objective/kl"] == pytest.approx(0, abs=1e-5)
    assert logged[-1]["objective/kl"] > 1e-3
    rewards = [row["reward"] for row in logged]
    if family == "t5":  # the others take longer to learn
        assert sum(rewards[-2:]) / 2 > sum(rewards[:2]) / 2 + 0.03
    assert any("eval_reward" in row for row in one.state.log_history)
    assert all(row["loss/ptx"] > 0 for row in logged)


@pytest.mark.parametrize(
    ("family", "inside"), [("t5", ("SelfAttention", "EncDecAttention")), ("bart", ("self_attn", "encoder_attn"))]
)
def test_houlsby_follows_each_attention_of_a_decoder_layer(family, inside, tiny_family):
    model = load_policy(tiny_family(family), dtype="float32")
    adapter = start_tuning(ModelArguments(tuning="houlsby", top_layers=1), model)
    assert len(adapter.target_modules) == 3
    assert all(any(f".{name}." in target for target in adapter.target_modules) for name in inside)
