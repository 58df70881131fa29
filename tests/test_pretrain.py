"""Pre-training by its recipe: perplexity falls, the result starts other stages, runs go on, mistakes are named."""

import importlib
import json
import random
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForMaskedLM, AutoTokenizer

from rlgen.errors import RlgenError
from rlgen.models import is_adapter, load_policy, load_tokenizer
from rlgen.rewards.model import RewardModel
from rlgen.runs import read_metrics

NEW = "--from_scratch --train_tokenizer --vocab_size 320 --hidden_size 32 --num_hidden_layers 2"
TRAINING = "--max_length 32 --per_device_train_batch_size 8 --logging_steps 5 --eval_strategy no"
WORDS = "the a cat dog king queen house river sees likes finds paints old young small great".split()


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder with 30 documents of 20 sentences, all of one grammar."""
    folder = tmp_path_factory.mktemp("texts")
    rng = random.Random(0)
    for number in range(30):
        parts = ((WORDS[0:2], WORDS[12:16], WORDS[2:8], WORDS[8:12], WORDS[0:2], WORDS[2:8]) for _ in range(20))
        sentences = [" ".join(rng.choice(words) for words in part).capitalize() + "." for part in parts]
        (folder / f"{number}.txt").write_text(" ".join(sentences))
    return str(folder)


def pretrain(words: str, output_dir: Path) -> dict:
    main = importlib.import_module("recipes.pretrain").main.__wrapped__
    main([*words.split(), "--output_dir", str(output_dir)])
    return json.loads((output_dir / "run.json").read_text())


def run(recipe: str, words: str) -> None:
    importlib.import_module(f"recipes.{recipe}").main.__wrapped__(words.split())


@pytest.fixture(scope="module")
def decoder(texts: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("decoder")
    pretrain(f"{NEW} --dataset_name {texts} --max_steps 50 {TRAINING} --learning_rate 5e-3", folder)
    return folder


@pytest.fixture(scope="module")
def encoder(texts: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("encoder")
    pretrain(f"{NEW} --objective masked --dataset_name {texts} --max_steps 60 {TRAINING} --learning_rate 5e-3", folder)
    return folder


def test_the_perplexity_of_held_out_text_falls(decoder: Path) -> None:
    record = json.loads((decoder / "run.json").read_text())
    summary = record["summary"]
    assert 250 < summary["perplexity_before"] < 450  # about the vocabulary's size: a new model knows nothing
    assert summary["perplexity"] < 0.2 * summary["perplexity_before"]
    assert summary["perplexity_before"] == record["perplexity_before"]
    assert record["data"]["pretrain"]["rows"] == 28
    assert record["data"]["pretrain_heldout"]["rows"] == 2
    logged = [row["eval_perplexity"] for row in read_metrics(decoder / "metrics.jsonl") if "eval_perplexity" in row]
    assert logged == [summary["perplexity_before"], summary["perplexity"]]
    model, tokenizer = load_policy(str(decoder), dtype="float32"), load_tokenizer(str(decoder))
    assert model.config.vocab_size == len(tokenizer)
    assert tokenizer.chat_template is not None


def test_perplexity_is_that_of_the_saved_model(decoder: Path, texts: str) -> None:
    from rlgen.documents import hold_out, load_documents

    model, tokenizer = load_policy(str(decoder), dtype="float32"), load_tokenizer(str(decoder))
    _, heldout = hold_out(load_documents([texts]), 0.05)
    total, count = 0.0, 0
    for text in heldout["text"]:
        ids = [*tokenizer(text)["input_ids"], tokenizer.eos_token_id]
        for at in range(0, len(ids), 32):
            block = torch.tensor([ids[at : at + 32]])
            with torch.no_grad():
                total += float(model(input_ids=block, labels=block).loss) * (block.shape[1] - 1)
            count += block.shape[1] - 1
    expected = json.loads((decoder / "run.json").read_text())["summary"]["perplexity"]
    assert torch.tensor(total / count).exp().item() == pytest.approx(expected, rel=0.02)  # trained under bfloat16


def test_masked_language_modelling_lowers_the_perplexity_of_hidden_tokens(encoder: Path) -> None:
    summary = json.loads((encoder / "run.json").read_text())["summary"]
    assert 250 < summary["perplexity_before"] < 450
    assert summary["perplexity"] < 0.4 * summary["perplexity_before"]
    model = AutoModelForMaskedLM.from_pretrained(encoder)
    assert model.config.vocab_size == len(AutoTokenizer.from_pretrained(encoder))


@pytest.mark.parametrize("tuning", ["lora", "gradual", "layer_norm"])
@pytest.mark.parametrize("objective", ["causal", "masked"])
def test_a_trained_model_is_gone_on_with(
    objective: str, tuning: str, request: pytest.FixtureRequest, texts: str, tmp_path: Path
) -> None:
    start = request.getfixturevalue("decoder" if objective == "causal" else "encoder")
    words = f"--model_name_or_path {start} --objective {objective} --tuning {tuning} --dataset_name {texts}"
    record = pretrain(f"{words} --max_steps 2 {TRAINING} --learning_rate 1e-2 --dtype float32", tmp_path / "more")
    assert record["tuning"]["strategy"] == tuning
    assert not is_adapter(tmp_path / "more")
    before, after = (load_file(folder / "model.safetensors") for folder in (start, tmp_path / "more"))
    assert before.keys() == after.keys()
    changed = {name for name in before if not before[name].equal(after[name])}
    assert changed
    if tuning == "layer_norm":
        assert all("norm" in name.lower() for name in changed)
    if tuning == "lora":
        assert all(before[name].dim() == 2 for name in changed)
    start_perplexity = json.loads((start / "run.json").read_text())["summary"]["perplexity"]
    assert record["perplexity_before"] == pytest.approx(start_perplexity, rel=0.03)  # the same held-out text again


def test_what_cannot_be_merged_stays_an_adapter(decoder: Path, texts: str, tmp_path: Path) -> None:
    words = f"--model_name_or_path {decoder} --tuning pfeiffer --dataset_name {texts} --max_steps 1 {TRAINING}"
    pretrain(words, tmp_path / "more")
    assert is_adapter(tmp_path / "more")
    load_policy(str(tmp_path / "more"))


def test_a_killed_run_goes_on_to_the_same_weights(texts: str, tmp_path: Path) -> None:
    words = f"{NEW} --dataset_name {texts} --max_steps 6 --save_steps 3 {TRAINING}"
    whole = pretrain(words, tmp_path / "whole")
    cut = tmp_path / "cut"
    shutil.copytree(tmp_path / "whole", cut)
    shutil.rmtree(cut / "checkpoint-6")  # as if killed after the third step
    for file in {*cut.glob("*.safetensors"), *cut.glob("*config.json"), *cut.glob("tokenizer*")}:
        file.unlink()
    (cut / "run.json").write_text(json.dumps({**whole, "finished": None, "summary": None}))
    again = pretrain(words, cut)
    first, second = (load_file(folder / "model.safetensors") for folder in (tmp_path / "whole", cut))
    assert all(first[name].equal(second[name]) for name in first)
    assert again["summary"]["perplexity"] == whole["summary"]["perplexity"]
    assert again["summary"]["perplexity_before"] == whole["summary"]["perplexity_before"]
    steps = [row["step"] for row in read_metrics(cut / "metrics.jsonl") if "loss" in row]
    assert steps == sorted(steps)


def test_documents_may_stay_apart_and_held_out_text_be_given(texts: str, tmp_path: Path) -> None:
    (tmp_path / "held.txt").write_text("The old cat sees the dog. The great king finds a river.")
    words = f"{NEW} --dataset_name {texts} --eval_dataset_name {tmp_path}/held.txt --packing false --max_steps 1"
    record = pretrain(f"{words} {TRAINING}", tmp_path / "run")
    assert record["data"]["pretrain"]["rows"] == 30
    assert record["data"]["pretrain_heldout"]["rows"] == 1
    assert record["config"]["packing"] is False


def test_a_new_model_takes_the_tokenizer_of_another(decoder: Path, texts: str, tmp_path: Path) -> None:
    words = f"--from_scratch --tokenizer_name {decoder} --model_type gpt2 --hidden_size 16 --num_hidden_layers 1"
    pretrain(f"{words} --dataset_name {texts} --max_steps 1 {TRAINING}", tmp_path / "run")
    model = load_policy(str(tmp_path / "run"))
    assert model.config.model_type == "gpt2"
    assert model.config.vocab_size == len(load_tokenizer(str(decoder)))


def test_the_checkpoint_with_the_lowest_perplexity_is_kept(texts: str, tmp_path: Path) -> None:
    training = TRAINING.replace("--eval_strategy no", "--eval_strategy steps --eval_steps 10")
    words = f"{NEW} --dataset_name {texts} --max_steps 200 {training} --lr_scheduler_type constant --warmup_steps 0"
    record = pretrain(f"{words} --learning_rate 0.1 --early_stopping_patience 1", tmp_path / "run")
    best = record["best_checkpoint"]
    assert best["metric"] == "eval_perplexity"
    rows = read_metrics(tmp_path / "run" / "metrics.jsonl")
    logged = {row["step"]: row["eval_perplexity"] for row in rows if "eval_perplexity" in row and row["step"]}
    assert best["value"] == min(logged.values()) == logged[best["step"]]
    assert best["stopped_early"]
    assert max(logged) == best["step"] + 10
    assert record["summary"]["perplexity"] == pytest.approx(best["value"])


@pytest.mark.parametrize("objective", ["causal", "masked"])
def test_controls_reach_the_training(objective: str, texts: str, tmp_path: Path) -> None:
    words = f"{NEW} --objective {objective} --dataset_name {texts} --max_steps 2 {TRAINING} --learning_rate 1e-2"
    pretrain(words, tmp_path / "plain")
    plain = load_file(tmp_path / "plain" / "model.safetensors")
    for control in ("--optim muon", "--dropout 0.5", "--label_smoothing_factor 0.2", "--neftune_noise_alpha 5"):
        folder = tmp_path / control.split()[0].strip("-")
        pretrain(f"{words} {control}", folder)
        changed = load_file(folder / "model.safetensors")
        assert any(not plain[name].equal(changed[name]) for name in plain), control
        before, after = (json.loads((f / "config.json").read_text()) for f in (tmp_path / "plain", folder))
        assert before == after


@pytest.mark.slow
def test_the_decoder_is_fine_tuned_on_conversations(decoder: Path, tmp_path: Path) -> None:
    rows = [
        {
            "prompt": [{"role": "user", "content": f"Say {word}."}],
            "completion": [{"role": "assistant", "content": f"The {word} sees a dog."}],
        }
        for word in WORDS
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    run(
        "sft",
        f"--model_name_or_path {decoder} --dataset_name {tmp_path}/rows.jsonl --output_dir {tmp_path}/sft "
        "--tuning full --learning_rate 5e-3 --num_train_epochs 8 --per_device_train_batch_size 8 --logging_steps 1",
    )
    losses = [row["loss"] for row in read_metrics(tmp_path / "sft" / "metrics.jsonl") if "loss" in row]
    assert losses[-1] < 0.5 * losses[0]


@pytest.mark.slow
def test_the_encoder_becomes_the_backbone_of_a_reward_model(encoder: Path, tmp_path: Path) -> None:
    rng = random.Random(1)
    pairs = []
    for number in range(60):
        nouns = rng.sample(WORDS[2:8], 2)
        good = f"The {rng.choice(WORDS[12:16])} {nouns[0]} {rng.choice(WORDS[8:12])} the {nouns[1]}."
        bad = " ".join(["river"] * rng.randint(4, 7)) + "."
        pairs.append({"prompt": f"Tell me of {nouns[0]}, {number}.", "chosen": good, "rejected": bad})
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    run(
        "reward",
        f"--model_name_or_path {encoder} --dataset_name {tmp_path}/pairs.jsonl --output_dir {tmp_path}/reward "
        "--tuning full --learning_rate 2e-3 --num_train_epochs 6 --per_device_train_batch_size 8",
    )
    evaluation = json.loads((tmp_path / "reward" / "evaluation.json").read_text())
    assert evaluation["accuracy"] >= 0.9
    good, bad = RewardModel(str(tmp_path / "reward"))(["Tell me of king.", "Tell me of king."], [good, bad])
    assert good > bad


MISTAKES = {
    "no text": ("--from_scratch --train_tokenizer", "give --dataset_name"),
    "nothing to begin with": ("--dataset_name TEXTS", "give --from_scratch for a new model"),
    "two beginnings": (f"{NEW} --dataset_name TEXTS --model_name_or_path no_model", "brings trained ones"),
    "new model without a tokenizer": ("--from_scratch --dataset_name TEXTS", "needs a tokenizer"),
    "two tokenizers": (f"{NEW} --tokenizer_name no_model --dataset_name TEXTS", "give one of --train_tokenizer"),
    "tokenizer for a trained model": ("--model_name_or_path X --train_tokenizer --dataset_name TEXTS", "has its own"),
    "sizes of a trained model": (
        "--model_name_or_path X --hidden_size 8 --dataset_name TEXTS",
        "--hidden_size is for",
    ),
    "adapter on random weights": (f"{NEW} --tuning lora --dataset_name TEXTS", "leave --tuning full"),
    "vocabulary of no tokenizer": (
        "--from_scratch --tokenizer_name X --vocab_size 900 --dataset_name TEXTS",
        "--vocab_size has no effect here: no tokenizer is trained",
    ),
    "number format of a new model": (f"{NEW} --dtype bfloat16 --dataset_name TEXTS", "has float32 weights"),
    "masks in causal modelling": (f"{NEW} --mlm_probability 0.3 --dataset_name TEXTS", "nothing is masked"),
    "share beside held-out text": (
        f"{NEW} --heldout_fraction 0.1 --eval_dataset_name TEXTS --dataset_name TEXTS",
        "held-out text is given",
    ),
    "vocabulary by the back door": (f"{NEW} --config_overrides vocab_size=9 --dataset_name TEXTS", "the tokenizer's"),
    "tiny vocabulary": (f"{NEW} --vocab_size 100 --dataset_name TEXTS", "--vocab_size must be at least 261"),
    "prompt": ("--model_name_or_path X --tuning prompt_tuning --dataset_name TEXTS", "does not go with pretrain"),
    "masked prompt": (
        "--model_name_or_path X --objective masked --tuning prefix_tuning --dataset_name TEXTS",
        "does not go with pretrain",
    ),
    "4 bits": ("--model_name_or_path X --tuning qlora --dataset_name TEXTS", "one plain model"),
    "masked adapter that stays": (
        "--model_name_or_path X --objective masked --tuning houlsby --dataset_name TEXTS",
        "take a --tuning that merges",
    ),
    "masked decoder": ("--model_name_or_path DECODER --objective masked --dataset_name TEXTS", "--objective causal"),
    "causal encoder": ("--model_name_or_path ENCODER --dataset_name TEXTS", "take --objective masked"),
    "new masked decoder": (f"{NEW} --model_type gpt2 --objective masked --dataset_name TEXTS", "is a decoder"),
    "masked with a decoder's tokenizer": (
        "--from_scratch --tokenizer_name DECODER --objective masked --dataset_name TEXTS",
        "no mask, cls or sep token",
    ),
    "block too long": (f"{NEW} --max_length 2048 --dataset_name TEXTS", "more than the 1024 tokens"),
    "block too long for a trained model": (
        "--model_name_or_path DECODER --max_length 2048 --dataset_name TEXTS",
        "more than the 1024 tokens",
    ),
    "block too short": (f"{NEW} --max_length 2 --dataset_name TEXTS", "max_length must be at least 4"),
    "no such probability": (f"{NEW} --mlm_probability 1.5 --dataset_name TEXTS", "between 0 and 1"),
    "unknown optimizer": (f"{NEW} --optim muonn --dataset_name TEXTS", "did you mean muon?"),
    "no such metric": (
        f"{NEW} --metric_for_best_model eval_accuracy --dataset_name TEXTS",
        "no evaluation of pretrain has it, only eval_loss, eval_nll, eval_perplexity",
    ),
    "early stopping without evaluation": (
        f"{NEW} --eval_strategy no --early_stopping_patience 2 --dataset_name TEXTS",
        "--eval_strategy steps",
    ),
    "no such objective": (f"{NEW} --objective span --dataset_name TEXTS", "--objective"),
    "missing file": (f"{NEW} --dataset_name nowhere.txt", "nowhere.txt: no such file"),
    "empty file": (f"{NEW} --dataset_name EMPTY", "there is no text in it"),
    "too little text": (f"{NEW} --dataset_name SHORT", "too short to hold some out"),
    "too little text for a block": (
        f"{NEW} --dataset_name SHORT --eval_dataset_name TEXTS",
        "too few for one block of 256",
    ),
    "held-out text that trains": (f"{NEW} --dataset_name TEXTS --eval_dataset_name TEXTS", "share 30 rows"),
    "missing model": ("--model_name_or_path no/such/model --dataset_name TEXTS", "no/such/model"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_clear_line(
    mistake: str, texts: str, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    line, message = MISTAKES[mistake]
    (tmp_path / "empty.txt").touch()
    (tmp_path / "short.txt").write_text("Too short.")
    for name, path in {"TEXTS": texts, "EMPTY": tmp_path / "empty.txt", "SHORT": tmp_path / "short.txt"}.items():
        line = line.replace(name, str(path))
    for name in ("decoder", "encoder"):
        if name.upper() in line:
            line = line.replace(name.upper(), str(request.getfixturevalue(name)))
    monkeypatch.setattr("recipes.pretrain.Trainer", None)  # nothing may get that far
    with pytest.raises(RlgenError) as caught:
        pretrain(line, tmp_path / "run")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
