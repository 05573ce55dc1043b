"""What importing the library costs, in seconds of a core."""

import json
import subprocess
import sys

MEASURE = """
import json, sys, time
begin = time.process_time()
import rhapsode_client
print(json.dumps([time.process_time() - begin, sorted({name.partition(".")[0] for name in sys.modules})]))
"""
NOT_FOR_THE_LIBRARY = {
    "torch",
    "transformers",
    "numpy",
    "opentelemetry",
    "typer",
    "click",
    "rich",
    "prompt_toolkit",
    "rhapsode_server",
}


def measure() -> tuple[float, list[str]]:
    done = subprocess.run([sys.executable, "-c", MEASURE], capture_output=True, text=True, check=True)
    seconds, modules = json.loads(done.stdout)
    return seconds, modules


def test_the_library_is_light():
    seconds, modules = min(measure() for _ in range(3))
    assert not NOT_FOR_THE_LIBRARY & set(modules)
    assert seconds < 0.5


def test_the_command_line_needs_no_torch():
    script = "import sys, rhapsode_client.cli.app; assert not {'torch', 'prompt_toolkit'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", script], check=True)
