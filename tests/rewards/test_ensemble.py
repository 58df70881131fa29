"""Ensembles: the same numbers as their members alone, one base in memory, and clear errors."""

import json
import statistics

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    BertModel,
    PreTrainedTokenizerFast,
)
from trl import RewardConfig, RewardTrainer

from rlgen.config import ModelArguments, TaskArguments
from rlgen.errors import ConfigError, DataError, ModelError, RewardError
from rlgen.models import load_reward_model, load_tokenizer, resolve_model, save_model
from rlgen.pairing import PairArguments, obtain_pairs
from rlgen.rewards import load_reward
from rlgen.rewards.ensemble import ENSEMBLE, RewardEnsemble, is_ensemble, read_ensemble, write_ensemble
from rlgen.rewards.model import STATISTICS, RewardModel, load_model_reward, token_ids
from rlgen.rewards.training import (
    bootstrap_groups,
    record_statistics,
    tokenized_pairs,
    train_ensemble,
    train_reward_model,
    with_margins,
)
from rlgen.runs import open_run

WORDS = "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi omicron pi".split()
PROMPTS = [[{"role": "user", "content": f"Say {word}."}] for word in WORDS[:6] for _ in range(2)]
COMPLETIONS = [[{"role": "assistant", "content": f"It is {word}, and {i}."}] for i, word in enumerate(WORDS[:12])]
PAIRS = Dataset.from_list(
    [
        {
            "prompt": [{"role": "user", "content": f"Say {word}."}],
            "chosen": [{"role": "assistant", "content": f"It is {word}."}],
            "rejected": [{"role": "assistant", "content": "No no no."}],
        }
        for word in WORDS
    ]
)


@pytest.fixture(scope="session")
def tiny_bert(tmp_path_factory):
    """An encoder with a tokenizer of whole words."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    folder = tmp_path_factory.mktemp("bert")
    special = ["[PAD]", "[CLS]", "[SEP]", "[UNK]"]
    vocabulary = {word: i for i, word in enumerate([*special, *WORDS, "Say", "It", "is", "No", "no", ".", ",", "and"])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 2), ("[CLS]", 1))
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        cls_token="[CLS]",
        sep_token="[SEP]",
        pad_token="[PAD]",
        unk_token="[UNK]",
        model_max_length=32,
    )
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=32,
        pad_token_id=0,
    )
    BertModel(config, add_pooling_layer=False).save_pretrained(folder)  # as many encoders come: without a pooler
    wrapped.save_pretrained(folder)
    return str(folder)


def make_ensemble(base, folder, members=3):
    """Adapters with random weights and heads, as plain peft saves them."""
    names = [f"member_{i}" for i in range(members)]
    tokenizer = load_tokenizer(base)
    for number, name in enumerate(names):
        torch.manual_seed(10 + number)
        fan = any(type(m).__name__ == "Conv1D" for m in load_reward_model(base, dtype="float32").modules())
        config = LoraConfig(
            task_type="SEQ_CLS", target_modules="all-linear", modules_to_save=["score"], r=4, fan_in_fan_out=fan
        )
        adapted = get_peft_model(load_reward_model(base, dtype="float32"), config)
        for parameter_name, parameter in adapted.named_parameters():
            if "lora_B" in parameter_name or "modules_to_save" in parameter_name:
                torch.nn.init.normal_(parameter, std=0.2)
        save_model(adapted, tokenizer, folder / name, merge=False)
        record = {"mean": 0.1 * number, "std": 1.0 + number, "n": 2}
        (folder / name / STATISTICS).write_text(json.dumps(record))
    write_ensemble(folder, resolve_model(base), names)
    return folder


@pytest.fixture(scope="module")
def ensembles(tiny_llama, tiny_gpt2, tmp_path_factory):
    sources = {"llama": tiny_llama, "gpt2": tiny_gpt2}
    return {name: make_ensemble(base, tmp_path_factory.mktemp(name)) for name, base in sources.items()}


@pytest.fixture(params=["llama", "gpt2"])
def ensemble(request, ensembles):
    return ensembles[request.param]


def member_alone(base, folder, name):
    """Raw scores of one member, loaded with plain transformers and peft, a text at a time."""
    model = AutoModelForSequenceClassification.from_pretrained(base, num_labels=1, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(folder / name)
    model.config.pad_token_id = tokenizer.pad_token_id
    adapted = PeftModel.from_pretrained(model, str(folder / name)).eval()
    scores = []
    for prompt, completion in zip(PROMPTS, COMPLETIONS, strict=True):
        ids = torch.tensor([token_ids(tokenizer, prompt, completion)])
        with torch.no_grad():
            scores.append(adapted(input_ids=ids, attention_mask=torch.ones_like(ids)).logits.item())
    return scores


def test_members_and_aggregates_equal_a_hand_computation(ensemble):
    base, names = read_ensemble(ensemble)
    raw = [member_alone(base, ensemble, name) for name in names]
    expected = [[(s - 0.1 * i) / (1.0 + i) for s in scores] for i, scores in enumerate(raw)]
    loaded = RewardEnsemble(str(ensemble), dtype="float32")
    members = loaded.member_scores(PROMPTS, COMPLETIONS)
    for mine, theirs in zip(members, expected, strict=True):
        assert mine == pytest.approx(theirs, abs=1e-4)
    assert len({round(scores[0], 3) for scores in members}) == 3  # they do differ
    columns = list(zip(*expected, strict=True))
    by_hand = {
        "mean": [sum(c) / 3 for c in columns],
        "worst": [min(c) for c in columns],
        "uncertainty": [statistics.fmean(c) - 0.7 * statistics.pvariance(c) for c in columns],
    }
    for how, values in by_hand.items():
        loaded.aggregate, loaded.uncertainty_coef = how, 0.7
        assert loaded(PROMPTS, COMPLETIONS) == pytest.approx(values, abs=1e-3)
    assert RewardEnsemble(str(ensemble), dtype="float32", standardize=False).member_scores(PROMPTS, COMPLETIONS)[
        1
    ] == pytest.approx(raw[1], abs=1e-4)


def test_the_base_is_in_memory_once(ensembles):
    loaded = RewardEnsemble(str(ensembles["llama"]), dtype="bfloat16")
    single = RewardModel(str(ensembles["llama"] / "member_0"), dtype="bfloat16")
    total = sum(p.numel() * p.element_size() for p in loaded.model.parameters())
    alone = sum(p.numel() * p.element_size() for p in single.model.parameters())
    extra = sum(p.numel() for n, p in loaded.model.named_parameters() if "lora_" in n or "modules_to_save" in n)
    assert total == alone + 2 * extra  # and the adapters are in bfloat16, too
    assert not any(p.requires_grad for n, p in loaded.model.named_parameters() if "lora_" in n)


@pytest.mark.parametrize("batch_size", [1, 3, 16])
def test_neither_batch_nor_order_change_a_score(ensembles, batch_size):
    loaded = RewardEnsemble(str(ensembles["llama"]), dtype="float32", batch_size=batch_size, aggregate="worst")
    scores = loaded(PROMPTS, COMPLETIONS)
    assert loaded(PROMPTS[::-1], COMPLETIONS[::-1]) == pytest.approx(scores[::-1], abs=1e-4)
    assert [loaded([p], [c])[0] for p, c in zip(PROMPTS, COMPLETIONS, strict=True)] == pytest.approx(scores, abs=1e-4)


def test_an_ensemble_is_a_reward_like_any_other(ensembles):
    folder = str(ensembles["llama"])
    assert is_ensemble(folder)
    reward = load_reward(folder, model_options={"dtype": "float32", "aggregate": "worst"})
    assert reward.__name__ == "reward_ensemble"
    expected = RewardEnsemble(folder, dtype="float32", aggregate="worst")(PROMPTS, COMPLETIONS)
    assert reward(PROMPTS, COMPLETIONS, reference=["r"] * 12) == expected
    assert type(load_model_reward(folder + "/member_1", aggregate="worst", dtype="float32")) is RewardModel


def test_a_folder_that_moved_finds_the_base_inside(tiny_llama, tmp_path):
    import shutil

    shutil.copytree(tiny_llama, tmp_path / "old" / "base")
    make_ensemble(str(tmp_path / "old" / "base"), tmp_path / "old", members=2)
    before = RewardEnsemble(str(tmp_path / "old"), dtype="float32")(PROMPTS, COMPLETIONS)
    (tmp_path / "old").rename(tmp_path / "new")
    assert RewardEnsemble(str(tmp_path / "new"), dtype="float32")(PROMPTS, COMPLETIONS) == before


def test_what_is_no_ensemble(ensembles, tiny_llama, tiny_gpt2, tmp_path):
    with pytest.raises(RewardError, match=r"holds no ensemble.*--num_members"):
        RewardEnsemble(tiny_llama)
    with pytest.raises(ConfigError, match="aggregate must be"):
        RewardEnsemble(str(ensembles["llama"]), aggregate="best")
    (tmp_path / ENSEMBLE).write_text('{"members": []')
    with pytest.raises(RewardError, match="cannot be read"):
        load_reward(str(tmp_path))
    write_ensemble(tmp_path, tiny_llama, [])
    with pytest.raises(RewardError, match="at least one member"):
        RewardEnsemble(str(tmp_path))
    write_ensemble(tmp_path, tiny_llama, ["member_0"])
    with pytest.raises(RewardError, match="holds no adapter"):
        RewardEnsemble(str(tmp_path))


def test_members_of_different_bases_or_shapes(ensembles, tiny_gpt2, tmp_path):
    import shutil

    shutil.copytree(ensembles["llama"], tmp_path / "mixed")
    shutil.copytree(ensembles["gpt2"] / "member_0", tmp_path / "mixed" / "member_1", dirs_exist_ok=True)
    with pytest.raises(RewardError, match="different bases"):
        RewardEnsemble(str(tmp_path / "mixed"))
    config = json.loads((ensembles["llama"] / "member_0" / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = tiny_gpt2
    for name in ("member_0", "member_1", "member_2"):
        (tmp_path / "mixed" / name / "adapter_config.json").write_text(json.dumps(config))
    write_ensemble(tmp_path / "mixed", tiny_gpt2, ["member_0"])
    with pytest.raises(RewardError, match="cannot be put on their base"):
        RewardEnsemble(str(tmp_path / "mixed"))


# Training


def arguments(folder, **changes):
    values = {
        "report_to": "none",
        "bf16": False,
        "use_cpu": True,
        "max_steps": 2,
        "per_device_train_batch_size": 4,
        "learning_rate": 1e-2,
        "save_strategy": "no",
        "disable_tqdm": True,
        **changes,
    }
    return RewardConfig(str(folder), **values)


def test_members_are_trained_once_and_differ(tiny_llama, tmp_path, monkeypatch):
    tokenizer = load_tokenizer(tiny_llama)
    model_args = ModelArguments(model_name_or_path=tiny_llama, dtype="float32", lora_r=4)
    run = open_run(tmp_path, stage="reward", config={})
    trained = []
    real = train_reward_model

    def interrupted(run, *positional, **named):
        trained.append(run.path.name)
        if len(trained) == 2:
            raise KeyboardInterrupt
        return real(run, *positional, **named)

    monkeypatch.setattr("rlgen.rewards.training.train_reward_model", interrupted)
    settings = (arguments(tmp_path), model_args, tiny_llama, tokenizer, PAIRS)
    with pytest.raises(KeyboardInterrupt):
        train_ensemble(run, 3, *settings, bootstrap=True)
    assert not is_ensemble(tmp_path)
    metrics = train_ensemble(run, 3, *settings, bootstrap=True)
    assert trained == ["member_0", "member_1", "member_1", "member_2"]
    assert len(metrics) == 3
    ensemble = RewardEnsemble(str(tmp_path), dtype="float32")
    scores = ensemble.member_scores(PROMPTS, COMPLETIONS)
    assert len({round(s[0], 4) for s in scores}) == 3
    alone = member_alone(tiny_llama, tmp_path, "member_1")
    mean, deviation = ensemble.statistics[1]
    assert scores[1] == pytest.approx([(s - mean) / deviation for s in alone], abs=1e-3)


def test_an_ensemble_of_whole_models_or_of_one_is_refused(tiny_llama, tmp_path):
    run = open_run(tmp_path, stage="reward", config={})
    for members, use_peft, message in ((1, True, "at least 2"), (2, False, "adapters on one base")):
        with pytest.raises(ConfigError, match=message):
            train_ensemble(
                run, members, arguments(tmp_path), ModelArguments(use_peft=use_peft), tiny_llama, None, PAIRS
            )


@pytest.mark.parametrize("use_peft", [True, False])
def test_an_encoder_learns_and_is_loaded_by_plain_transformers(tiny_bert, tmp_path, use_peft):
    tokenizer = load_tokenizer(tiny_bert, needs_eos=False)
    run = open_run(tmp_path, stage="reward", config={})
    model_args = ModelArguments(dtype="float32", use_peft=use_peft, **({"lora_r": 4} if use_peft else {}))
    args = arguments(tmp_path, max_steps=12)
    train_reward_model(run, args, model_args, tiny_bert, tokenizer, PAIRS)
    record_statistics(tmp_path, PAIRS)
    scorer = RewardModel(str(tmp_path), dtype="float32", standardize=False)
    chosen, rejected = scorer.score_pairs(PAIRS)
    assert sum(a > b for a, b in zip(chosen, rejected, strict=True)) == len(PAIRS)
    plain = AutoModelForSequenceClassification.from_pretrained(tmp_path, dtype=torch.float32).eval()
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    pair = loaded(PAIRS[0]["prompt"][0]["content"], PAIRS[0]["chosen"][0]["content"], return_tensors="pt")
    with torch.no_grad():
        score = plain(input_ids=pair["input_ids"], attention_mask=pair["attention_mask"]).logits.item()
    assert score == pytest.approx(chosen[0], abs=1e-4)
    statistics_file = json.loads((tmp_path / STATISTICS).read_text())
    assert statistics_file["mean"] == pytest.approx(statistics.fmean(chosen + rejected), abs=0.01)  # bfloat16, maybe


def test_a_random_pooler_is_saved_with_a_member(tiny_bert, tmp_path):
    run = open_run(tmp_path, stage="reward", config={})
    args = arguments(tmp_path)
    train_ensemble(
        run,
        2,
        args,
        ModelArguments(dtype="float32", lora_r=4),
        tiny_bert,
        load_tokenizer(tiny_bert, needs_eos=False),
        PAIRS,
    )
    first, second = (RewardEnsemble(str(tmp_path), dtype="float32").member_scores(PROMPTS, COMPLETIONS) for _ in "ab")
    assert first == second  # although the base's own pooler is another one each time
    assert first[0] != first[1]


def test_an_encoder_reads_pairs_and_cuts_the_prompt(tiny_bert):
    tokenizer = load_tokenizer(tiny_bert, needs_eos=False)
    prompt, completion = [{"role": "user", "content": "Say alpha beta gamma."}], "It is beta ."
    whole = tokenizer.convert_ids_to_tokens(token_ids(tokenizer, prompt, completion))
    assert whole == "[CLS] Say alpha beta gamma . [SEP] It is beta . [SEP]".split()
    cut = tokenizer.convert_ids_to_tokens(token_ids(tokenizer, prompt, completion, max_length=9))
    assert cut == "[CLS] gamma . [SEP] It is beta . [SEP]".split()
    short = tokenizer.convert_ids_to_tokens(token_ids(tokenizer, prompt, completion, max_length=4))
    assert short == "[CLS] [SEP] It [SEP]".split()
    rows = tokenized_pairs(with_margins(PAIRS, 0.0), tokenizer, 9)
    assert rows.column_names == ["chosen_ids", "rejected_ids"]
    assert RewardModel(tiny_bert, dtype="float32").max_length == 32


def test_an_encoder_cannot_write(tiny_bert, tmp_path):
    with pytest.raises(ModelError, match="no eos token"):
        load_tokenizer(tiny_bert)
    with pytest.raises(ConfigError, match=r"is an encoder and cannot sample answers; give pairs"):
        obtain_pairs(
            tmp_path,
            tiny_bert,
            load_tokenizer(tiny_bert, needs_eos=False),
            arguments(tmp_path),
            PairArguments(),
            TaskArguments(),
            ModelArguments(),
        )


# Margins


def loss_of(folder, rows, model, tokenizer, coefficient=None):
    args = arguments(folder, center_rewards_coefficient=coefficient)
    trainer = RewardTrainer(model, args, train_dataset=rows, processing_class=tokenizer)
    batch = trainer.data_collator([trainer.train_dataset[i] for i in range(len(rows))])
    with torch.no_grad():
        return trainer.compute_loss(trainer.model.eval(), batch).item()


@pytest.mark.parametrize("coefficient", [None, 0.3])
def test_margins_change_the_loss_as_the_formula_says(tiny_llama, tmp_path, coefficient):
    torch.manual_seed(0)
    model, tokenizer = load_reward_model(tiny_llama, dtype="float32"), load_tokenizer(tiny_llama)
    torch.nn.init.normal_(model.score.weight)
    pairs = PAIRS.select(range(4)).add_column("margin", [0.0, 1.0, -0.5, 4.0])
    scores = []
    model.config.pad_token_id = tokenizer.pad_token_id
    for name in ("chosen", "rejected"):
        ids = [torch.tensor([token_ids(tokenizer, row["prompt"], row[name])]) for row in pairs]
        with torch.no_grad():
            scores.append([model.eval()(input_ids=i).logits.item() for i in ids])
    for scale in (0.0, 0.5):
        terms = []
        for chosen, rejected, margin in zip(*scores, pairs["margin"], strict=True):
            difference = torch.tensor(chosen - rejected - scale * margin, dtype=torch.float64)
            terms.append(torch.log1p(torch.exp(-difference)).item() + (coefficient or 0.0) * (chosen + rejected) ** 2)
        loss = loss_of(tmp_path, with_margins(pairs, scale), model, tokenizer, coefficient)
        assert loss == pytest.approx(statistics.fmean(terms), abs=1e-4)


def test_margins_come_from_a_column_or_from_scores():
    assert with_margins(PAIRS, 0.0).column_names == ["prompt", "chosen", "rejected"]
    scored = PAIRS.select(range(2)).add_column("chosen_score", [1.0, None]).add_column("rejected_score", [0.25, 0.0])
    assert with_margins(scored, 2.0)["margin"][:] == [1.5, 0.0]
    with pytest.raises(DataError, match=r"needs a column 'margin'"):
        with_margins(PAIRS, 1.0)
    for bad in (None, float("nan")):
        with pytest.raises(DataError, match="row 1 of the pairs has the margin"):
            with_margins(PAIRS.select(range(2)).add_column("margin", [1.0, bad]), 1.0)


def test_a_bootstrap_draws_whole_prompts():
    doubled = Dataset.from_list([{**row, "n": i} for i, row in enumerate([*PAIRS, *PAIRS])])
    drawn = bootstrap_groups(doubled, 3)["n"]
    assert len(drawn) == len(doubled)
    assert sorted(n for n in drawn if n < 16) == sorted(n - 16 for n in drawn if n >= 16)
    assert len(set(drawn)) < len(doubled)
    assert bootstrap_groups(doubled, 3)["n"][:] == drawn[:]
    assert bootstrap_groups(doubled, 4)["n"][:] != drawn[:]
