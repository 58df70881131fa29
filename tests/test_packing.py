"""Examples that are packed into one row train as if each stood alone; where they would not, packing is refused."""

import pytest
import torch
from datasets import Dataset
from trl import SFTTrainer

from recipes.sft import SFTArguments
from rlgen.errors import ConfigError
from rlgen.models import load_policy, load_tokenizer
from rlgen.packing import check_packing

ROWS = Dataset.from_dict(
    {
        "prompt": [f"Say number {i}" + " please" * (i % 3) for i in range(6)],
        "completion": [f" It is {i}" + " indeed" * (i % 2) for i in range(6)],
    }
)


def trainer(folder, output, attention, **settings):
    args = SFTArguments(
        output_dir=str(output),
        eval_strategy="no",
        bf16=False,
        per_device_train_batch_size=8,
        max_length=64,
        **settings,
    )
    return SFTTrainer(
        model=load_policy(folder, dtype="float32", attn_implementation=attention),
        args=args,
        train_dataset=ROWS,
        processing_class=load_tokenizer(folder),
    )


def loss_and_gradient(trainer, tokens):
    batch = trainer.data_collator([dict(row) for row in trainer.train_dataset])
    model = trainer.model.eval()
    loss = trainer.compute_loss(model, batch, num_items_in_batch=tokens)
    loss.backward()
    return loss.detach(), model.get_input_embeddings().weight.grad.clone()


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_packed_rows_give_the_loss_and_gradient_of_single_ones(tiny, tmp_path, attention):
    plain = trainer(tiny, tmp_path / "plain", attention)
    packed = trainer(tiny, tmp_path / "packed", attention, packing=True)
    assert len(packed.train_dataset) < len(plain.train_dataset) == 6
    counts = [sum(label != -100 for row in t.train_dataset for label in row["labels"]) for t in (plain, packed)]
    assert counts[0] == counts[1]  # completion-only loss is kept
    expected, measured = (loss_and_gradient(t, counts[0]) for t in (plain, packed))
    torch.testing.assert_close(measured[0], expected[0], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(measured[1], expected[1], atol=1e-6, rtol=1e-4)


def test_wrapped_rows_do_not(tiny_llama, tmp_path):
    plain = trainer(tiny_llama, tmp_path / "plain", "sdpa")
    wrapped = trainer(tiny_llama, tmp_path / "wrapped", "sdpa", packing=True, packing_strategy="wrapped")
    losses = [loss_and_gradient(t, 1)[0] for t in (plain, wrapped)]
    assert abs(losses[0] - losses[1]) > 1e-4


def test_wrapped_rows_are_warned_about(tmp_path, caplog):
    with caplog.at_level("WARNING", logger="rlgen.controls"):
        SFTArguments(output_dir=str(tmp_path), packing=True, packing_strategy="wrapped", bf16=False)
    assert "lets them see each other" in caplog.text


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_check_passes_where_packing_is_sound(tiny, attention, dtype):
    model = load_policy(tiny, dtype=dtype, attn_implementation=attention).train()
    check_packing(model, model.config.vocab_size)
    assert model.training


def test_the_check_fails_where_examples_see_each_other(tiny_llama):
    class Careless(torch.nn.Module):
        """Reads positions, but not where an example begins."""

        def __init__(self):
            super().__init__()
            self.inner = load_policy(tiny_llama, dtype="float32")

        def forward(self, input_ids, position_ids, use_cache):
            mask = torch.ones_like(input_ids)
            return self.inner(input_ids=input_ids, position_ids=position_ids, attention_mask=mask)

    with pytest.raises(ConfigError, match="examples of a packed row see each other"):
        check_packing(Careless(), 1024)


def test_the_check_fails_where_there_are_no_positions(tiny_llama):
    class Positionless(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(1))

        def forward(self, input_ids, use_cache):
            raise AssertionError

    with pytest.raises(ConfigError, match="takes no position_ids"):
        check_packing(Positionless(), 1024)
