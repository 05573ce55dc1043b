"""Generates docs/api.md from the comments of proto/rhapsode/v1, or with --check says whether it is the committed page.

python tools/generate_reference.py [--check]
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

from google.protobuf.descriptor_pb2 import FileDescriptorSet
from reference.page import render
from reference.schema import read_schema

ROOT = Path(__file__).resolve().parents[1]
PROTO = ROOT / "proto"
PAGE = ROOT / "docs" / "api.md"


def describe(proto: Path) -> FileDescriptorSet:
    """Our .proto files below `proto`, parsed, with their comments. Raises CalledProcessError on an invalid one."""
    sources = sorted(path.relative_to(proto).as_posix() for path in proto.glob("rhapsode/v1/*.proto"))
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "descriptors"
        command = [sys.executable, "-m", "grpc_tools.protoc", "-I", "."]
        command += ["--include_source_info", f"--descriptor_set_out={output}"]
        subprocess.run([*command, *sources], cwd=proto, check=True)
        return FileDescriptorSet.FromString(output.read_bytes())


def main() -> int:
    """Exit code 1: the committed page is not what the .proto files give."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--check", action="store_true", help="change nothing, fail on a difference")
    check = parser.parse_args().check
    try:
        page = render(read_schema(describe(PROTO)))
    except subprocess.CalledProcessError as error:
        return int(error.returncode)
    if not check:
        PAGE.write_text(page, "utf-8")
    elif not PAGE.exists() or PAGE.read_text("utf-8") != page:
        name = PAGE.relative_to(ROOT)
        print(f"{name} is not what the .proto files say: run `make docs` and commit it.", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
