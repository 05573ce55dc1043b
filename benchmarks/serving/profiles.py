"""What is measured on which device."""

from dataclasses import dataclass

from benchmarks.serving.systems import Kind

SERVER, ENGINE = "rhapsode", "rhapsode engine alone"
GENERATE, CONTINUOUS = "transformers generate()", "transformers continuous batching"
CTRANSLATE2, LLAMA_CPP = "CTranslate2", "llama.cpp server"

NO_PREFIXES = ("--prefix-cache", "off")  # the loops ask the same prompts again


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """`precisions` are ours, the exact one first. Decode steps are measured at `step_rows`, attention at
    `attention_contexts` with 16 rows; the wire's cost at `wire_callers`."""

    precisions: tuple[str, ...]
    kinds: tuple[Kind, ...]
    step_rows: tuple[int, ...]
    step_context: int = 128
    attention_contexts: tuple[int, ...] = ()
    wire_callers: int = 16

    @property
    def max_callers(self) -> int:
        return max(callers for kind in self.kinds for callers in kind.callers)


def kinds(factory: str, name: str, precisions: tuple[str, ...], callers: tuple[int, ...]) -> tuple[Kind, ...]:
    return tuple(Kind(name=name, factory=factory, precision=each, callers=callers) for each in precisions)


CPU_CALLERS, CUDA_CALLERS = (1, 4, 16, 32), (1, 16, 64, 256)
CPU_PRECISIONS = ("float32", "int8")
PROFILES = {
    "cpu": Profile(
        precisions=CPU_PRECISIONS,
        kinds=(
            *kinds("rhapsode:Server", SERVER, CPU_PRECISIONS, CPU_CALLERS),
            *kinds("engine:Engine", ENGINE, CPU_PRECISIONS, (16,)),
            *kinds("transformers:ContinuousBatching", CONTINUOUS, ("float32",), CPU_CALLERS),
            *kinds("transformers:StaticBatches", GENERATE, ("float32",), (1, 4, 16)),
            *kinds("ctranslate2:StaticBatches", CTRANSLATE2, CPU_PRECISIONS, CPU_CALLERS),
            *kinds("llama_cpp:Server", LLAMA_CPP, CPU_PRECISIONS, CPU_CALLERS),
        ),
        step_rows=(1, 16, 32),
        attention_contexts=(100, 600),
    ),
    "cuda": Profile(
        precisions=("bfloat16",),
        kinds=(
            *kinds("rhapsode:Server", SERVER, ("bfloat16",), CUDA_CALLERS),
            *kinds("engine:Engine", ENGINE, ("bfloat16",), CUDA_CALLERS),
            *kinds("transformers:ContinuousBatching", CONTINUOUS, ("bfloat16",), CUDA_CALLERS),
            *kinds("transformers:StaticBatches", GENERATE, ("bfloat16",), CUDA_CALLERS),
            *kinds("ctranslate2:StaticBatches", CTRANSLATE2, ("bfloat16",), CUDA_CALLERS),
        ),
        step_rows=(1, 64, 256),
        wire_callers=256,
    ),
}
