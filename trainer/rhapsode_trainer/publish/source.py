"""A Hugging Face model folder on disk as a source: what it must hold, and loading it without running its code."""

from pathlib import Path

import torch
from rhapsode_contract.model_directory.outward import leads_out
from safetensors import SafetensorError, safe_open
from transformers import AutoConfig, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerFast
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from ..errors import SourceError
from .loading import load_model

_DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
_TOKENIZER_FILES = ("tokenizer.json", "vocab.json", "tokenizer.model", "spiece.model")


def load_source(folder: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """The model in the dtype of its stored weights, and its tokenizer. Raises SourceError, naming what is missing."""
    if not (folder / "config.json").is_file():
        raise SourceError(f"{folder}: no config.json: not a Hugging Face model folder")
    if outward := leads_out(folder):
        raise SourceError(f"{folder}: {': '.join(outward)}")
    weights = _weights(folder)
    _check_architecture(folder)
    tokenizer = _load_tokenizer(folder)
    model = _load_model(folder, _stored_dtype(weights))
    rows = model.get_input_embeddings().get_parameter("weight").shape[0]
    if len(tokenizer) > rows:
        raise SourceError(f"{folder}: the tokenizer has {len(tokenizer)} tokens, the model embeds only {rows}")
    return model, tokenizer


def _weights(folder: Path) -> Path:
    """One of the files with the weights; they all have the same dtype."""
    found = sorted(folder.glob("*.safetensors"))
    if found:
        return found[0]
    pickles = sorted(path.name for pattern in ("*.bin", "*.pt", "*.pth") for path in folder.glob(pattern))
    if pickles:
        raise SourceError(
            f"{folder}: the weights are pickles ({', '.join(pickles)}), which can run code when loaded; "
            "convert them to safetensors first"
        )
    raise SourceError(f"{folder}: no *.safetensors file: no weights")


def _check_architecture(folder: Path) -> None:
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (ValueError, OSError, KeyError) as error:
        raise SourceError(f"{folder}: config.json: {_first_line(error)}") from None
    names = config.architectures or []
    if not any(name in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values() for name in names):
        raise SourceError(f"{folder}: config.json: architectures {names}: not a causal language model")


def _load_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    if not any((folder / name).is_file() for name in _TOKENIZER_FILES):
        raise SourceError(f"{folder}: no tokenizer: none of {', '.join(_TOKENIZER_FILES)}")
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # each tokenizer class has its own way to fail
        raise SourceError(f"{folder}: the tokenizer cannot be loaded: {_first_line(error)}") from None
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise SourceError(f"{folder}: {type(tokenizer).__name__} cannot be written as a tokenizer.json")
    return tokenizer


def _load_model(folder: Path, dtype: torch.dtype) -> PreTrainedModel:
    try:
        model = load_model(folder, dtype)
    except (ValueError, OSError, RuntimeError, ImportError) as error:
        raise SourceError(f"{folder}: the model cannot be loaded: {_first_line(error)}") from None
    model.config.use_cache = True
    return model


def _stored_dtype(weights: Path) -> torch.dtype:
    """Of the first floating point tensor. The dtype in config.json may be another, and must not round the weights."""
    try:
        with safe_open(weights, framework="pt") as file:
            names = [file.get_slice(name).get_dtype() for name in file.keys()]  # noqa: SIM118 - not a mapping
    except (SafetensorError, OSError) as error:
        raise SourceError(f"{weights}: cannot be read: {_first_line(error)}") from None
    for name in names:
        if name in _DTYPES:
            return _DTYPES[name]
    raise SourceError(f"{weights}: no floating point weights: quantised models cannot be published")


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
