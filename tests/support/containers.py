"""Images built by buildah in a storage of their own, and containers of them run by runc as a strict cluster would."""

import json
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

TOOLS = ("buildah", "runc", "mmdebstrap")
_STORAGE = '[storage]\ndriver = "overlay"\nrunroot = "{0}/run"\ngraphroot = "{0}/graph"\n'
_NAMESPACES = ("pid", "ipc", "uts", "mount")  # not the network's: calls come from outside
_MASKED = ["/proc/kcore", "/proc/keys", "/proc/timer_list", "/sys/firmware"]


def missing_tools() -> list[str]:
    return [tool for tool in TOOLS if shutil.which(tool) is None]


@dataclass(frozen=True, slots=True)
class Layer:
    """`size` in bytes, as it lies unpacked."""

    instruction: str
    digest: str
    size: int


class Storage:
    """Where images lie, apart from those of the machine."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        configuration = folder / "storage.conf"
        configuration.write_text(_STORAGE.format(folder), "utf-8")
        self.environment = {**os.environ, "CONTAINERS_STORAGE_CONF": str(configuration), "BUILDAH_ISOLATION": "chroot"}

    def buildah(self, *arguments: str) -> str:
        """What it prints. Raises AssertionError with what it complains of."""
        command = ["buildah", *arguments]
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{' '.join(command)}:\n{done.stderr}"
        return done.stdout.strip()

    def images(self) -> list[str]:
        """Their names with tags."""
        return self.buildah("images", "--format", "{{.Name}}:{{.Tag}}").split()

    def stand_in(self, name: str, packages: Sequence[str]) -> None:
        """An image of this name made of Debian's packages, with `python` where the official ones have it."""
        archive = self.folder / "base.tar"
        command = ["mmdebstrap", "--variant=minbase", f"--include={','.join(packages)}"]
        command += ['--customize-hook=ln -s /usr/bin/python3 "$1/usr/local/bin/python"', "bookworm", str(archive)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        container = self.buildah("from", "scratch")
        self.buildah("add", "--quiet", container, str(archive), "/")
        archive.unlink()
        path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        self.buildah("config", "--env", f"PATH={path}", container)
        self.buildah("commit", "--quiet", "--rm", container, name)

    def layers(self, image: str) -> list[Layer]:
        """From the lowest to the highest."""
        document = json.loads(self.buildah("inspect", "--type", "image", image))["OCIv1"]
        written = [entry for entry in document["history"] if not entry.get("empty_layer")]
        known = json.loads((self.folder / "graph/overlay-layers/layers.json").read_text())
        sizes = {layer.get("diff-digest"): layer.get("diff-size", 0) for layer in known}
        return [
            Layer(entry.get("created_by", ""), digest, sizes[digest])
            for entry, digest in zip(written, document["rootfs"]["diff_ids"], strict=True)
        ]

    def configuration(self, image: str) -> dict[str, Any]:
        """What the image says of how it is run."""
        configuration: dict[str, Any] = json.loads(self.buildah("inspect", "--type", "image", image))["OCIv1"]["config"]
        return configuration

    @contextmanager
    def container(self, image: str, run: "Run") -> Iterator["Container"]:
        """It runs within the block; killed at its end if it still does."""
        working = self.buildah("from", image)
        try:
            root = self.buildah("mount", working)
            bundle = self.folder / "bundles" / working
            bundle.mkdir(parents=True, exist_ok=True)
            (bundle / "config.json").write_text(json.dumps(run.specification(self.configuration(image), root)))
            container = Container(working, bundle, self.folder / "runc")
            try:
                yield container
            finally:
                container.close()
        finally:
            self.buildah("rm", working)

    def close(self) -> None:
        self.buildah("rm", "--all")
        self.buildah("rmi", "--all", "--force")
        shutil.rmtree(self.folder, ignore_errors=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A read-only root file system, no capability, no new privilege; `user` unset: the image's own."""

    arguments: Sequence[str] | None = None
    entrypoint: Sequence[str] | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    read_only: Mapping[str, Path] = field(default_factory=dict)
    writable: Mapping[str, Path] = field(default_factory=dict)
    user: str | None = None

    def specification(self, image: dict[str, Any], root: str) -> dict[str, Any]:
        """The runtime's, of what the image says and this changes."""
        uid, gid = map(int, (self.user or image["User"]).split(":"))
        command = [*(self.entrypoint or image["Entrypoint"])]
        command += image.get("Cmd", []) if self.arguments is None else self.arguments
        variables = [*image["Env"], *(f"{name}={value}" for name, value in self.environment.items())]
        process = {"user": {"uid": uid, "gid": gid}, "args": command, "env": variables, "cwd": "/"}
        return {
            "ociVersion": "1.0.2",
            "process": {**process, "capabilities": {}, "noNewPrivileges": True},
            "root": {"path": root, "readonly": True},
            "mounts": [*_system_mounts(), *self._volumes()],
            "linux": {"namespaces": [{"type": kind} for kind in _NAMESPACES], "maskedPaths": _MASKED},
        }

    def _volumes(self) -> Iterator[dict[str, Any]]:
        for mode, volumes in (("ro", self.read_only), ("rw", self.writable)):
            for target, source in volumes.items():
                yield {"destination": target, "type": "bind", "source": str(source), "options": ["bind", mode]}


def _system_mounts() -> list[dict[str, Any]]:
    memory = {"type": "tmpfs", "source": "tmpfs"}
    return [
        {"destination": "/proc", "type": "proc", "source": "proc"},
        {"destination": "/dev", **memory, "options": ["nosuid", "mode=755"]},
        {"destination": "/dev/shm", **memory, "options": ["nosuid", "nodev", "mode=1777"]},
        {"destination": "/sys", "type": "none", "source": "/sys", "options": ["rbind", "ro"]},
        {"destination": "/tmp", **memory, "options": ["nosuid", "nodev", "mode=1777"]},
    ]


class Container:
    """`log` holds every line of its output so far."""

    def __init__(self, name: str, bundle: Path, state: Path) -> None:
        self._name = name
        self._runc = ["runc", "--root", str(state)]
        self._process = subprocess.Popen(
            [*self._runc, "run", "--bundle", str(bundle), name],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.log: list[str] = []
        self._news = threading.Condition()
        self._ended = False
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def wait_log(self, text: str, seconds: float = 120) -> str:
        """The first line that holds `text`, once it is there."""
        with self._news:
            self._news.wait_for(lambda: self._ended or any(text in line for line in self.log), seconds)
            found = [line for line in self.log if text in line]
        assert found, f"{text!r} is not logged:\n{self.output}"
        return found[0]

    def wait(self, seconds: float = 300) -> int:
        code = self._process.wait(seconds)
        self._reader.join(10)
        return code

    def kill(self, signal: str) -> None:
        """To its first process."""
        subprocess.run([*self._runc, "kill", self._name, signal], check=True)

    def execute(self, *command: str) -> subprocess.CompletedProcess[str]:
        """As its user, beside its first process."""
        return subprocess.run([*self._runc, "exec", self._name, *command], capture_output=True, text=True, check=False)

    @property
    def pid(self) -> int:
        """Of its first process, as the machine numbers it."""
        done = subprocess.run([*self._runc, "state", self._name], capture_output=True, text=True, check=True)
        return int(json.loads(done.stdout)["pid"])

    @property
    def output(self) -> str:
        return "".join(self.log)

    def close(self) -> None:
        if self._process.poll() is None:
            self.kill("KILL")
            self.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            with self._news:
                self.log.append(line)
                self._news.notify_all()
        with self._news:
            self._ended = True
            self._news.notify_all()
