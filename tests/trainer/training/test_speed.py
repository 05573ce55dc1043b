import pytest
import torch
from rhapsode_trainer.training.speed import (
    Speed,
    describe,
    mfu,
    peak_flops,
    training_flops_per_token,
    training_record,
)
from transformers import GPT2Config, GPT2LMHeadModel


def test_only_time_of_training_counts() -> None:
    now = [0.0]
    speed = Speed(clock=lambda: now[0])
    assert speed.tokens_per_second(10) is None
    now[0] = 5.0
    speed.start()
    for _ in range(4):
        now[0] += 1.0
        speed.step_done()
    with speed.paused():
        now[0] += 100.0
    speed.stop()
    now[0] += 100.0
    assert speed.seconds() == 4.0
    assert speed.tokens_per_second(10) == 10.0


def test_a_pause_before_training_does_not_begin_it() -> None:
    now = [0.0]
    speed = Speed(clock=lambda: now[0])
    with speed.paused():
        now[0] = 3.0
    now[0] = 4.0
    assert speed.seconds() == 0.0


def test_gpt2_takes_855_million_operations_a_token() -> None:
    """The figure of nanoGPT for GPT-2 124M at a context of 1,024."""
    with torch.device("meta"):
        model = GPT2LMHeadModel(GPT2Config())
    model.tie_weights()
    assert training_flops_per_token(model, 1024) == pytest.approx(855e6, rel=0.01)


@pytest.mark.parametrize(
    ("device", "peak"),
    [
        ("NVIDIA H200", 989e12),
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H100 PCIe", None),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA L4", 121e12),
        ("NVIDIA L40S", 362e12),
        ("NVIDIA GeForce RTX 4090", None),
        ("cpu", None),
    ],
)
def test_peaks_are_known_by_the_name_of_the_device(device: str, peak: float | None) -> None:
    assert peak_flops(device) == peak


def test_mfu_is_the_share_of_the_peak_of_all_devices() -> None:
    assert mfu(468_000, 855e6, "NVIDIA H200") == pytest.approx(0.40, abs=0.01)
    assert mfu(2 * 468_000, 855e6, "NVIDIA H200", 2) == pytest.approx(0.40, abs=0.01)
    assert mfu(None, 855e6, "NVIDIA H200") is None
    assert mfu(1000, 855e6, "cpu") is None


def test_the_record_says_how_training_went() -> None:
    now = [0.0]
    speed = Speed(clock=lambda: now[0])
    speed.start()
    now[0] = 2.0
    speed.step_done()
    speed.stop()
    speed.means = {"loss": "chunked", "attention": "sdpa", "compiled": False}
    record = training_record(
        speed, tokens_per_step=900.0, padding_share=0.25, flops_per_token=1e6, devices=1, seconds={"train": 3.0}
    )
    assert record["tokens_per_second"] == 450.0
    assert record["seconds"] == {"train": 3.0}
    assert (record["loss"], record["compiled"]) == ("chunked", False)
    assert describe(record).startswith("450 tokens/s without padding, 25.0% padding")
    assert "loss chunked, attention sdpa" in describe(record)
    assert "9.0% of the peak of X" in describe({**record, "mfu": 0.09, "device": "X", "compiled": True})
