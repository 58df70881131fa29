"""Decoding attention against torch's own kernel."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from rlgen.attention import DECODE, decode_attention, fast_decoding
from rlgen.models import load_policy


class Layer(torch.nn.Module):
    is_causal = False

    def __init__(self, groups: int) -> None:
        super().__init__()
        self.num_key_value_groups = groups


@settings(max_examples=30, deadline=None)
@given(
    st.integers(1, 3), st.sampled_from([(4, 4), (6, 2), (3, 1)]), st.integers(1, 4), st.integers(1, 9), st.integers()
)
def test_it_equals_torchs_kernel(rows, heads, new, cached, seed):
    random = torch.Generator().manual_seed(seed % 2**31)
    query = torch.randn(rows, heads[0], new, 8, generator=random)
    key, value = torch.randn(2, rows, heads[1], cached, 8, generator=random)
    visible = torch.rand(rows, 1, new, cached, generator=random) > 0.4
    visible[..., 0] = True
    layer = Layer(heads[0] // heads[1])
    for mask in (visible, None):
        expected, _ = sdpa_attention_forward(layer, query, key, value, mask, scaling=0.3, is_causal=False)
        ours, weights = decode_attention(layer, query, key, value, mask, scaling=0.3)
        torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-5)
        assert weights is None


def test_the_models_own_kernel_comes_back_also_after_an_error(tiny_llama):
    model = load_policy(tiny_llama, dtype="float32")
    seen = []

    def fail() -> None:
        with fast_decoding(model):
            seen.append(model.config._attn_implementation)
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert seen == [DECODE]
    assert model.config._attn_implementation == "sdpa"


def test_a_kernel_that_the_user_chose_is_kept(tiny_llama):
    model = load_policy(tiny_llama, dtype="float32", attn_implementation="eager")
    with fast_decoding(model):
        assert model.config._attn_implementation == "eager"
