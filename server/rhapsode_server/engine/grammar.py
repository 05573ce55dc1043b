"""Constraints are made ready away from the engine's thread. Imports no torch, and the library only at first use."""

import logging
import queue
import threading
from collections import OrderedDict
from collections.abc import Collection
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from rhapsode_server.engine.refusal import BadConstraint
from rhapsode_server.engine.request import Constraint, Matcher
from rhapsode_server.engine.trial import Trial

if TYPE_CHECKING:
    from rhapsode_server.engine.matcher import Vocabulary

NUM_THREADS = 2
MAX_WAITING = 256
CACHE_SIZE = 128
TIME_LIMIT = 5.0

logger = logging.getLogger("rhapsode.engine")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Job:
    constraint: Constraint
    end_ids: Collection[int]
    matcher: Future[Matcher]


class Grammars:
    """Constraints for one tokenizer. Nothing is started or loaded before the first.

    A constraint is proven in a process of its own, which is killed after the time limit, and then built here; that it
    is proven is remembered. `prepare` and `close` belong to one thread.
    """

    def __init__(self, tokenizer_file: Path, *, vocabulary_size: int, time_limit: float = TIME_LIMIT) -> None:
        """`time_limit` in seconds, for each constraint from when its turn comes."""
        self._tokenizer_file: Final = tokenizer_file
        self._vocabulary_size: Final = vocabulary_size
        self._time_limit: Final = time_limit
        self._jobs: Final = queue.Queue[_Job | None](MAX_WAITING)
        self._threads: Final = list[threading.Thread]()
        self._lock: Final = threading.Lock()  # for all below
        self._vocabulary: Vocabulary | None = None
        self._proven: Final = OrderedDict[Constraint, str]()  # the one used last is last

    def prepare(self, constraint: Constraint, end_ids: Collection[int]) -> Future[Matcher]:
        """A matcher, soon; `end_ids` are allowed exactly where the text so far has the form. Never waits.

        The future raises BadConstraint. Cancelled before its turn comes, it costs nothing.
        """
        job = _Job(constraint=constraint, end_ids=end_ids, matcher=Future())
        if not self._threads:
            self._start()
        try:
            self._jobs.put_nowait(job)
        except queue.Full:
            job.matcher.set_exception(BadConstraint("too many constraints wait to be prepared; try again later"))
        return job.matcher

    def close(self) -> None:
        """End threads and processes; those that are at work first finish, or reach the time limit."""
        for _ in self._threads:
            self._jobs.put(None)
        for thread in self._threads:
            thread.join()
        self._threads.clear()

    def _start(self) -> None:
        self._threads.extend(threading.Thread(target=self._run, daemon=True) for _ in range(NUM_THREADS))
        for thread in self._threads:
            thread.start()

    def _run(self) -> None:
        trial = Trial(self._tokenizer_file, self._vocabulary_size, self._time_limit)
        while job := self._jobs.get():
            if job.matcher.set_running_or_notify_cancel():
                self._finish(job, trial)
        trial.close()

    def _finish(self, job: _Job, trial: Trial) -> None:
        try:
            grammar = self._grammar(job.constraint, trial)
            job.matcher.set_result(self._load_vocabulary().matcher(grammar, job.end_ids))
        except BadConstraint as error:
            job.matcher.set_exception(error)
        except Exception:
            logger.exception("a constraint could not be prepared")
            job.matcher.set_exception(BadConstraint("it could not be prepared"))

    def _grammar(self, constraint: Constraint, trial: Trial) -> str:
        with self._lock:
            if grammar := self._proven.get(constraint):
                self._proven.move_to_end(constraint)
                return grammar
        grammar = trial.prove(constraint)
        with self._lock:
            self._proven[constraint] = grammar
            if len(self._proven) > CACHE_SIZE:
                self._proven.popitem(last=False)
        return grammar

    def _load_vocabulary(self) -> "Vocabulary":
        from rhapsode_server.engine.matcher import Vocabulary

        with self._lock:
            self._vocabulary = self._vocabulary or Vocabulary(self._tokenizer_file, self._vocabulary_size)
        return self._vocabulary
