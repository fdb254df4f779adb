"""Worker processes of `ffloop run`: forked before anything is loaded, watched until all are gone,
replaced on SIGHUP.

Signals that tell something, or end at once (SIGINT, SIGQUIT), are forwarded; workers are process
groups of their own, so that each arrives once, whether it was meant for the parent or for its
group. A worker that died is reported and not replaced: a service manager restarts the whole.
Workers do not outlive their parent.

On SIGHUP the parent, which has loaded nothing of the application, forks a second set. A worker
says (_READY, to the parent) when a loop of its has begun to serve. When all of them have, the old
ones are asked to serve no new connection (_RETIRE: the loop closes its listeners, the instance
gives what was accepted ahead to the new ones), and `grace` seconds later, when the first request
of each connection that they have is in, they are ended as SIGTERM ends them. If a new one fails,
the new ones go and the old ones stay. SIGTERM ends all of them in the same two steps; a second one
is forwarded.
"""

import ctypes
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

_READY, _RETIRE = signal.SIGRTMIN, signal.SIGRTMIN + 1
_FORWARDED = (
    signal.SIGTERM,
    signal.SIGINT,
    signal.SIGQUIT,
    signal.SIGHUP,
    signal.SIGUSR1,
    signal.SIGUSR2,
)
_ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP)
_WATCHED = (*_FORWARDED, signal.SIGCHLD, _READY)
_PR_SET_PDEATHSIG = 1
_SI_KERNEL = 0x80  # a SIGHUP of a terminal that is gone, not of somebody who asks for a reload
_READY_TIMEOUT = 60.0  # seconds a new worker has until it serves

_parent = 0  # in a worker: its parent, until it has been told


def serving(loop: Any) -> None:
    """A loop has begun to serve: in a worker, tells the parent, who may have waited for it. The
    loop's `_retire` is called when the worker is to be replaced."""
    global _parent
    if not _parent:
        return
    parent, _parent = _parent, 0
    try:
        loop.add_signal_handler(_RETIRE, loop._retire)
    except (RuntimeError, ValueError):
        pass  # not in the main thread: it serves until SIGTERM
    if os.getppid() == parent:
        os.kill(parent, _READY)


def run(count: int, work: Callable[[int], int], grace: float) -> int:
    """Runs work(0) to work(count - 1), each in a process of its own, to the end. Returns an exit
    status: 0, or that of the first that failed (128 and the signal where one killed it)."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _WATCHED)
    try:
        return _Workers(count, work, grace, before).run()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _say(text: str) -> None:
    print(f"ffloop run: {text}", file=sys.stderr, flush=True)


class _Workers:
    """The parent's side. `current` and `coming` (of a reload): pid -> number; `leaving`: were
    replaced; `serving`: said so; `due`: when what is waited for next is too late."""

    def __init__(
        self, count: int, work: Callable[[int], int], grace: float, mask: set[Any]
    ) -> None:
        self._count, self._work, self._grace, self._mask = count, work, grace, mask
        self._current: dict[int, int] = {}
        self._coming: dict[int, int] = {}
        self._leaving: dict[int, int] = {}
        self._retiring: list[int] = []  # of those that leave: not asked to end yet
        self._serving: set[int] = set()
        self._due = 0.0
        self._ending = False
        self._status = 0

    def run(self) -> int:
        self._current = self._fork()
        while self._current or self._coming or self._leaving:
            self._wait()
        return self._status

    def _fork(self) -> dict[int, int]:
        sys.stdout.flush()
        sys.stderr.flush()
        parent = os.getpid()
        made: dict[int, int] = {}
        for number in range(self._count):
            pid = os.fork()
            if not pid:
                os.setpgid(0, 0)
                _end_with(parent)
                _become_child(parent)
                signal.pthread_sigmask(signal.SIG_SETMASK, self._mask)
                sys.exit(self._work(number))
            made[pid] = number
        return made

    # ---- what happens ----

    def _wait(self) -> None:
        if self._due:
            info = signal.sigtimedwait(_WATCHED, max(0.0, self._due - time.monotonic()))
        else:
            info = signal.sigwaitinfo(_WATCHED)
        if info is None:
            self._too_late()
        elif info.si_signo == signal.SIGCHLD:
            for pid, code in _ended():
                self._gone(pid, code)
        elif info.si_signo == _READY:
            self._is_ready(info.si_pid)
        elif info.si_signo == signal.SIGHUP and info.si_code != _SI_KERNEL:
            self._reload()
        elif info.si_signo == signal.SIGTERM and not self._ending:
            self._end()
        else:
            if info.si_signo in _ENDING:
                self._ending, self._retiring, self._due = True, [], 0.0
            self._tell(self._everyone(), info.si_signo)

    def _everyone(self) -> list[int]:
        return [*self._current, *self._coming, *self._leaving]

    def _tell(self, pids: Any, signum: int) -> None:
        for pid in pids:  # not reaped yet: the numbers are still theirs
            os.kill(pid, signum)

    def _gone(self, pid: int, code: int) -> None:
        self._serving.discard(pid)
        how = f"ended with status {code}" if code >= 0 else f"was killed by signal {-code}"
        expected = code == 0 or (self._ending and -code in _ENDING)
        if pid in self._coming:
            number = self._coming.pop(pid)
            if not self._ending:
                self._abandon(f"worker {number} (pid {pid}) {how} before it served")
        elif pid in self._leaving:
            number = self._leaving.pop(pid)
            if not expected and -code != signal.SIGTERM:
                _say(f"worker {number} (pid {pid}), which was to go, {how}")
        elif pid in self._current:
            number = self._current.pop(pid)
            if not expected:
                self._status = self._status or (code if code > 0 else 128 - code)
                _say(f"worker {number} (pid {pid}) {how}; {len(self._current)} left")

    # ---- the reload ----

    def _reload(self) -> None:
        if self._ending or self._coming or self._retiring:
            _say("SIGHUP while a reload is under way")
            return
        _say("reload: starting new workers")
        self._coming = self._fork()
        self._due = time.monotonic() + _READY_TIMEOUT

    def _is_ready(self, pid: int) -> None:
        self._serving.add(pid)
        if self._ending or not self._coming or not self._serving.issuperset(self._coming):
            return
        old, self._current, self._coming = self._current, self._coming, {}
        self._leaving |= old
        self._retire(list(old))

    def _retire(self, pids: list[int]) -> None:
        self._retiring = pids
        self._tell(pids, _RETIRE)
        self._due = time.monotonic() + self._grace

    def _too_late(self) -> None:
        self._due = 0.0
        if self._coming and not self._ending:
            self._abandon(f"{len(self._coming.keys() - self._serving)} serve nothing yet")
            return
        left = set(self._everyone())
        retired, self._retiring = self._retiring, []
        self._tell([pid for pid in retired if pid in left], signal.SIGTERM)
        if not self._ending:
            _say(f"reload: done, {len(self._current)} workers")

    def _end(self) -> None:
        self._ending, self._due = True, 0.0
        serving = [pid for pid in self._everyone() if pid in self._serving]
        self._tell([pid for pid in self._everyone() if pid not in self._serving], signal.SIGTERM)
        if serving:
            self._retire(serving)

    def _abandon(self, why: str) -> None:
        _say(f"reload given up, the old workers stay: {why}")
        self._due = 0.0
        self._tell(self._coming, signal.SIGTERM)
        self._leaving |= self._coming
        self._coming = {}


def _become_child(parent: int) -> None:
    global _parent
    _parent = parent
    signal.signal(_RETIRE, signal.SIG_IGN)  # until a loop listens to it


def _ended() -> Iterator[tuple[int, int]]:
    # Of one SIGCHLD: (pid, exit code, negative for a signal). Each is reaped when it is its turn:
    # the others' numbers are theirs meanwhile, and may be signalled.
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if not pid:
            return
        yield pid, os.waitstatus_to_exitcode(status)


def _end_with(parent: int) -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:  # it went before that
        os.kill(os.getpid(), signal.SIGTERM)
