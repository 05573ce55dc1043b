import os
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from rhapsode_trainer.config import TrainingConfig
from rhapsode_trainer.errors import ConfigError
from rhapsode_trainer.interruption import Interruption
from rhapsode_trainer.training import arguments as choosing
from rhapsode_trainer.training import attention, loss
from rhapsode_trainer.training import fast as module
from rhapsode_trainer.training.attention import CAUSAL, MASKED, PACKED
from rhapsode_trainer.training.compiling import BREAK_EVEN, pays
from rhapsode_trainer.training.fast import FastPath, fast_path, flash_refusal
from rhapsode_trainer.training.proof import outcome, probe_rows
from rhapsode_trainer.training.speed import Speed
from rhapsode_trainer.training.train import make_trainer, rows_needed, train
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import Gemma2Config, Gemma2ForCausalLM, TrainingArguments, default_data_collator

SYNCS = ("aten._local_scalar_dense", "aten.nonzero", "aten.is_nonzero", "aten.masked_select", "aten.equal")


def rows(count: int = 8, *, packed: bool = True, length: int = 24) -> list[dict[str, list[int]]]:
    ids = torch.randint(1, 300, (count, length), generator=torch.Generator().manual_seed(0)).tolist()
    places = [*range(length // 3), *range(length - length // 3)]
    return [{"input_ids": row, "labels": row} | ({"position_ids": places} if packed else {}) for row in ids]


def choose(model: Any, some: list[dict[str, list[int]]], tmp_path: Path) -> tuple[FastPath, list[str]]:
    told: list[str] = []
    model.loss_type = "ForCausalLM"
    arguments = TrainingArguments(output_dir=str(tmp_path), use_cpu=True, report_to="none")
    return fast_path(model, some, arguments, told.append), told


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
@pytest.mark.parametrize(("packed", "name"), [(True, MASKED), (False, CAUSAL)])
def test_a_model_that_agrees_takes_the_fast_way(
    kind: str, packed: bool, name: str, make_model: Callable[..., Any], tmp_path: Path
) -> None:
    model, some = make_model(kind), rows(packed=packed)
    path, told = choose(model, some, tmp_path)
    assert (path.loss, path.attention, told) == ("chunked", name, [])
    expected = outcome(model, default_data_collator(some))
    with path.active():
        assert outcome(model, path.collate(some)).agrees(expected, 1e-4)
        with path.suspended():
            assert model.config._attn_implementation == "sdpa"
            assert not hasattr(model, "_loss_function")
        assert hasattr(model, "_loss_function")
    assert model.config._attn_implementation == "sdpa"
    assert "forward" not in vars(model.get_output_embeddings())
    assert not hasattr(model, "_loss_function")


def test_a_model_with_capped_logits_is_trained_as_transformers_would(tmp_path: Path) -> None:
    torch.manual_seed(0)
    sizes = {"vocab_size": 300, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "head_dim": 8}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "query_pre_attn_scalar": 8, "initializer_range": 0.5}
    model = Gemma2ForCausalLM(Gemma2Config(**sizes, **heads, final_logit_softcapping=5.0))
    path, told = choose(model, rows(packed=False), tmp_path)
    assert (path.loss, path.attention) == ("own", "own")
    assert [line.split(":")[0] for line in told] == [
        "The loss is computed from all logits",
        "Attention is the model's own",
    ]


@pytest.mark.parametrize(
    ("argument", "value", "attention_name"),
    [("label_smoothing_factor", 0.1, MASKED), ("torch_compile", True, MASKED), ("_n_gpu", 2, "own")],
)
def test_arguments_that_need_logits_or_split_batches_keep_the_model_s_own(
    argument: str, value: Any, attention_name: str, make_model: Callable[..., Any], tmp_path: Path
) -> None:
    model, told = make_model("gpt2"), list[str]()
    model.loss_type = "ForCausalLM"
    arguments = TrainingArguments(output_dir=str(tmp_path), use_cpu=True, report_to="none")
    assert arguments.device.type == "cpu"
    setattr(arguments, argument, value)
    path = fast_path(model, rows(), arguments, told.append)
    assert (path.loss, path.attention) == ("own", attention_name)
    assert told


def test_a_head_that_is_no_linear_layer_is_left_alone(make_model: Callable[..., Any], tmp_path: Path) -> None:
    model = make_model("gpt2")

    class Scaled(torch.nn.Linear):
        def forward(self, hidden: torch.Tensor) -> torch.Tensor:
            return 2 * super().forward(hidden)

    head = Scaled(16, 300, bias=False)
    model.set_output_embeddings(head)
    path, told = choose(model, rows(), tmp_path)
    assert (path.loss, path.attention) == ("own", MASKED)
    assert len(told) == 1


def test_a_short_probe_tells_a_leak_between_documents(make_model: Callable[..., Any], tmp_path: Path) -> None:
    model, probe = make_model("gpt2"), probe_rows(rows())
    assert [row["position_ids"].tolist() for row in probe] == [[*range(12), *range(12)]] * 2
    assert (probe[0]["labels"][:6] == -100).all()
    model.loss_type = "ForCausalLM"
    expected = outcome(model, default_data_collator(probe))
    leaking = FastPath(model, "own", CAUSAL)
    with leaking.active():
        assert not outcome(model, leaking.collate(probe)).agrees(expected, 1e-3)


def test_the_flash_kernel_is_asserted_before_training(make_model: Callable[..., Any], tmp_path: Path) -> None:
    model, probe = make_model("gpt2"), probe_rows(rows(packed=False))
    path = FastPath(model, "chunked", CAUSAL)
    without = make_model("gpt2")
    for block in without.transformer.h:
        block.attn.attn_dropout.p = 0.0
    assert flash_refusal(without, probe, FastPath(without, "chunked", CAUSAL)) is None
    before = torch.get_rng_state()
    refusal = flash_refusal(model, probe, path)
    assert refusal is not None, "on a CPU that kernel has no dropout"
    assert "kernel" in refusal.lower()
    assert torch.equal(torch.get_rng_state(), before)
    assert not model.training


class _Syncs(TorchDispatchMode):
    """Operations for which the host would wait for a device, by the step they were in."""

    def __init__(self) -> None:
        super().__init__()
        self.step = 0
        self.seen: list[tuple[int, str]] = []

    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), options: Any = None) -> Any:
        if str(function).startswith(SYNCS):
            self.seen.append((self.step, str(function)))
        return function(*arguments, **(options or {}))


@pytest.mark.parametrize("optimizer", ["trainer", "muon"])
@pytest.mark.parametrize("packed", [True, False])
def test_no_step_between_two_log_entries_waits_for_the_device(
    packed: bool, optimizer: str, tiny: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loss, "_knows_shapes", lambda tensor: False)  # as on CUDA
    run = tiny(max_steps=8, logging_steps=4, gradient_accumulation_steps=2)
    run.optimizer = optimizer
    run.make_model = padded(run.make_model)
    syncs = _Syncs()

    def count(step: int) -> None:
        syncs.step = step

    run.on_step = count
    with syncs:
        run.train(rows=rows(rows_needed(run.arguments), packed=packed), checkpoints=None)
    # A log entry is written when its step has been reported; before the first step the data loader begins.
    assert [entry for entry in syncs.seen if entry[0] not in (0, 4, 8)] == []
    assert {4, 8} <= {step for step, _ in syncs.seen}, "those of log entries are seen"


def padded(make_model: Callable[..., Any]) -> Callable[..., Any]:
    """A configuration with a padding token makes transformers look for padding in each batch."""

    def make(kind: str) -> Any:
        model = make_model(kind)
        model.config.pad_token_id = 0
        return model

    return make


def test_the_padding_token_of_the_configuration_is_kept(tiny: Callable[..., Any]) -> None:
    run = tiny(max_steps=2)
    run.make_model = padded(run.make_model)
    run.train()
    assert run.model.config.pad_token_id == 0


def test_batches_go_to_a_device_without_waiting_and_adamw_is_fused(
    tiny: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tiny(max_steps=1)
    trainer = make_trainer(run.make_model("gpt2"), rows(2), run.arguments, "trainer")
    optimizer = trainer.create_optimizer()
    assert optimizer.defaults["fused"] is True
    assert not trainer.accelerator.non_blocking, "there is no device here"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    config = TrainingConfig(optimizer="trainer", arguments={"max_steps": 1, "use_cpu": True})
    on_cuda = choosing.training_arguments(config, seed=0, output_dir=tmp_path)
    assert on_cuda.accelerator_config.non_blocking


def test_gradient_accumulation_is_exact_with_the_fast_loss(tiny: Callable[..., Any]) -> None:
    """Micro-batches with different numbers of targets weigh by these."""
    weights, losses = [], []
    for batch, accumulation in ((4, 1), (1, 4)):
        run = tiny(
            max_steps=3, per_device_train_batch_size=batch, gradient_accumulation_steps=accumulation, optim="sgd"
        )
        run.make_model = without_dropout(run.make_model)
        some = rows(12)
        for index, row in enumerate(some):
            row["labels"] = [-100] * (2 * (index % 5)) + row["input_ids"][2 * (index % 5) :]
        log = run.train(rows=some, checkpoints=None)
        weights.append(run.weights())
        losses.append([entry["loss"] for entry in log if "loss" in entry])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    torch.testing.assert_close(weights[0], weights[1], atol=1e-6, rtol=0)


def without_dropout(make_model: Callable[..., Any]) -> Callable[..., Any]:
    def make(kind: str) -> Any:
        model = make_model(kind)
        for part in model.modules():
            if isinstance(part, torch.nn.Dropout):
                part.p = 0.0
        return model

    return make


def test_a_model_is_measured_at_epoch_ends_as_it_is_afterwards(tiny: Callable[..., Any]) -> None:
    seen: list[str] = []
    run = tiny(max_steps=4)

    def measure(epoch: int) -> dict[str, float]:
        seen.append(run.model.config._attn_implementation)
        assert run.model(torch.tensor([[1, 2, 3]])).logits.shape == (1, 3, 300)
        return {}

    run.train(rows=rows(8, packed=False), epoch_ends=(2, 4), on_epoch_end=measure)
    assert seen == ["sdpa", "sdpa"]


def test_speed_and_means_are_told(tiny: Callable[..., Any]) -> None:
    speed, run = Speed(), tiny(max_steps=3)
    run.train(speed=speed)
    assert speed.means == {"loss": "chunked", "attention": "sdpa", "compiled": False}
    assert speed.steps == 3
    assert speed.seconds() > 0


def test_an_adapter_trains_with_the_fast_loss(make_model: Callable[..., Any], tiny: Callable[..., Any]) -> None:
    from rhapsode_trainer.lora import LoraSettings, attach

    losses = []
    for patched in (False, True):
        run, speed = tiny(max_steps=3), Speed()
        model = without_dropout(make_model)("gpt2")
        torch.manual_seed(0)
        adapted = attach(model, LoraSettings(r=2, alpha=4, dropout=0.0, target_modules="c_attn"))
        if patched:
            log = train(
                adapted,
                rows(6),
                run.arguments,
                optimizer="trainer",
                report=lambda done, total, loss: None,
                interruption=Interruption(),
                speed=speed,
            )
            assert speed.means["loss"] == "chunked"
        else:
            trainer = make_trainer(adapted, rows(6), run.arguments, "trainer")
            trainer.train()
            log = trainer.state.log_history
        losses.append([entry["loss"] for entry in log if "loss" in entry])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_compiling_pays_for_long_runs_on_cuda() -> None:
    long = int(BREAK_EVEN / 124e6) + 1
    assert pays("auto", cuda=True, tokens=long, parameters=124_000_000)
    assert not pays("auto", cuda=True, tokens=long // 2, parameters=124_000_000)
    assert not pays("auto", cuda=False, tokens=long, parameters=124_000_000)
    assert not pays("never", cuda=True, tokens=long, parameters=124_000_000)
    assert pays("always", cuda=False, tokens=1, parameters=1)


SLOW = pytest.mark.skipif(
    not os.environ.get("RHAPSODE_SOAK") or shutil.which("g++") is None,
    reason="a minute, and a C++ compiler; RHAPSODE_SOAK=1 runs it",
)


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=SLOW)])
@pytest.mark.filterwarnings("ignore")
def test_compiled_layers_train_to_the_same_loss(
    backend: str, tiny: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend))
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "inductor"))
    losses = []
    for compiled in ("never", "always"):
        run, speed = tiny(max_steps=3), Speed()
        run.make_model = without_dropout(run.make_model)
        log = run.train(rows=rows(6, packed=False), compiled=compiled, speed=speed, checkpoints=None)
        losses.append([entry["loss"] for entry in log if "loss" in entry])
        assert speed.means["compiled"] is (compiled == "always")
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
    assert all(layer._compiled_call_impl is None for layer in run.model.transformer.h)


def test_a_model_without_a_list_of_layers_cannot_always_be_compiled(tiny: Callable[..., Any]) -> None:
    run = tiny(max_steps=1)
    make = run.make_model

    def odd(kind: str) -> Any:
        model = make(kind)
        model.config.n_layer = 7
        return model

    run.make_model = odd
    with pytest.raises(ConfigError, match=r"training\.compile: .* no list of layers"):
        run.train(compiled="always")


def test_packed_rows_take_their_kernel_where_it_agrees(
    make_model: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    probe, autocast = probe_rows(rows()), partial(torch.autocast, "cpu", torch.bfloat16)

    def chosen(model: Any) -> str:
        model.loss_type = "ForCausalLM"
        masked = FastPath(model, "chunked", MASKED)
        return module._with_bounds_if_it_agrees(model, probe, masked, autocast, told.append).attention

    monkeypatch.setattr(attention, "varlen_attn", causal_in_each_sequence)
    assert chosen(without_attention_dropout(make_model("gpt2"))) == PACKED
    assert told == []
    assert chosen(make_model("gpt2")) == MASKED, "GPT-2 has dropout of attention, which the kernel has not"
    assert "no dropout" in told.pop()
    monkeypatch.setattr(attention, "varlen_attn", None)
    assert chosen(without_attention_dropout(make_model("gpt2"))) == MASKED
    assert "does not agree" in told.pop()


def without_attention_dropout(model: Any) -> Any:
    for block in model.transformer.h:
        block.attn.attn_dropout.p = 0.0
    return model


def causal_in_each_sequence(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, bounds: torch.Tensor, *others: Any, **options: Any
) -> torch.Tensor:
    """A stand-in for the kernel."""
    assert query.dtype == torch.bfloat16
    parts = []
    for start, stop in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
        heads = [tensor[start:stop].transpose(0, 1) for tensor in (query, key, value)]
        result = torch.nn.functional.scaled_dot_product_attention(*heads, is_causal=True, scale=options.get("scale"))
        parts.append(result.transpose(0, 1))
    return torch.cat(parts)
