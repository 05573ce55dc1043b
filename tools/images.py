"""Builds the images with docker, podman or buildah, whichever is there and works.

python tools/images.py [--torch cpu|cuda] [serve] [train] [-- FLAGS OF THE BUILDER]
"""

import argparse
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
IMAGES = {"serve": "server", "train": "trainer"}
# buildah alone does not keep the layers of a build for the next one unless it is told to.
BUILDERS = {"docker": ("docker", "build"), "podman": ("podman", "build"), "buildah": ("buildah", "build", "--layers")}


class ImageError(Exception):
    """There is nothing to build with, or a build failed."""


def find_builder() -> Sequence[str]:
    """The first that answers: a client of docker without its daemon does not. Raises ImageError."""
    for name, command in BUILDERS.items():
        if _succeeds(name, "info"):
            return command
    raise ImageError(f"none of {', '.join(BUILDERS)} works here: install one, or start docker's daemon")


def build(builder: Sequence[str], image: str, torch: str, flags: Sequence[str]) -> str:
    """Returns the image's name with its tag. Raises ImageError."""
    tag = f"rhapsode-{image}:{version(IMAGES[image])}-{torch}"
    command = [*builder, "--file", f"Dockerfile.{image}", "--build-arg", f"TORCH={torch}", "--tag", tag]
    command += [*labels(), *flags, "."]
    print("\n$", shlex.join(command), flush=True)
    if code := subprocess.run(command, cwd=ROOT, check=False).returncode:
        raise ImageError(f"building {tag} failed with exit code {code}")
    return tag


def version(folder: str) -> str:
    return str(tomllib.loads((ROOT / folder / "pyproject.toml").read_text("utf-8"))["project"]["version"])


def labels() -> list[str]:
    """What the sources are, where git knows it."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        revision = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return []
    return ["--label", f"org.opencontainers.image.revision={revision}"]


def _succeeds(*command: str) -> bool:
    try:
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    except OSError:
        return False


def main(arguments: Sequence[str]) -> None:
    own = list(arguments)
    flags = own[own.index("--") + 1 :] if "--" in own else []
    parser = argparse.ArgumentParser(prog="images", description="Build the images of Rhapsode.")
    parser.add_argument("images", nargs="*", choices=[*IMAGES, []], help="serve, train; both if none is named")
    parser.add_argument("--torch", choices=("cpu", "cuda"), default="cuda", help="the build of torch (default: cuda)")
    chosen = parser.parse_args(own[: len(own) - len(flags)])
    builder = find_builder()
    built = [build(builder, image, chosen.torch, flags) for image in chosen.images or IMAGES]
    print("\nBuilt:", *built)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except ImageError as error:
        sys.exit(f"images: {error}")
