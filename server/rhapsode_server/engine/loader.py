"""A version folder becomes a model in memory, with its attention going through ours."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

from rhapsode_server.engine.refusal import LOAD_FAILED, OUT_OF_MEMORY, UNSUPPORTED_ARCHITECTURE, ModelRefused

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedModel:
    """The model, ready to run, and what requests need to know of it.

    `dtype` is that of the weights as they are multiplied: `float32`, `bfloat16`, `float16` or `int8`.
    `parameter_count` counts shared parameters once.
    """

    model: PreTrainedModel
    device: torch.device
    context_length: int
    vocabulary_size: int
    num_layers: int
    parameter_count: int
    dtype: str


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
    try:
        return _loaded(_from_pretrained(path, dtype), device)
    except torch.OutOfMemoryError as error:
        raise ModelRefused(OUT_OF_MEMORY, f"it does not fit {device}: {error}") from error
    except ModelRefused:
        raise
    except Exception as error:  # transformers and what it stands on raise errors of many kinds
        raise ModelRefused(LOAD_FAILED, f"transformers cannot load it: {error}") from error


def move(loaded: LoadedModel, device: torch.device) -> LoadedModel:
    """The same model on another device."""
    torch.nn.Module.to(loaded.model, device)
    return replace(loaded, device=device)


def _loaded(model: PreTrainedModel, device: torch.device) -> LoadedModel:
    # With a padding token set, GPT-2 looks for it in the ids, to warn of it; on CUDA that waits for the device.
    model.config.pad_token_id = None
    config = model.config.get_text_config()
    model.eval()
    torch.nn.Module.to(model, device)
    return LoadedModel(
        model=model,
        device=device,
        context_length=_context_length(config),
        vocabulary_size=model.get_output_embeddings().weight.shape[0],
        num_layers=config.num_hidden_layers,
        parameter_count=sum(parameter.numel() for parameter in model.parameters()),
        dtype=str(model.dtype).removeprefix("torch."),
    )


def _context_length(config: PreTrainedConfig) -> int:
    """Up to where attention and rotation of a position do not depend on how long a sequence, or a batch, is.

    transformers chooses the factors of `longrope` by the largest position of a forward, which here holds many
    sequences, and keeps the chunks of `chunked_attention` in a mask that the engine does not build.
    """
    limits = [getattr(config, "max_position_embeddings", None)]
    rope = getattr(config, "rope_parameters", None) or {}
    if rope.get("rope_type") == "longrope":
        limits.append(rope.get("original_max_position_embeddings"))
    if "chunked_attention" in (getattr(config, "layer_types", None) or ()):
        limits.append(config.attention_chunk_size)
    known = [limit for limit in limits if limit]
    if len(known) < len(limits):
        raise ModelRefused(UNSUPPORTED_ARCHITECTURE, f"{config.model_type} does not state how long its context is")
    return int(min(known))


def _from_pretrained(path: Path, dtype: torch.dtype) -> PreTrainedModel:
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
    return model


def _check_weights(report: dict[str, Any]) -> None:
    """What the file lacks, transformers would fill with random numbers."""
    absent = sorted(map(str, (*report["missing_keys"], *report["mismatched_keys"])))
    if absent:
        raise ModelRefused(LOAD_FAILED, f"its weights lack {', '.join(absent[:5])}{', ...' if absent[5:] else ''}")


def _check_architecture(model: PreTrainedModel) -> None:
    if not model._supports_attention_backend:
        name = type(model).__name__
        raise ModelRefused(UNSUPPORTED_ARCHITECTURE, f"{name} does not let another attention function in")
