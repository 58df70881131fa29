"""A trained reward model as a reward: the same numbers as TRL's own scoring, whatever the batch."""

import json
from types import SimpleNamespace

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from trl import GRPOConfig, GRPOTrainer, RewardConfig, RewardTrainer

from rlgen.errors import ModelError, RewardError
from rlgen.models import load_reward_model, load_tokenizer, save_model
from rlgen.rewards import load_reward
from rlgen.rewards.model import STATISTICS, RewardModel, prepare_for_scoring, score_texts, token_ids


def message(role, text):
    return [{"role": role, "content": text}]


PROMPTS = [message("user", f"def f{i // 3}(x):\n    return x + {i // 3}" + " + 1" * (i // 3)) for i in range(10)]
COMPLETIONS = [message("assistant", f"Add {i} to the number." + " Really." * (i % 4)) for i in range(10)]


@pytest.fixture(scope="module")
def folders(tiny_llama, tiny_gpt2, tmp_path_factory):
    made = {}
    for family, source in (("llama", tiny_llama), ("gpt2", tiny_gpt2)):
        torch.manual_seed(1)
        model, tokenizer = load_reward_model(source, dtype="float32"), load_tokenizer(source)
        torch.nn.init.normal_(model.score.weight)  # scores far enough apart to tell texts from each other
        prepare_for_scoring(model, tokenizer)
        made[family] = tmp_path_factory.mktemp("reward_model") / family
        save_model(model, tokenizer, made[family], merge=False)
    return made


@pytest.fixture(params=["llama", "gpt2"])
def folder(request, folders):
    return str(folders[request.param])


def test_the_scores_are_those_of_trl(folder, tiny_llama, tmp_path):
    """GRPOTrainer scores the same rows with the same model when it is given the model itself."""
    args = GRPOConfig(str(tmp_path), report_to="none", bf16=False, use_cpu=True, per_device_train_batch_size=2,
                      num_generations=2)  # fmt: skip
    rows = Dataset.from_list([{"prompt": PROMPTS[0]}])
    trainer = GRPOTrainer(tiny_llama, folder, args, rows)
    theirs = trainer._calculate_rewards([{"prompt": p} for p in PROMPTS], PROMPTS, COMPLETIONS, [[0]] * len(PROMPTS))
    ours = RewardModel(folder, dtype="float32")(PROMPTS, COMPLETIONS)
    assert ours == pytest.approx(theirs[:, 0].tolist(), abs=1e-4)
    assert len({round(score, 3) for score in ours}) == len(ours)


@pytest.mark.parametrize("plain", [False, True])
def test_the_tokens_are_those_of_trls_reward_trainer(folder, plain, tmp_path):
    prompt, chosen, rejected = PROMPTS[0], COMPLETIONS[0], COMPLETIONS[1]
    if plain:
        prompt, chosen, rejected = "Question: 1 + 1?", " Two.", " Three."
    rows = Dataset.from_list([{"prompt": prompt, "chosen": chosen, "rejected": rejected}])
    args = RewardConfig(str(tmp_path), report_to="none", bf16=False, use_cpu=True)
    tokenizer = load_tokenizer(folder)
    trainer = RewardTrainer(load_reward_model(folder, dtype="float32"), args, None, rows, processing_class=tokenizer)
    (row,) = trainer.train_dataset
    assert row["chosen_ids"] == token_ids(tokenizer, prompt, chosen)
    assert row["rejected_ids"] == token_ids(tokenizer, prompt, rejected)


@pytest.mark.parametrize("batch_size", [1, 2, 3, 16])
def test_neither_batch_nor_order_nor_shared_prompts_change_a_score(folder, batch_size):
    scorer = RewardModel(folder, dtype="float32", batch_size=batch_size)
    alone = [scorer([p], [c])[0] for p, c in zip(PROMPTS, COMPLETIONS, strict=True)]
    assert scorer(PROMPTS, COMPLETIONS) == pytest.approx(alone, abs=1e-4)
    assert scorer(PROMPTS[::-1], COMPLETIONS[::-1]) == pytest.approx(alone[::-1], abs=1e-4)


def test_texts_that_share_everything_or_nothing_or_end_in_padding(folder):
    model = RewardModel(folder, dtype="float32").model
    pad = model.config.pad_token_id
    texts = [[5, 6, 7, 8], [5, 6, 7, 8], [5, 6, 7], [9], [9, 10], [11, 12, pad, pad], [11, 12]]
    alone = [score_texts(model, [text])[0] for text in texts]
    assert score_texts(model, texts) == pytest.approx(alone, abs=1e-4)
    assert alone[5] == pytest.approx(alone[6], abs=1e-4)
    assert score_texts(model, []) == []


def test_equal_texts_are_scored_once_and_shared_tokens_read_once(folder):
    scorer = RewardModel(folder, dtype="float32")
    asked = [message("user", "Say what this function does, in a sentence. " * 3 + f"def f{i}(x)") for i in range(3)]
    rows = [(prompt, COMPLETIONS[i]) for prompt in asked for i in (0, 1, 2, 3, 1)]
    expected = [scorer([prompt], [completion])[0] for prompt, completion in rows]
    read = []
    scorer.model.get_input_embeddings().register_forward_hook(lambda _, inputs, __: read.append(inputs[0].numel()))
    assert scorer(*zip(*rows, strict=True)) == pytest.approx(expected, abs=1e-4)
    texts = {tuple(token_ids(scorer.tokenizer, *row)) for row in rows}
    assert len(texts) == 12
    assert sum(read) < sum(map(len, texts)) / 2

    read.clear()
    once = [list(texts.pop())] * 8
    assert len(set(score_texts(scorer.model, once))) == 1
    assert read == [len(once[0])]


def test_completions_of_a_single_prompt_and_texts_that_extend_each_other(folder):
    model = RewardModel(folder, dtype="float32").model
    beginning = list(range(30, 80))
    texts = [[*beginning, 5], [*beginning, 6, 7], beginning, [*beginning, 5, 8, 9], [*beginning, 6]]
    alone = [score_texts(model, [text])[0] for text in texts]
    for batch_size in (2, 16):
        assert score_texts(model, texts, batch_size=batch_size) == pytest.approx(alone, abs=1e-4)


def test_a_model_without_a_plain_score_head_is_scored_all_the_same(folder, monkeypatch):
    expected = RewardModel(folder, dtype="float32")(PROMPTS, COMPLETIONS)
    monkeypatch.setattr("rlgen.rewards.model.can_share_prompts", lambda model: False)
    assert RewardModel(folder, dtype="float32")(PROMPTS, COMPLETIONS) == pytest.approx(expected, abs=1e-4)


def test_pairs_are_scored_row_by_row(folder):
    scorer = RewardModel(folder, dtype="float32")
    pairs = Dataset.from_list(
        [{"prompt": PROMPTS[i], "chosen": COMPLETIONS[i], "rejected": COMPLETIONS[i + 1]} for i in (0, 4, 8)]
    )
    chosen, rejected = scorer.score_pairs(pairs)
    assert chosen == pytest.approx(
        scorer([PROMPTS[i] for i in (0, 4, 8)], [COMPLETIONS[i] for i in (0, 4, 8)]), abs=1e-4
    )
    assert rejected == pytest.approx(
        scorer([PROMPTS[i] for i in (0, 4, 8)], [COMPLETIONS[i + 1] for i in (0, 4, 8)]), abs=1e-4
    )


def test_long_texts_lose_their_beginning(folder):
    scorer = RewardModel(folder, dtype="float32", max_length=20)
    ids = token_ids(scorer.tokenizer, PROMPTS[9], COMPLETIONS[9])
    assert len(ids) > 20
    assert scorer(PROMPTS[9:], COMPLETIONS[9:]) == pytest.approx(score_texts(scorer.model, [ids[-20:]]), abs=1e-6)


def test_scores_are_standardized_where_the_folder_says_how(folders, tmp_path):
    folder = tmp_path / "copy"
    folder.mkdir()
    for file in folders["llama"].iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    raw = RewardModel(str(folder), dtype="float32")(PROMPTS, COMPLETIONS)
    (folder / STATISTICS).write_text(json.dumps({"mean": 2.0, "std": 4.0}))
    standardized = RewardModel(str(folder), dtype="float32")(PROMPTS, COMPLETIONS)
    assert standardized == pytest.approx([(score - 2.0) / 4.0 for score in raw], abs=1e-4)
    assert RewardModel(str(folder), dtype="float32", standardize=False)(PROMPTS, COMPLETIONS) == raw
    (folder / STATISTICS).write_text("{}")
    with pytest.raises(RewardError, match="does not hold"):
        RewardModel(str(folder))
    (folder / STATISTICS).unlink()
    with pytest.raises(RewardError, match="does not hold"):
        RewardModel(str(folder), standardize=True)


def test_it_is_loaded_by_folder_and_has_a_name(folder):
    reward = load_reward(folder, task=SimpleNamespace(reward_functions={}), model_options={"dtype": "float32"})
    assert reward.__name__ == "reward_model"
    assert reward(PROMPTS, COMPLETIONS, reference=["r"] * 10) == RewardModel(folder, dtype="float32")(
        PROMPTS, COMPLETIONS
    )


def test_an_adapter_with_a_score_head_is_merged(folder, tmp_path):
    torch.manual_seed(0)
    base = load_reward_model(folder, dtype="float32")
    config = LoraConfig(task_type="SEQ_CLS", target_modules="all-linear", modules_to_save=["score"])
    adapted = get_peft_model(base, config)
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name or "modules_to_save" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    adapted.save_pretrained(tmp_path / "adapter")
    tokenizer = load_tokenizer(folder)
    texts = [token_ids(tokenizer, p, c) for p, c in zip(PROMPTS, COMPLETIONS, strict=True)]
    prepare_for_scoring(adapted.get_base_model(), tokenizer)
    with torch.no_grad():
        expected = [float(adapted.eval()(input_ids=torch.tensor([ids])).logits[0, 0]) for ids in texts]
    reward = load_reward(str(tmp_path / "adapter"), model_options={"dtype": "float32"})
    assert reward(PROMPTS, COMPLETIONS) == pytest.approx(expected, abs=1e-4)


def test_what_cannot_be_scored_with(tiny_llama, tmp_path):
    model, tokenizer = load_reward_model(tiny_llama, dtype="float32"), load_tokenizer(tiny_llama)
    save_model(model, tokenizer, tmp_path / "rm", merge=False)
    (tmp_path / "rm" / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="safetensors"):
        load_reward(str(tmp_path / "rm"))
