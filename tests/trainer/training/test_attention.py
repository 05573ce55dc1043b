from collections.abc import Callable
from typing import Any

import pytest
import torch
from rhapsode_trainer.training import attention as module
from rhapsode_trainer.training.attention import CAUSAL, MASKED, PACKED, attention, with_bounds, with_mask
from torch.nn.functional import scaled_dot_product_attention
from transformers import MistralConfig, MistralForCausalLM, default_data_collator

POSITIONS = [[0, 1, 2, 3, 0, 1, 2, 3, 4, 5], [0, 1, 0, 0, 1, 2, 3, 4, 5, 6]]


def varlen_by_a_loop(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    cu_seq_q: torch.Tensor,
    cu_seq_k: torch.Tensor,
    max_q: int,
    max_k: int,
    *,
    scale: float | None = None,
    window_size: tuple[int, int] = (-1, -1),
    enable_gqa: bool = False,
) -> torch.Tensor:
    """What torch.nn.attention.varlen.varlen_attn does, one sequence after the other."""
    assert window_size == (-1, 0), "causal"
    assert torch.equal(cu_seq_q, cu_seq_k)
    assert cu_seq_q.dtype == torch.int32
    assert cu_seq_q[0] == 0
    assert cu_seq_q[-1] == len(query)
    assert int(cu_seq_q.diff().max()) <= max_q == max_k
    parts = []
    for start, stop in zip(cu_seq_q[:-1].tolist(), cu_seq_q[1:].tolist(), strict=True):
        heads = [tensor[start:stop].transpose(0, 1) for tensor in (query, key, value)]
        result = scaled_dot_product_attention(*heads, is_causal=True, scale=scale, enable_gqa=enable_gqa)
        parts.append(result.transpose(0, 1))
    return torch.cat(parts)


def rows() -> list[dict[str, list[int]]]:
    ids = torch.randint(1, 300, (2, 10), generator=torch.Generator().manual_seed(0)).tolist()
    return [
        {"input_ids": row, "labels": row, "position_ids": places} for row, places in zip(ids, POSITIONS, strict=True)
    ]


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
@pytest.mark.parametrize(("name", "collate"), [(PACKED, with_bounds), (MASKED, with_mask)])
def test_packed_rows_are_computed_as_the_model_does_it(
    kind: str, name: str, collate: Any, make_model: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "varlen_attn", varlen_by_a_loop)
    model = make_model(kind)
    with torch.no_grad():
        expected = model(**default_data_collator(rows()), use_cache=False).logits
        with attention(model, name):
            result = model(**collate(rows()), use_cache=False).logits
    torch.testing.assert_close(result, expected, atol=1e-5, rtol=1e-5)
    assert model.config._attn_implementation == "sdpa"


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_blocks_need_no_mask_and_padding_on_the_right_is_not_seen(
    kind: str, make_model: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, ids = make_model(kind), torch.randint(1, 300, (2, 12))
    masks: list[Any] = []

    def spy(*tensors: Any, **options: Any) -> Any:
        masks.append((options["attn_mask"], options["is_causal"]))
        return original(*tensors, **options)

    original = torch.nn.functional.scaled_dot_product_attention
    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", spy)
    with torch.no_grad():
        expected = model(ids[:, :8]).logits
        masks.clear()
        with attention(model, CAUSAL):
            result = model(ids).logits[:, :8]
    torch.testing.assert_close(result, expected, atol=1e-5, rtol=1e-5)
    assert masks
    assert all(mask is None and is_causal for mask, is_causal in masks), "the flash kernel can be taken"


@pytest.mark.parametrize("asked", [{"sliding_window": 4}, {"softcap": 30.0}, {"s_aux": torch.zeros(2)}])
@pytest.mark.parametrize("function", [module.causal, module.packed])
def test_what_is_not_honoured_is_refused(asked: dict[str, Any], function: Any) -> None:
    tensor = torch.zeros(1, 2, 4, 8)
    with pytest.raises(ValueError, match=next(iter(asked))):
        function(torch.nn.Module(), tensor, tensor, tensor, None, **asked)


def test_masks_and_other_directions_are_refused() -> None:
    tensor = torch.zeros(1, 2, 4, 8)
    with pytest.raises(ValueError, match="attention_mask"):
        module.causal(torch.nn.Module(), tensor, tensor, tensor, torch.ones(1, 1, 4, 4))
    with pytest.raises(ValueError, match="is_causal"):
        module.causal(torch.nn.Module(), tensor, tensor, tensor, None, is_causal=False)


def test_packed_rows_need_their_bounds_and_have_no_dropout() -> None:
    tensor = torch.zeros(1, 2, 4, 8)
    with pytest.raises(ValueError, match="bounds of documents"):
        module.packed(torch.nn.Module(), tensor, tensor, tensor, None)
    bounds = torch.tensor([0, 4], dtype=torch.int32)
    with pytest.raises(ValueError, match="no dropout"):
        module.packed(
            torch.nn.Module(), tensor, tensor, tensor, None, dropout=0.1, cu_seq_lens_q=bounds, max_length_q=4
        )


def test_a_model_that_sees_a_window_keeps_its_own_attention() -> None:
    sizes = {"vocab_size": 50, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "sliding_window": 4000}
    model = MistralForCausalLM(MistralConfig(**sizes, **heads))
    with pytest.raises(ValueError, match="attention of its own"), attention(model, MASKED):
        pass


def test_bounds_are_those_of_all_rows_one_after_the_other() -> None:
    batch = with_bounds(rows())
    assert batch["cu_seq_lens_q"].tolist() == [0, 4, 10, 12, 13, 20]
    assert (batch["max_length_q"], batch["max_length_k"]) == (10, 10)
    assert with_mask(rows())["attention_mask"].shape == (2, 1, 10, 10)
