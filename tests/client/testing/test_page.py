"""docs/testing-your-service.md does what it says."""

import re
import subprocess
import sys
from pathlib import Path

PAGE = (Path(__file__).parents[3] / "docs" / "testing-your-service.md").read_text("utf-8")


def test_the_python_of_the_page_runs() -> None:
    blocks = re.findall(r"^```python\n(.+?)^```$", PAGE, re.M | re.S)
    assert len(blocks) == 4
    done = subprocess.run([sys.executable, "-c", "\n".join(blocks)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
