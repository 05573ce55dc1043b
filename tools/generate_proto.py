"""Generates the Python of proto/rhapsode/v1, or with --check says how the committed code differs from it.

python tools/generate_proto.py [--check]
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PROTO = ROOT / "proto"
PACKAGE = Path("rhapsode/v1")
GENERATED = ("*_pb2.py", "*_pb2.pyi", "*_pb2_grpc.py")


def generate(destination: Path) -> None:
    """Runs protoc; the files land in `destination`/rhapsode/v1. Raises CalledProcessError on an invalid .proto."""
    sources = sorted(path.relative_to(PROTO).as_posix() for path in (PROTO / PACKAGE).glob("*.proto"))
    outputs = [f"--{kind}_out={destination}" for kind in ("python", "pyi", "grpc_python")]
    subprocess.run([sys.executable, "-m", "grpc_tools.protoc", "-I", ".", *outputs, *sources], cwd=PROTO, check=True)


def generated_files(folder: Path) -> dict[str, Path]:
    """The generated files below `folder`, by name."""
    return {path.name: path for pattern in GENERATED for path in (folder / PACKAGE).glob(pattern)}


def differences(committed: dict[str, Path], fresh: dict[str, Path]) -> list[str]:
    """One line for each file that is missing, left over or different."""
    lines = [f"{name}: missing" for name in fresh.keys() - committed.keys()]
    lines += [f"{name}: its .proto is gone" for name in committed.keys() - fresh.keys()]
    both = fresh.keys() & committed.keys()
    lines += [f"{name}: differs" for name in both if fresh[name].read_bytes() != committed[name].read_bytes()]
    return sorted(lines)


def replace(committed: dict[str, Path], fresh: dict[str, Path]) -> None:
    """Puts the fresh files in the place of the committed."""
    for path in committed.values():
        path.unlink()
    for name, path in fresh.items():
        shutil.copyfile(path, PROTO / PACKAGE / name)


def main() -> int:
    """Exit code 1: the committed code is not what the .proto files give."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--check", action="store_true", help="change nothing, fail on a difference")
    check = parser.parse_args().check
    with tempfile.TemporaryDirectory() as folder:
        try:
            generate(Path(folder))
        except subprocess.CalledProcessError as error:
            return int(error.returncode)
        committed, fresh = generated_files(PROTO), generated_files(Path(folder))
        if not check:
            replace(committed, fresh)
        elif lines := differences(committed, fresh):
            print(*(f"proto/{PACKAGE}/{line}" for line in lines), sep="\n", file=sys.stderr)
            print(
                "The generated code is not that of the .proto files: run `make proto` and commit it.", file=sys.stderr
            )
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
