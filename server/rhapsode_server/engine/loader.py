"""A version folder becomes a model in memory, with its attention going through ours."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, PreTrainedModel

from rhapsode_server.engine.refusal import LOAD_FAILED, OUT_OF_MEMORY, UNSUPPORTED_ARCHITECTURE, ModelRefused

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedModel:
    """The model, ready to run, and what requests need to know of it."""

    model: PreTrainedModel
    device: torch.device
    context_length: int
    vocabulary_size: int
    num_layers: int

    @property
    def parameter_count(self) -> int:
        """Shared parameters count once."""
        return sum(parameter.numel() for parameter in self.model.parameters())

    @property
    def dtype(self) -> str:
        return str(self.model.dtype).removeprefix("torch.")


def choose_device(name: str) -> torch.device:
    """`auto`: the first CUDA device if there is one, else the CPU. Raises ValueError for a device that is not here."""
    if name == "auto":
        return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ValueError(f"device: {name!r} is none; give auto, cpu or cuda:N") from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"device: {name!r} is not on this machine, which has {torch.cuda.device_count()} CUDA devices")
    return device


def choose_dtype(name: str, device: torch.device) -> torch.dtype:
    """`auto`: float32 on the CPU, bfloat16 on CUDA."""
    if name == "auto":
        return torch.float32 if device.type == "cpu" else torch.bfloat16
    return DTYPES[name]


def load_model(path: Path, *, device: torch.device, dtype: torch.dtype) -> LoadedModel:
    """Load without network and without code from the folder. Raises ModelRefused."""
    model = _from_pretrained(path, device, dtype)
    # With a padding token set, GPT-2 looks for it in the ids, to warn of it; on CUDA that waits for the device.
    model.config.pad_token_id = None
    config = model.config.get_text_config()
    context_length = getattr(config, "max_position_embeddings", None)
    if not context_length:
        raise ModelRefused(UNSUPPORTED_ARCHITECTURE, f"{config.model_type} states no max_position_embeddings")
    return LoadedModel(
        model=model,
        device=device,
        context_length=context_length,
        vocabulary_size=model.get_output_embeddings().weight.shape[0],
        num_layers=config.num_hidden_layers,
    )


def _from_pretrained(path: Path, device: torch.device, dtype: torch.dtype) -> PreTrainedModel:
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            path,
            dtype=dtype,
            local_files_only=True,
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
        model: PreTrainedModel = loaded[0]
        _check_weights(loaded[1])
        _check_architecture(model)
        model.eval()
        torch.nn.Module.to(model, device)
        return model
    except torch.OutOfMemoryError as error:
        raise ModelRefused(OUT_OF_MEMORY, f"it does not fit {device}: {error}") from error
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise ModelRefused(LOAD_FAILED, f"transformers cannot load it: {error}") from error


def _check_weights(report: dict[str, Any]) -> None:
    """What the file lacks, transformers would fill with random numbers."""
    absent = sorted(map(str, (*report["missing_keys"], *report["mismatched_keys"])))
    if absent:
        raise ModelRefused(LOAD_FAILED, f"its weights lack {', '.join(absent[:5])}{', ...' if absent[5:] else ''}")


def _check_architecture(model: PreTrainedModel) -> None:
    if not model._supports_attention_backend:
        name = type(model).__name__
        raise ModelRefused(UNSUPPORTED_ARCHITECTURE, f"{name} does not let another attention function in")
