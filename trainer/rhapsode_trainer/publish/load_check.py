"""Loads a published folder as any user of it would and proves that it is the model that was written.

    python -m rhapsode_trainer.publish.load_check PATH

Run in a process of its own, so that nothing of the run that wrote the folder can help.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

from ..errors import LoadCheckError

TOLERANCE = 1e-4


def check_in_fresh_process(version: Path) -> None:
    """Runs this module on a version. Raises LoadCheckError with what it found."""
    command = [sys.executable, "-m", __name__, str(version)]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        reason = (result.stderr.strip().splitlines() or [f"exit code {result.returncode}"])[-1]
        raise LoadCheckError(f"{version} does not load back: {reason}")


def check(version: Path) -> None:
    """Raises LoadCheckError unless weights, canary and tokenizer are what they should be."""
    check_tokenizer(version)
    check_model(version)


def check_tokenizer(version: Path) -> None:
    """tokenizer.json alone must give the ids that AutoTokenizer gives: servers load nothing else."""
    from tokenizers import Tokenizer
    from transformers import AutoTokenizer

    from .canary import PROBES

    plain = Tokenizer.from_file(str(version / "tokenizer.json"))
    full = AutoTokenizer.from_pretrained(version, local_files_only=True, trust_remote_code=False)
    for probe in PROBES:
        expected = full.encode(probe, add_special_tokens=False)
        actual = plain.encode(probe, add_special_tokens=False).ids
        if actual != expected:
            raise LoadCheckError(
                f"tokenizer.json encodes {probe!r} as {actual}, AutoTokenizer as {expected}: "
                "AutoTokenizer adds or strips something that tokenizer.json does not describe"
            )


def check_model(version: Path) -> None:
    """Every weight is there and finite, and the model says in fp32 what the canary recorded."""
    import torch

    from .canary import score
    from .loading import load_model

    model = load_model(version, torch.float32)
    for name, weight in model.named_parameters():
        if not weight.isfinite().all():
            raise LoadCheckError(f"the weight {name} is not finite")
    canary = json.loads((version / "canary.json").read_bytes())
    logprobs, _ = score(model, canary["prompt_ids"], canary["continuation_ids"])
    differences = [abs(a - b) for a, b in zip(logprobs, canary["logprobs"], strict=True)]
    if not all(difference <= TOLERANCE for difference in differences):  # also false for NaN
        raise LoadCheckError(f"the canary differs by {differences} in log-probability; {TOLERANCE:g} is allowed")


if __name__ == "__main__":
    try:
        check(Path(sys.argv[1]))
    except Exception as error:
        sys.exit(f"{type(error).__name__}: {error}")
