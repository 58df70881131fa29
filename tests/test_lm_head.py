"""The LM head that skips prompts gives the losses and gradients of the one that does not."""

import torch
import trl.trainer.utils
from trl.trainer.utils import add_fused_lm_head

from rlgen.lm_head import project_labelled_tokens_only
from rlgen.models import load_policy


def loss_and_gradient(folder: str) -> tuple[torch.Tensor, torch.Tensor]:
    model = load_policy(folder, dtype="float32")
    add_fused_lm_head(model)
    ids = torch.arange(5, 25).reshape(2, 10)
    labels = ids.clone()
    labels[0, :7] = labels[1, :4] = -100
    loss = model(input_ids=ids, labels=labels, fused_lm_head=True).loss
    loss.backward()
    return loss.detach(), model.get_input_embeddings().weight.grad


def test_losses_and_gradients_are_the_same(tiny_llama, monkeypatch):
    def before(device):  # as TRL has it on a CPU; an earlier test may have run a recipe, which replaces it for good
        return False

    monkeypatch.setattr(trl.trainer.utils, "_use_triton", before)
    expected = loss_and_gradient(tiny_llama)
    project_labelled_tokens_only()
    project_labelled_tokens_only()  # once is enough, twice does no harm
    assert trl.trainer.utils._use_triton(torch.device("cpu"))
    assert trl.trainer.utils._use_triton is not before
    measured = loss_and_gradient(tiny_llama)
    for left, right in zip(expected, measured, strict=True):
        torch.testing.assert_close(left, right, atol=1e-6, rtol=1e-5)
