"""Every way of tuning: exactly what it should train trains, and what is saved loads as the same model."""

import itertools
import json
import re
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from peft import AutoPeftModelForCausalLM, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM
from trl import SFTConfig, SFTTrainer

from rlgen.config import ModelArguments
from rlgen.errors import ConfigError, ModelError
from rlgen.models import can_merge, load_masked_model, load_policy, load_tokenizer, save_model, starting_model
from rlgen.runs import open_run
from rlgen.strategies import BASE_CHANGING_INITS, NEUTRAL_INITS, STAGES, STRATEGIES, check_tuning
from rlgen.tiny import tiny_model
from rlgen.tuning import loading_options, start_tuning
from rlgen.tuning_callbacks import GradualUnfreezing, tuning_callbacks

ROWS = Dataset.from_dict({"prompt": [f"Say {i}." for i in range(8)], "completion": [f" It is {i}." for i in range(8)]})
LAYER_MAPS = r"layers\.\d\.(self_attn\.[qkvo]|mlp\.(gate|up|down))_proj\."

# What trains, as a pattern of whole parameter names; written from the methods' papers, not from our code.
LLAMA = {
    "full": r".*",
    "gradual": r".*",
    "head": r"lm_head\.weight",
    "lora": rf".*{LAYER_MAPS}lora_[AB]\..*",
    "rslora": rf".*{LAYER_MAPS}lora_[AB]\..*",
    "dora": rf".*{LAYER_MAPS}lora_([AB]|magnitude_vector)\..*",
    "qlora": rf".*{LAYER_MAPS}lora_[AB]\..*",
    "vera": rf".*{LAYER_MAPS}vera_lambda_[bd]\..*",
    "loha": rf".*{LAYER_MAPS}hada_w[12]_[ab]\..*",
    "lokr": rf".*{LAYER_MAPS}lokr_w[12](_[ab])?\..*",
    "ia3": r".*layers\.\d\.(self_attn\.[kv]|mlp\.down)_proj\.ia3_l\..*",
    "layer_norm": r".*norm\.ln_tuning_layers\.default\.weight",
    "beft": rf".*{LAYER_MAPS}beft_bias\..*",
    "houlsby": r".*(self_attn\.o|mlp\.down)_proj\.bottleneck_(down|up)\.default\.(weight|bias)",
    "pfeiffer": r".*mlp\.down_proj\.bottleneck_(down|up)\.default\.(weight|bias)",
    "prompt_tuning": r"prompt_encoder\.default\.embedding\.weight",
    "p_tuning": r"prompt_encoder\.default\.(embedding|mlp_head\.\d)\.(weight|bias)",
    "prefix_tuning": r"prompt_encoder\.default\.embedding\.weight",
}
GPT2 = {
    "head": r"lm_head\.weight",
    "bitfit": r".*\.bias",
    "lora": r".*h\.\d\.(attn\.c_(attn|proj)|mlp\.c_(fc|proj))\.lora_[AB]\..*",
    "ia3": r".*h\.\d\.(attn\.c_attn|mlp\.c_proj)\.ia3_l\..*",
    "layer_norm": r".*ln_(1|2|f)\.ln_tuning_layers\.default\.(weight|bias)",
    "houlsby": r".*(attn|mlp)\.c_proj\.bottleneck_(down|up)\.default\.(weight|bias)",
    "prefix_tuning": r"prompt_encoder\.default\.embedding\.weight",
}
CASES = [("llama", name) for name in LLAMA] + [("gpt2", name) for name in GPT2]


def arguments(name: str, **more) -> ModelArguments:
    settings = {"bottleneck_size": 8} if "bottleneck_size" in STRATEGIES[name].settings else {}
    settings |= {"prompt_tokens": 5} if STRATEGIES[name].kind == "prompt" else {}
    if "lora_r" in STRATEGIES[name].settings:
        settings["lora_r"] = 4
    return ModelArguments(tuning=name, **settings, **more)


def sft(folder: str, args: ModelArguments, output_dir: Path, steps: int = 3) -> SFTTrainer:
    """A trainer as the recipe makes it."""
    torch.manual_seed(0)
    model = load_policy(folder, dtype="float32", **loading_options(args))
    adapter = start_tuning(args, model)
    settings = SFTConfig(
        output_dir=str(output_dir / "run"),
        max_steps=steps,
        per_device_train_batch_size=4,
        learning_rate=1e-2,
        lr_scheduler_type="constant",
        bf16=False,
        use_cpu=True,
        gradient_checkpointing=False,
        report_to="none",
        save_strategy="no",
        logging_steps=1,
        disable_tqdm=True,
    )
    run = open_run(output_dir / "run", stage="sft", config={})
    return SFTTrainer(
        model,
        settings,
        train_dataset=ROWS,
        processing_class=load_tokenizer(folder),
        peft_config=adapter,
        callbacks=tuning_callbacks(args, run),
    )


def weights(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def changed(before: dict[str, torch.Tensor], model: torch.nn.Module) -> set[str]:
    after = weights(model)
    assert before.keys() == after.keys()
    return {name for name in before if not torch.equal(before[name], after[name])}


def logits(model: torch.nn.Module) -> torch.Tensor:
    """Of the real tokens; a virtual prompt has outputs of its own."""
    with torch.no_grad():
        return model.eval()(torch.tensor([[5, 6, 7, 8]])).logits[:, -4:]


@pytest.mark.parametrize(("family", "name"), CASES)
def test_exactly_the_intended_parameters_change_and_survive_saving(family, name, request, tmp_path):
    folder, pattern = request.getfixturevalue(f"tiny_{family}"), {"llama": LLAMA, "gpt2": GPT2}[family][name]
    trainer = sft(folder, arguments(name, **({"unfreeze_until": 0.4} if name == "gradual" else {})), tmp_path)
    before = weights(trainer.model)
    trainer.train()
    intended = {parameter for parameter in before if re.fullmatch(pattern, parameter)}
    assert intended
    assert changed(before, trainer.model) == intended

    report = json.loads((tmp_path / "run" / "run.json").read_text())["tuning"]
    assert report["strategy"] == name
    assert report["trainable_parameters"] == sum(before[parameter].numel() for parameter in intended)
    moments = 2 * sum(before[parameter].nbytes for parameter in intended)
    assert report["optimizer_bytes"] == pytest.approx(moments, abs=4 * len(intended))  # and a step count each

    expected = logits(trainer.model)
    start = load_policy(folder, dtype="float32", **loading_options(arguments(name)))
    rounding = 0.03 if name == "qlora" else 1e-5  # TRL trains adapters on a quantized base in bfloat16
    assert (expected - logits(start)).abs().max() > 10 * rounding
    tokenizer = load_tokenizer(folder)
    save_model(trainer.model, tokenizer, tmp_path / "saved", merge=False)
    size = sum(file.stat().st_size for file in (tmp_path / "saved").glob("*.safetensors"))
    assert report["checkpoint_bytes"] == pytest.approx(size, abs=16_000)  # the rest is the file's header
    loaded = load_policy(str(tmp_path / "saved"), dtype="float32", **loading_options(arguments(name)))
    torch.testing.assert_close(logits(loaded), expected, atol=rounding, rtol=1e-4)
    plain = AutoPeftModelForCausalLM if STRATEGIES[name].kind != "weights" else AutoModelForCausalLM
    if name != "qlora":
        torch.testing.assert_close(logits(plain.from_pretrained(tmp_path / "saved")), expected, atol=1e-5, rtol=1e-4)
    if can_merge(trainer.model):
        save_model(trainer.model, tokenizer, tmp_path / "merged", merge=True)
        merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
        torch.testing.assert_close(logits(merged), expected, atol=1e-4, rtol=1e-3)


def test_every_strategy_has_a_case_here():
    assert set(LLAMA) | set(GPT2) == set(STRATEGIES)


@pytest.mark.parametrize("name", [name for name in LLAMA if "top_layers" in STRATEGIES[name].settings])
def test_with_top_layers_nothing_below_them_trains(tiny_llama, name):
    args = arguments(name, top_layers=1)
    model = load_policy(tiny_llama, dtype="float32", **loading_options(args))
    adapter = start_tuning(args, model)
    model = model if adapter is None else get_peft_model(model, adapter)
    trained = [parameter for parameter, value in model.named_parameters() if value.requires_grad]
    assert trained
    assert all("layers.3." in parameter for parameter in trained)


@pytest.mark.parametrize("init", [*NEUTRAL_INITS, "pissa", "pissa_niter_4", "olora", "loftq"])
def test_every_first_weights_of_lora_train_and_survive_merging(tiny_llama, tmp_path, init):
    if init == "loftq" and not torch.cuda.is_available():
        with pytest.raises(ConfigError, match="loftq is computed on a GPU"):
            check_tuning(arguments("lora", lora_init=init), "sft")
        return
    trainer = sft(tiny_llama, arguments("lora", lora_init=init), tmp_path, steps=2)
    start = load_policy(tiny_llama, dtype="float32")
    with torch.no_grad(), trainer.model.disable_adapter():
        off = (logits(trainer.model) - logits(start)).abs().max()
    assert (off > 1e-3) == (init.split("_niter_")[0] in BASE_CHANGING_INITS)
    trainer.train()
    expected = logits(trainer.model)
    save_model(trainer.model, load_tokenizer(tiny_llama), tmp_path / "merged", merge=True)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    torch.testing.assert_close(logits(loaded), expected, atol=1e-4, rtol=1e-3)


def test_layers_begin_to_train_from_the_top_down(tiny_llama, tmp_path):
    trainer = sft(tiny_llama, arguments("gradual", unfreeze_until=0.5), tmp_path, steps=8)
    seen = []

    class Watch(GradualUnfreezing):
        def on_step_end(self, args, state, control, model, **kwargs):
            grads = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
            lowest = min(int(found[1]) for name in grads if (found := re.search(r"layers\.(\d)\.", name)))
            seen.append((lowest, "model.embed_tokens.weight" in grads, "model.norm.weight" in grads))

    trainer.add_callback(Watch(0.5))
    trainer.train()
    assert [lowest for lowest, _, _ in seen] == [3, 2, 1, 0, 0, 0, 0, 0]
    assert [embeddings for _, embeddings, _ in seen] == [False] * 3 + [True] * 5
    assert all(norm for _, _, norm in seen)


def test_a_resumed_run_has_as_many_layers_as_an_uninterrupted_one():
    schedule = GradualUnfreezing(0.5)
    assert [schedule.layers_at(step, 8, 4) for step in range(8)] == [1, 2, 3, 4, 4, 4, 4, 4]
    assert schedule.layers_at(0, 1, 4) == 1


@pytest.mark.parametrize("name", ["prompt_tuning", "p_tuning", "prefix_tuning"])
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_our_decoding_and_scoring_honor_a_learned_prompt(family, name, request, tmp_path):
    """Greedy completions and their log-probabilities agree with PEFT's own forward pass, one row at a time."""
    from rlgen.generation import completion_logprobs, generate

    folder = request.getfixturevalue(f"tiny_{family}")
    trainer = sft(folder, arguments(name), tmp_path)
    trainer.train()
    save_model(trainer.model, load_tokenizer(folder), tmp_path / "saved", merge=False)
    model, tokenizer = load_policy(str(tmp_path / "saved"), dtype="float32").eval(), load_tokenizer(folder)
    common = "The same beginning of every prompt. " * 12  # long enough to be read once for all
    prompts = [common + "Say one.", common + "Say number two please.", "Say three.", common + "x"]
    for chosen in (prompts, prompts[:2]):
        greedy = generate(model, tokenizer, chosen, max_new_tokens=5, temperature=0, num_generations=2)
        tokens = [[one.token_ids for one in group] for group in greedy]
        scored = completion_logprobs(model, tokenizer, chosen, tokens)
        for prompt, group, numbers in zip(chosen, greedy, scored, strict=True):
            ids = tokenizer(prompt)["input_ids"]
            sequence = torch.tensor([ids + group[0].token_ids])
            with torch.no_grad():
                steps = model(input_ids=sequence, attention_mask=torch.ones_like(sequence)).logits[0]
            steps = steps[-len(sequence[0]) :].log_softmax(-1)[len(ids) - 1 : -1]
            assert steps.argmax(-1).tolist() == group[0].token_ids
            taken = steps.gather(1, torch.tensor(group[0].token_ids)[:, None])[:, 0]
            for found in (group[0].logprobs, numbers[0], numbers[1]):
                torch.testing.assert_close(torch.tensor(found), taken, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("name", ["houlsby", "prompt_tuning"])
def test_an_adapter_that_no_plain_model_can_hold_is_refused_as_a_start(tiny_llama, tmp_path, name):
    trainer = sft(tiny_llama, arguments(name), tmp_path, steps=1)
    save_model(trainer.model, load_tokenizer(tiny_llama), tmp_path / "saved", merge=True)
    assert isinstance(load_policy(str(tmp_path / "saved")), PeftModel)
    with pytest.raises(ModelError, match="which no plain model can take in"):
        starting_model(str(tmp_path / "saved"), tmp_path / "next")
    with pytest.raises(ModelError, match="which no plain model can take in"):
        load_policy(str(tmp_path / "saved"), merge=True)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("bitfit", "trains biases, and LlamaForCausalLM has none there: take beft"),
        ("loha", "does not know the transposed maps"),
    ],
)
def test_what_a_family_cannot_have_is_refused(tiny_llama, tiny_gpt2, name, message):
    model = load_policy(tiny_llama if name == "bitfit" else tiny_gpt2, dtype="float32")
    with pytest.raises(ConfigError, match=message):
        start_tuning(arguments(name), model)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tuning": "lorra"}, "there is no tuning strategy lorra: did you mean lora"),
        ({"tuning": "prefix-tuning-v2"}, "did you mean prefix_tuning"),
        ({"tuning": "houlsby", "use_peft": False}, "--use_peft false trains the model itself"),
        ({"tuning": "full", "use_dora": True}, "--use_dora is a kind of LoRA, --tuning full is not"),
        ({"tuning": "prompt_tuning", "top_layers": 2}, "does not read --top_layers; these do: full"),
        ({"tuning": "ia3", "lora_init": "pissa"}, "does not read --lora_init"),
        ({"tuning": "lora", "bottleneck_size": 8}, "these do: houlsby, pfeiffer"),
        ({"tuning": "full", "lora_modules_to_save": ["lm_head"]}, "does not read --lora_modules_to_save"),
        ({"tuning": "qlora", "lora_init": "olora"}, "which qlora has not: take lora"),
        ({"lora_init": "eva"}, "needs data of its own: take one of default"),
        ({"lora_init": "olora_niter_4"}, "only pissa takes a number of iterations"),
        ({"lora_init": "pissa_niter_x"}, "only pissa takes a number of iterations"),
    ],
)
def test_settings_that_contradict_the_strategy_are_one_clear_line(settings, message):
    with pytest.raises(ConfigError, match=re.escape(message)) as caught:
        ModelArguments(**settings)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "stage", "others", "message"),
    [
        ({"tuning": "prefix_tuning"}, "ppo", {"critic": "adapter"}, "must start as its reference; take full, gradual"),
        ({"tuning": "prompt_tuning"}, "dpo", {}, "must start as its reference; take full, gradual"),
        ({"tuning": "p_tuning"}, "reward", {}, "of which a prompt cannot be a part; take full"),
        ({"tuning": "qlora"}, "reward", {}, "cannot be kept in 4 bits; take full"),
        ({"tuning": "full"}, "ppo", {"critic": "adapter"}, "take --critic frozen, head or model, or --tuning lora"),
        ({"tuning": "prompt_tuning"}, "sft", {"packing": True}, "where --tuning prompt_tuning has one prompt"),
        ({"tuning": "prefix_tuning"}, "sft", {"gradient_checkpointing": True}, "take prompt_tuning"),
        ({"lora_init": "pissa"}, "ppo", {}, "changes the base model, but the reference is the model without"),
        ({"lora_init": "olora"}, "sft", {"merge": False}, "or --merge_adapter"),
    ],
)
def test_what_a_stage_cannot_have_fails_before_anything_is_loaded(settings, stage, others, message):
    with pytest.raises(ConfigError, match=re.escape(message)) as caught:
        check_tuning(ModelArguments(**settings), stage, **others)
    assert "\n" not in str(caught.value)


def test_an_evaluation_does_not_stop_the_gradients_of_qlora(tiny_llama):
    args = arguments("qlora")
    model = load_policy(tiny_llama, dtype="float32", **loading_options(args))
    model = get_peft_model(model, start_tuning(args, model))
    tokens = torch.tensor([[5, 6, 7, 8]])

    def gradients() -> dict[str, torch.Tensor]:
        model.zero_grad()
        model.train()(tokens, labels=tokens).loss.backward()
        return {name: value.grad.clone() for name, value in model.named_parameters() if value.grad is not None}

    before = gradients()
    logits(model)
    after = gradients()
    assert any(".layers.0." in name and value.abs().sum() > 0 for name, value in before.items())
    assert before.keys() == after.keys()
    for name, value in before.items():
        torch.testing.assert_close(after[name], value, msg=name)


def test_qlora_without_bitsandbytes_is_refused(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda *_: None)
    with pytest.raises(ConfigError, match="needs bitsandbytes, which is not installed"):
        check_tuning(ModelArguments(tuning="qlora"), "sft")


def test_gradual_unfreezing_is_for_one_process(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="runs in one process"):
        check_tuning(ModelArguments(tuning="gradual"), "sft")


@pytest.mark.parametrize(
    ("flags", "name"),
    [({}, "lora"), ({"use_peft": False}, "full"), ({"use_dora": True}, "dora"), ({"use_rslora": True}, "rslora")],
)
def test_the_older_flags_name_a_strategy(flags, name):
    assert ModelArguments(**flags).tuning == name
    assert ModelArguments(tuning=name).use_peft == (name != "full")


def test_every_combination_of_strategy_and_stage_is_allowed_or_refused_by_name(monkeypatch):
    monkeypatch.setattr("rlgen.strategies.require_bitsandbytes", lambda: None)
    for name, stage in itertools.product(STRATEGIES, STAGES):
        if stage in STRATEGIES[name].stages:
            check_tuning(ModelArguments(tuning=name), stage)
        else:
            with pytest.raises(ConfigError, match=f"--tuning {name} does not go with {stage}"):
                check_tuning(ModelArguments(tuning=name), stage)


def test_the_head_of_an_encoder_is_saved_with_its_bias(tmp_path):
    folder = tiny_model(tmp_path / "bert", "bert")
    model = load_masked_model(folder, dtype="float32")
    start_tuning(ModelArguments(tuning="head"), model)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape))
    tokens = torch.tensor([[5, 6, 7, 8]])
    expected = model.eval()(tokens).logits
    model.save_pretrained(tmp_path / "saved")
    loaded = load_masked_model(str(tmp_path / "saved"), dtype="float32")
    torch.testing.assert_close(loaded.eval()(tokens).logits, expected)
