"""Small models with random weights, one for each architecture that matters."""

from typing import Any

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

# So small that a second thread only costs.
torch.set_num_threads(1)

VOCABULARY_SIZE = 320

_LLAMA_LIKE: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 1024,
}

CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "gpt2": {"n_embd": 64, "n_layer": 3, "n_head": 4, "n_positions": 1024},
    "llama": _LLAMA_LIKE,
    "mistral": _LLAMA_LIKE | {"sliding_window": 8},
    "gemma2": _LLAMA_LIKE
    | {"head_dim": 16, "query_pre_attn_scalar": 16, "sliding_window": 8, "attn_logit_softcapping": 5.0},
    "gpt_oss": _LLAMA_LIKE | {"head_dim": 16, "sliding_window": 8, "num_local_experts": 4, "num_experts_per_tok": 2},
    "qwen3": _LLAMA_LIKE | {"head_dim": 16},
    "qwen2": _LLAMA_LIKE,
    "phi3": _LLAMA_LIKE | {"pad_token_id": 0},
    "gpt_neox": _LLAMA_LIKE,
    "opt": {
        "hidden_size": 64,
        "ffn_dim": 96,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "word_embed_proj_dim": 64,
        "max_position_embeddings": 1024,
    },
    "olmo2": _LLAMA_LIKE,
    "longrope": _LLAMA_LIKE
    | {
        "pad_token_id": 0,
        "original_max_position_embeddings": 64,
        "rope_parameters": {
            "rope_type": "longrope",
            "rope_theta": 10000.0,
            "short_factor": [1.0] * 8,
            "long_factor": [4.0] * 8,
            "original_max_position_embeddings": 64,
        },
    },
    "chunked": _LLAMA_LIKE
    | {"head_dim": 16, "attention_chunk_size": 64, "intermediate_size_mlp": 96, "num_local_experts": 2},
    "gpt_neo": {"hidden_size": 64, "num_layers": 2, "num_heads": 4, "attention_types": [[["global", "local"], 1]]},
    "bloom": {"hidden_size": 64, "n_layer": 2, "n_head": 4},
    "stablelm": _LLAMA_LIKE,
    "gptj": {"n_embd": 64, "n_layer": 2, "n_head": 4, "rotary_dim": 8},
}


def tiny_model(architecture: str, *, seed: int = 0, **overrides: Any) -> PreTrainedModel:
    """Weights are large enough that logits, and so greedy choices, differ clearly."""
    settings = (
        {"vocab_size": VOCABULARY_SIZE, "bos_token_id": 0, "eos_token_id": 0} | CONFIGURATIONS[architecture] | overrides
    )
    torch.manual_seed(seed)
    model_type = {"longrope": "phi3", "chunked": "llama4_text"}.get(architecture, architecture)
    model = AutoModelForCausalLM.from_config(CONFIG_MAPPING[model_type](**settings))
    for parameter in model.parameters():
        if parameter.dim() > 1:
            parameter.data.mul_(4)
    return model.eval()
