"""CTranslate2: static batches, each row stopped at its own length."""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import psutil

from benchmarks.serving.figures import Measured, Timeline
from benchmarks.serving.meter import Meter
from benchmarks.serving.recorder import Plan, Recorder
from benchmarks.serving.systems import Setting, UnavailableError
from benchmarks.serving.systems.batches import run_batches
from benchmarks.serving.workload import Request

try:
    import ctranslate2
except ImportError:
    ctranslate2 = None

COMPUTE_TYPES = {"float32": "float32", "int8": "int8_float32", "bfloat16": "bfloat16"}


class StaticBatches:
    def __init__(self, setting: Setting) -> None:
        if ctranslate2 is None:
            raise UnavailableError("not installed")
        try:
            self._generator = ctranslate2.Generator(
                str(converted(setting)),
                device=setting.device,
                compute_type=COMPUTE_TYPES[setting.precision],
                inter_threads=1,
                intra_threads=setting.cores,
            )
        except (RuntimeError, ValueError) as error:
            raise UnavailableError(str(error)) from error
        self._pieces = pieces(setting.folder)

    def run(self, plan: Plan) -> Measured:
        return run_batches(plan, Meter(self.processes), self._generate)

    def processes(self) -> Sequence[psutil.Process]:
        return [psutil.Process()]

    def close(self) -> None:
        self._generator.unload_model()

    def _generate(self, requests: Sequence[Request], timelines: Sequence[Timeline], recorder: Recorder) -> None:
        def ends(step: "ctranslate2.GenerationStepResult") -> bool:
            timeline = timelines[step.batch_id]
            recorder.arrived(timeline, 1)
            return timeline.num_tokens >= requests[step.batch_id].num_tokens

        most = max(request.num_tokens for request in requests)
        self._generator.generate_batch(
            [[self._pieces[id_] for id_ in request.prompt_ids] for request in requests],
            max_length=most,
            min_length=most,
            sampling_topk=1,
            include_prompt_in_result=False,
            callback=ends,
        )


def converted(setting: Setting) -> Path:
    """The model as CTranslate2 wants it, made once for each precision."""
    folder = setting.folder.parent / f"ctranslate2-{setting.precision}"
    if not folder.is_dir():
        quantization = [] if setting.precision == "float32" else ["--quantization", COMPUTE_TYPES[setting.precision]]
        command = [sys.executable, "-m", "ctranslate2.converters.transformers", "--model", str(setting.folder)]
        subprocess.run([*command, "--output_dir", str(folder), *quantization], check=True, capture_output=True)
    return folder


def pieces(folder: Path) -> list[str]:
    """By id. CTranslate2 speaks of tokens by their pieces."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    return [tokenizer.id_to_token(id_) for id_ in range(tokenizer.get_vocab_size())]
