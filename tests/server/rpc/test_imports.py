"""The front-end starts in about a second because it leaves torch to the workers."""

import subprocess
import sys


def test_the_front_end_imports_neither_torch_nor_transformers() -> None:
    names = "{'torch', 'transformers', 'numpy', 'grpc'}"
    code = f"import sys, rhapsode_server.__main__; print(sorted({names} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "['grpc']\n"
