"""PPO-ptx: which rows come when, what their tokens are, and their loss against an independent one."""

from collections import Counter
from types import SimpleNamespace

import pytest
import torch
from datasets import Dataset

from rlgen.errors import ConfigError, DataError
from rlgen.models import load_policy, load_tokenizer
from rlgen.ppo import PPOConfig
from rlgen.ppo.ptx import PTX


def nothing(prompts, completions, completion_ids, **_):
    return [0.0] * len(completions)


def ptx(folder, rows, *, process=0, processes=1, options=None, **settings) -> PTX:
    args = PPOConfig(use_cpu=True, bf16=False, ptx_coef=0.5, **settings)
    accelerator = SimpleNamespace(process_index=process, num_processes=processes, device=torch.device("cpu"))
    tokenizer = load_tokenizer(folder)
    return PTX(rows, tokenizer, args, accelerator, [tokenizer.eos_token_id], options or {})


def read(packed) -> list[tuple[int, ...]]:
    """Prompt and completion tokens of each row."""
    return [
        tuple(ids[segments >= 0].tolist()) for ids, segments in zip(packed.input_ids, packed.segment_ids, strict=True)
    ]


def test_each_pass_reads_every_row_once_in_an_order_of_its_own(tiny_llama, texts):
    rows = ptx(tiny_llama, texts, ptx_batch_size=4)
    read_so_far = [row for update in range(11) for row in read(rows.minibatch(update, 0)[0])]  # four passes over 11
    known = Counter(tuple(prompt + completion) for prompt, completion in rows.pairs)
    passes = [read_so_far[start : start + 11] for start in range(0, 44, 11)]
    assert all(Counter(rows_of_pass) == known for rows_of_pass in passes)
    assert passes[0] != passes[1]
    assert read(ptx(tiny_llama, texts, ptx_batch_size=4).minibatch(7, 0)[0]) == read_so_far[28:32]  # without state
    assert read(ptx(tiny_llama, texts, ptx_batch_size=4, seed=1).minibatch(0, 0)[0]) != read_so_far[:4]


def test_processes_and_accumulated_parts_share_the_update_among_them(tiny_llama, texts):
    whole, tokens = ptx(tiny_llama, texts, ptx_batch_size=8).minibatch(3, 0)
    split = []
    for part in range(2):
        for process in range(2):
            settings = {"process": process, "processes": 2, "gradient_accumulation_steps": 2}
            packed, all_tokens = ptx(tiny_llama, texts, ptx_batch_size=2, **settings).minibatch(3, part)
            assert all_tokens == tokens == int(whole.completion_mask.sum())
            split += read(packed)
    assert split == read(whole)


def test_rows_end_with_eos_and_begin_as_the_prompts_of_rollouts_do(tiny_llama, make_trainer, texts):
    chats = Dataset.from_list(
        [
            {
                "prompt": [{"role": "user", "content": row["prompt"]}],
                "completion": [{"role": "assistant", "content": row["completion"]}],
            }
            for row in texts
        ]
    )
    tokenizer = load_tokenizer(tiny_llama)
    for rows in (texts, chats):
        trainer = make_trainer(ptx=rows, ptx_coef=0.5)
        prompt_ids = trainer._tokenize_prompts(list(rows["prompt"]))[0]
        for (prompt, completion), expected, row in zip(trainer.ptx.pairs, prompt_ids, texts, strict=True):
            assert prompt == list(expected)
            assert completion.count(tokenizer.eos_token_id) == 1
            assert completion[-1] == tokenizer.eos_token_id
            assert tokenizer.decode(completion[:-1]) == row["completion"]


def test_long_rows_lose_their_end_and_hopeless_ones_are_left_out(tiny_llama, texts, caplog):
    lengths = [(len(prompt), len(completion)) for prompt, completion in ptx(tiny_llama, texts).pairs]
    prompt_length = max(prompt for prompt, _ in lengths)
    rows = ptx(tiny_llama, texts, ptx_max_length=prompt_length)
    kept = [(prompt, min(completion, prompt_length - prompt)) for prompt, completion in lengths]
    assert [(len(p), len(c)) for p, c in rows.pairs] == [pair for pair in kept if pair[1] > 0]
    assert len(rows.pairs) < len(texts)
    assert "ptx rows are left out" in caplog.text
    with pytest.raises(DataError, match="no ptx row has a prompt shorter than ptx_max_length = 2"):
        ptx(tiny_llama, texts, ptx_max_length=2)


def test_rows_of_two_kinds_are_an_error(tiny_llama):
    mixed = [{"prompt": "a", "completion": [{"role": "assistant", "content": "b"}]}]
    with pytest.raises(DataError, match="row 0 of the ptx rows mixes plain text and chat messages"):
        ptx(tiny_llama, mixed)
    with pytest.raises(DataError, match="row 0 of the ptx rows has an empty prompt"):
        ptx(tiny_llama, [{"prompt": "", "completion": "b"}])


def test_the_loss_is_the_cross_entropy_of_completion_tokens(tiny, texts):
    model = load_policy(tiny, dtype="float32")
    rows = ptx(tiny, texts, ptx_batch_size=3, gradient_accumulation_steps=2)
    total, tokens, losses = 0.0, 0, []
    for part in range(2):
        loss, mean = rows.loss(model, 1, part)
        packed, _ = rows.minibatch(1, part)
        of_part, count = 0.0, 0
        for n, ids in enumerate(read(packed)):
            start = int((packed.segment_ids[n] == 0).sum())
            with torch.no_grad():
                logprobs = model(torch.tensor([ids])).logits[0].double().log_softmax(-1)
            of_part -= sum(logprobs[t - 1, ids[t]].item() for t in range(start, len(ids)))
            count += len(ids) - start
        assert mean == pytest.approx(of_part / count, rel=1e-5)
        losses.append(float(loss.detach()))
        total, tokens = total + of_part, tokens + count
    assert sum(losses) == pytest.approx(0.5 * total / tokens, rel=1e-5)  # ptx_coef times the mean over the update


@pytest.mark.parametrize("lora", [True, False], ids=["lora", "full"])
def test_the_policy_learns_the_rows_beside_its_rewards(make_trainer, tools, texts, lora):
    rate = 1e-2 if lora else 3e-3
    trainer = make_trainer(
        lora=lora, ptx=texts, ptx_coef=1.0, ptx_batch_size=8, reward=nothing, max_steps=16, learning_rate=rate
    )
    trainer.train()
    losses = tools.logged(trainer, "loss/ptx")
    assert len(losses) == 16
    assert sum(losses[-3:]) / 3 < sum(losses[:3]) / 3 - 0.3


def test_rows_that_are_cached_below_train_as_if_they_were_not(make_trainer, tools, texts):
    weights = []
    for cached, depth in ((True, 2), (False, 0)):
        trainer = make_trainer(str(cached), ptx=texts, ptx_coef=0.5, cache_trunk=cached)
        trainer.train()
        assert trainer.trunk_depth == depth
        weights.append(tools.trained(trainer.model))
    assert tools.same(*weights, atol=1e-5, rtol=1e-4)


def test_a_weight_without_rows_or_rows_without_a_weight_are_an_error(make_trainer, texts):
    with pytest.raises(ConfigError, match=r"ptx_coef is 0.5, but there are no rows for it"):
        make_trainer(ptx_coef=0.5)
    with pytest.raises(ConfigError, match=r"ptx_coef is 0.0, but there are rows for it"):
        make_trainer(ptx=texts)
