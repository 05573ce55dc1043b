"""Constraints are made ready away from the engine's thread. Imports no torch, and the library only at first use."""

import queue
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Collection
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from rhapsode_server.engine.host_processors import affinity
from rhapsode_server.engine.refusal import BadConstraint, ConstraintsBusy
from rhapsode_server.engine.request import Constraint, Matcher
from rhapsode_server.engine.system import run_on
from rhapsode_server.engine.trial import Trial

if TYPE_CHECKING:
    from rhapsode_server.engine.matcher import Vocabulary

NUM_THREADS = 2
MAX_WAITING = 256
CACHE_SIZE = 128
TIME_LIMIT = 5.0
# For so long a failure is remembered: it may have been the machine that was slow.
FAILURE_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class _Job:
    """One request's share in a constraint."""

    end_ids: Collection[int]
    matcher: Future[Matcher]


@dataclass(frozen=True, slots=True)
class _Failure:
    error: BadConstraint
    forgotten_at: float


class Grammars:
    """Constraints for one tokenizer. Nothing is started or loaded before the first.

    A constraint is proven in a process of its own, which is killed after the time limit, and then built here; that it
    is proven, or failed, is remembered. Equal ones that wait are proven once. `prepare` and `close` belong to one
    thread.
    """

    def __init__(
        self,
        tokenizer_file: Path,
        *,
        vocabulary_size: int,
        time_limit: float = TIME_LIMIT,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`time_limit` in seconds, for each constraint from when its turn comes."""
        self._tokenizer_file: Final = tokenizer_file
        self._vocabulary_size: Final = vocabulary_size
        self._time_limit: Final = time_limit
        self._clock: Final = clock
        self._processors: Final = affinity()  # of a thread that is not pinned yet
        self._queue: Final = queue.Queue[Constraint | None](MAX_WAITING)
        self._threads: Final = list[threading.Thread]()
        self._lock: Final = threading.Lock()  # for all below
        self._vocabulary: Vocabulary | None = None
        self._jobs: Final = dict[Constraint, list[_Job]]()  # of those in the queue or at work
        self._verdicts: Final = OrderedDict[Constraint, str | _Failure]()  # the one used last is last

    def prepare(self, constraint: Constraint, end_ids: Collection[int]) -> Future[Matcher]:
        """A matcher, soon; `end_ids` are allowed exactly where the text so far has the form. Never waits.

        The future raises BadConstraint, ConstraintsBusy. Cancelled before its turn comes, it costs nothing.
        """
        job = _Job(end_ids, Future())
        if not self._threads:
            self._start()
        with self._lock:
            is_under_way = constraint in self._jobs
            self._jobs.setdefault(constraint, []).append(job)
        if not is_under_way:
            self._enqueue(constraint, job)
        return job.matcher

    def close(self) -> None:
        """End threads and processes; those that are at work first finish, or reach the time limit."""
        for _ in self._threads:
            self._queue.put(None)
        for thread in self._threads:
            thread.join()
        self._threads.clear()

    def _start(self) -> None:
        self._threads.extend(threading.Thread(target=self._run, daemon=True) for _ in range(NUM_THREADS))
        for thread in self._threads:
            thread.start()

    def _enqueue(self, constraint: Constraint, job: _Job) -> None:
        try:
            self._queue.put_nowait(constraint)
        except queue.Full:
            self._take_jobs(constraint)  # which nobody else can have joined meanwhile
            job.matcher.set_exception(ConstraintsBusy("too many constraints wait to be prepared; try again later"))

    def _take_jobs(self, constraint: Constraint) -> list[_Job]:
        """Those that are wanted. From here on, equal ones wait for their own turn."""
        with self._lock:
            jobs = self._jobs.pop(constraint)
        return [job for job in jobs if job.matcher.set_running_or_notify_cancel()]

    def _is_wanted(self, constraint: Constraint) -> bool:
        """If it is not, it is dropped."""
        with self._lock:
            is_wanted = not all(job.matcher.cancelled() for job in self._jobs[constraint])
            if not is_wanted:
                del self._jobs[constraint]
        return is_wanted

    def _run(self) -> None:
        run_on(self._processors)
        trial = Trial(self._tokenizer_file, self._vocabulary_size, self._time_limit)
        while constraint := self._queue.get():
            if self._is_wanted(constraint):
                verdict = self._verdict(constraint, trial)
                for job in self._take_jobs(constraint):
                    self._finish(job, verdict)
        trial.close()

    def _finish(self, job: _Job, verdict: str | _Failure) -> None:
        if isinstance(verdict, _Failure):
            job.matcher.set_exception(verdict.error)
            return
        try:
            matcher = self._load_vocabulary().matcher(verdict, job.end_ids)
        except BaseException as error:
            job.matcher.set_exception(_bad(error))
        else:
            job.matcher.set_result(matcher)

    def _verdict(self, constraint: Constraint, trial: Trial) -> str | _Failure:
        """What is remembered of it, or what the trial says: the constraint in the words of the library."""
        if known := self._recall(constraint):
            return known
        verdict: str | _Failure
        try:
            verdict = trial.prove(constraint)
        except BaseException as error:
            verdict = _Failure(_bad(error), self._clock() + FAILURE_SECONDS)
        with self._lock:
            self._verdicts[constraint] = verdict
            self._verdicts.move_to_end(constraint)
            if len(self._verdicts) > CACHE_SIZE:
                self._verdicts.popitem(last=False)
        return verdict

    def _recall(self, constraint: Constraint) -> str | _Failure | None:
        with self._lock:
            verdict = self._verdicts.get(constraint)
            if verdict is not None:
                self._verdicts.move_to_end(constraint)
        is_stale = isinstance(verdict, _Failure) and verdict.forgotten_at <= self._clock()
        return None if is_stale else verdict

    def _load_vocabulary(self) -> "Vocabulary":
        from rhapsode_server.engine.matcher import Vocabulary

        with self._lock:
            self._vocabulary = self._vocabulary or Vocabulary(self._tokenizer_file, self._vocabulary_size)
        return self._vocabulary


def _bad(error: BaseException) -> BadConstraint:
    """Whatever happened to a constraint; a panic of the library is no Exception."""
    if isinstance(error, BadConstraint):
        return error
    return BadConstraint("it could not be prepared", bug=error)
