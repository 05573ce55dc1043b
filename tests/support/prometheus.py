"""A real Prometheus on loopback, and its promtool, where Debian's package `prometheus` is installed."""

import json
import re
import shutil
import subprocess
import threading
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

PROMTOOL = shutil.which("promtool")
PROMETHEUS = shutil.which("prometheus")
needs_promtool = pytest.mark.skipif(not PROMTOOL, reason="needs promtool: apt-get install prometheus")
needs_prometheus = pytest.mark.skipif(not PROMETHEUS, reason="needs prometheus: apt-get install prometheus")

START_SECONDS = 30.0


class PrometheusProcess:
    """Scrapes `target` (HOST:PORT) five times a second."""

    def __init__(self, folder: Path, target: str) -> None:
        assert PROMETHEUS
        scrape = {"job_name": "rhapsode", "scrape_interval": "200ms", "static_configs": [{"targets": [target]}]}
        config = folder / "prometheus.yml"
        config.write_text(yaml.safe_dump({"scrape_configs": [scrape]}))
        command = [PROMETHEUS, f"--config.file={config}", f"--storage.tsdb.path={folder / 'data'}"]
        self.process = subprocess.Popen(
            [*command, "--web.listen-address=127.0.0.1:0"], stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True
        )
        self.url = ""
        self.log: list[str] = []
        self._ready = threading.Event()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def query(self, expr: str) -> list[dict[str, Any]]:
        """What `expr` gives now. Raises AssertionError with Prometheus' own words for one that it refuses."""
        address = f"{self.url}/api/v1/query?{urllib.parse.urlencode({'query': expr})}"
        try:
            with urllib.request.urlopen(address, timeout=10) as response:
                result: list[dict[str, Any]] = json.load(response)["data"]["result"]
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{expr}: {error.read().decode()}") from None
        return result

    def wait_ready(self) -> None:
        assert self._ready.wait(START_SECONDS), f"it does not listen:\n{''.join(self.log)}"
        assert self.url, f"it ended:\n{''.join(self.log)}"

    def close(self) -> None:
        self.process.terminate()
        self.process.wait(30)
        self._reader.join(10)
        assert self.process.stderr is not None
        self.process.stderr.close()

    def _read(self) -> None:
        assert self.process.stderr is not None
        waited_for = {"Listening on", "Server is ready"}
        for line in self.process.stderr:
            self.log.append(line)
            if match := re.search(r"Listening on.*address=127\.0\.0\.1:(\d+)", line):
                self.url = f"http://127.0.0.1:{match[1]}"
            waited_for -= {each for each in waited_for if each in line}
            if not waited_for:
                self._ready.set()
        self._ready.set()


@contextmanager
def running_prometheus(folder: Path, target: str) -> Iterator[PrometheusProcess]:
    prometheus = PrometheusProcess(folder, target)
    try:
        prometheus.wait_ready()
        yield prometheus
    finally:
        prometheus.close()
