"""Loading a causal language model from a folder: nothing remote, no pickles, no weight left to chance."""

from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel


def load_model(folder: Path, dtype: torch.dtype) -> PreTrainedModel:
    """Raises ValueError when weights are missing (they would be random), and whatever transformers raises."""
    loaded: Any = AutoModelForCausalLM.from_pretrained(
        folder,
        dtype=dtype,
        local_files_only=True,
        use_safetensors=True,
        trust_remote_code=False,
        output_loading_info=True,
    )
    model, report = loaded
    assert isinstance(model, PreTrainedModel)
    if report["missing_keys"]:
        raise ValueError(f"weights are missing: {', '.join(sorted(report['missing_keys']))}")
    return model
