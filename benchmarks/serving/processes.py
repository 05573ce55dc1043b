"""Each system in a process of its own, which lives through all rounds, and one-off measurements in fresh ones."""

import importlib
import multiprocessing
import os
import traceback
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing.connection import Connection
from typing import Any, TypeVar

from benchmarks.serving.figures import Measured
from benchmarks.serving.recorder import Plan
from benchmarks.serving.systems import Kind, Setting, System, UnavailableError

T = TypeVar("T")
SPAWN = multiprocessing.get_context("spawn")


class Host:
    """The near end of a system in its process. Raises UnavailableError when it cannot run here."""

    def __init__(self, kind: Kind, setting: Setting) -> None:
        self._connection, far = SPAWN.Pipe()
        self._process = SPAWN.Process(target=serve, args=(far, kind.factory, setting))
        self._process.start()
        far.close()
        self._receive()

    def run(self, plan: Plan) -> Measured:
        self._connection.send(plan)
        result: Measured = self._receive()
        return result

    def close(self) -> None:
        self._connection.close()
        self._process.join()

    def _receive(self) -> Any:
        try:
            answer = self._connection.recv()
        except EOFError:
            raise UnavailableError("its process has died") from None
        if isinstance(answer, UnavailableError):
            self.close()
            raise answer
        return answer


def serve(connection: Connection, factory: str, setting: Setting) -> None:
    try:
        system = make(factory, setting)
        connection.send("ready")
        try:
            serve_plans(connection, system)
        finally:
            system.close()
    except UnavailableError as error:
        connection.send(error)
    except Exception as error:
        traceback.print_exc()
        connection.send(UnavailableError(f"{type(error).__name__}: {error}"))


def make(factory: str, setting: Setting) -> System:
    module, _, name = factory.partition(":")
    system: System = getattr(importlib.import_module(f"benchmarks.serving.systems.{module}"), name)(setting)
    return system


def serve_plans(connection: Connection, system: System) -> None:
    while True:
        try:
            plan = connection.recv()
        except EOFError:
            return
        connection.send(system.run(plan))


def apart(function: Callable[..., T], *arguments: Any) -> T:
    """The function's value, computed in a fresh process that then ends."""
    with ProcessPoolExecutor(1, mp_context=SPAWN) as pool:
        return pool.submit(function, *arguments).result()


def quiet_libraries() -> None:
    """For this process and all below it."""
    os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "TRANSFORMERS_VERBOSITY": "error"}
    os.environ |= {"HF_HUB_DISABLE_PROGRESS_BARS": "1"}
