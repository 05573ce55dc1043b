"""A real server in its own process, as an operator starts it."""

import re
import signal
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import grpc
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub

START_SECONDS = 60.0


class ServerProcess:
    """`rhapsode-serve` with any free ports. `log` holds every line of its output so far."""

    def __init__(self, models: Path, *flags: str) -> None:
        command = [sys.executable, "-m", "rhapsode_server", "--models", str(models), "--address", "127.0.0.1:0"]
        command += ["--admin-address", "127.0.0.1:0", "--metrics-port", "0", "--device", "cpu"]
        command += ["--poll-interval", "100ms", *flags]
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, text=True
        )
        self.log: list[str] = []
        self.address = ""
        self.metrics_url = ""
        self.admin_address = ""
        self._listening = threading.Event()
        self._news = threading.Condition()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def wait_listening(self) -> None:
        assert self._listening.wait(START_SECONDS), f"it does not listen:\n{self.output}"
        assert self.address, f"it ended:\n{self.output}"

    def wait_serving(self, service: str = "", *, serving: bool = True) -> None:
        """Watch its health until `service` is SERVING, or until it is not."""
        with grpc.insecure_channel(self.address) as channel:
            request = HealthCheckRequest(service=service)
            with suppress(grpc.RpcError):  # the deadline passed, or the server ended
                for answer in HealthStub(channel).Watch(request, timeout=START_SECONDS):
                    if (answer.status == HealthCheckResponse.SERVING) is serving:
                        return
        raise AssertionError(f"{service or 'the server'} does not come to this state:\n{self.output}")

    def wait_log(self, text: str, *, after: int = 0) -> None:
        """Until a line of its log holds `text`, of those `after` so many lines."""
        with self._news:
            found = self._news.wait_for(lambda: any(text in line for line in self.log[after:]), START_SECONDS)
            assert found, f"{text!r} is not logged:\n{self.output}"

    def take_log(self) -> list[str]:
        """What it has said since it was asked last; forgotten with that."""
        with self._news:
            lines = self.log[:]
            self.log.clear()
        return lines

    def metric(self, name: str, **labels: str) -> float:
        """The sum of a metric's samples that carry `labels`."""
        with urllib.request.urlopen(self.metrics_url, timeout=10) as response:
            lines = response.read().decode().splitlines()
        wanted = [f'{key}="{value}"' for key, value in labels.items()]
        samples = [
            line for line in lines if re.match(rf"{name}(\{{| )", line) and all(label in line for label in wanted)
        ]
        return sum(float(line.rpartition(" ")[2]) for line in samples)

    def worker_processes(self) -> list[int]:
        children = Path(f"/proc/{self.process.pid}/task").glob("*/children")
        return sorted(int(pid) for path in children for pid in path.read_text().split())

    def terminate(self) -> None:
        self.process.send_signal(signal.SIGTERM)

    def wait(self) -> int:
        code = self.process.wait(60)
        self._reader.join(10)
        return code

    @property
    def output(self) -> str:
        return "".join(self.log)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with self._news:
                self.log.append(line)
                self._news.notify_all()
            if match := re.search(r"gRPC on (\S+), metrics on ([^\s,]+)", line):
                self.address, self.metrics_url = match.groups()
                self.admin_address = _admin_address(line)
                self._listening.set()
        self._listening.set()


def _admin_address(announcement: str) -> str:
    match = re.search(r"admin on ([^\s,\"]+)", announcement)
    return match[1] if match else ""


@contextmanager
def running_server(models: Path, *flags: str) -> Iterator[ServerProcess]:
    """A server that listens; killed at the end if it still runs."""
    server = ServerProcess(models, *flags)
    try:
        server.wait_listening()
        yield server
    finally:
        server.close()
