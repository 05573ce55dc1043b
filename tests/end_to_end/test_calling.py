"""What docs/calling.md says to do works."""

import re
import subprocess
import sys
from pathlib import Path

from google.protobuf import json_format
from rhapsode.v1 import generation_pb2, models_pb2

from .conftest import Serving

PAGE = (Path(__file__).parents[2] / "docs" / "calling.md").read_text("utf-8")


def test_the_python_of_the_page_runs(serving: Serving) -> None:
    [code] = re.findall(r"^```python\n(.+?)^```$", PAGE, re.M | re.S)
    assert "127.0.0.1:50051" in code
    command = [sys.executable, "-c", code.replace("127.0.0.1:50051", serving.address)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().splitlines()[-1].startswith("sampling.top_p: ")
    assert len(done.stdout.splitlines()) > 1


def test_the_calls_of_the_page_exist() -> None:
    services = {**generation_pb2.DESCRIPTOR.services_by_name, **models_pb2.DESCRIPTOR.services_by_name}
    calls = re.findall(r"rhapsode\.v1\.(\w+)/(\w+)$", PAGE, re.M)
    assert calls == [("ModelService", "ListModels"), ("GenerationService", "GenerateStream")]
    for service, method in calls:
        assert method in services[service].methods_by_name
    [request] = re.findall(r"-d '(.+)'", PAGE)
    assert json_format.Parse(request, generation_pb2.GenerateRequest()).stopping.stop_strings == ["\n\n"]
