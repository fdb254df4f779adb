"""The supervisor of `ffloop run --workers`: forks workers before the program is loaded, replaces
each that ends, and all of them on SIGHUP.

Each worker is a process group of its own, and ends with the supervisor. The supervisor forwards
SIGINT, SIGQUIT, SIGUSR1, SIGUSR2 and a lost terminal's SIGHUP, so that a worker gets each signal
once, whether the supervisor or its group was sent the signal.

A worker that ends unasked is replaced, after a longer delay at each further failure. After _LIMIT
failures in a row (_LIMIT_AT_START while no worker has served) the supervisor ends the others, and
exits with the last failure's status.

On SIGHUP the supervisor forks a second set. When all new workers serve, the old ones retire: they
close their listeners, and the instance hands the connections that it accepted ahead to the new
ones. `grace` seconds later, in which requests on open connections may come in, the old workers get
SIGTERM. If a new worker fails, the new ones end and the old ones stay. SIGTERM ends all workers in
the same two steps; a second one, or SIGINT, is forwarded, and whatever is to end it after that
kills.

Where the others depend on worker 0 (it has F-Stack's primary process), worker 0 leads: it starts
first and ends last, and when it ends, or on SIGHUP, all end and start anew.
"""

import contextlib
import ctypes
import os
import selectors
import signal
import socket
import struct
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import Enum, auto
from functools import partial

from .._loop import worker
from .arguments import say
from .listeners import Listeners

_ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP)
_WATCHED = (*_ENDING, signal.SIGUSR1, signal.SIGUSR2, signal.SIGCHLD)
_READY_TIMEOUT = 60.0  # seconds within which a new worker must serve
_SETTLED = 10.0  # seconds; a failure after a longer life is the first in a row
_LIMIT = 6  # failures in a row
_LIMIT_AT_START = 2  # the same while no worker has ever served: all would fail alike
_DELAY, _DELAY_MOST = 0.25, 8.0  # seconds before a replacement: after two failures; at most

_LOOK = 0.05  # seconds between looks at the workers whose end worker 0 waits for

_DEADLINE = -1  # the key of a reload's or the end's timer
_PR_SET_PDEATHSIG = 1
_SI_KERNEL = 0x80  # si_code of a SIGHUP by a lost terminal, which asks for no reload
_SIGNALFD_SIZE = 128


def run(
    count: int,
    work: Callable[[int], int],
    grace: float,
    forever: bool,
    ready: Callable[[], None] = lambda: None,
    led: bool = False,
    patient: bool = False,
    at_end: Callable[[], None] = lambda: None,
) -> int:
    """Runs work(0) to work(count - 1), each in a process of its own; before that, ready(), when
    signals to this process are kept. With `forever` also a worker that ends with status 0 is
    replaced. `led`: the others need worker 0. `patient`: what fails before it serves is tried again
    at the next SIGHUP. at_end() is called when SIGTERM or repeated failures end all: nobody is to
    connect any more. Returns an exit status: 0, or that of a worker that failed and was not
    replaced (128 plus the signal that killed it)."""
    kind = _LedSupervisor if led else _Supervisor
    with contextlib.closing(_Signals()) as signals:
        ready()
        return kind(count, work, grace, forever, signals, at_end, patient).run()


def end_with_parent(parent: int) -> None:
    """Has this process, a child of `parent`, get SIGTERM when `parent` ends."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:  # `parent` ended before the prctl
        os.kill(os.getpid(), signal.SIGTERM)


class _Signals:
    """The signals of _WATCHED, from a signalfd(2), which a selector takes beside sockets."""

    def __init__(self) -> None:
        self._before = signal.pthread_sigmask(signal.SIG_BLOCK, _WATCHED)
        bits = sum(1 << (number - 1) for number in _WATCHED)
        mask = ctypes.create_string_buffer(bits.to_bytes(8, sys.byteorder), _SIGNALFD_SIZE)
        libc = ctypes.CDLL(None, use_errno=True)
        self._fd: int = libc.signalfd(-1, mask, os.O_CLOEXEC | os.O_NONBLOCK)
        if self._fd < 0:
            self.close()
            raise OSError(ctypes.get_errno(), "signalfd: " + os.strerror(ctypes.get_errno()))

    def close(self) -> None:
        """Restores the signal mask. Idempotent."""
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = -1
        signal.pthread_sigmask(signal.SIG_SETMASK, self._before)

    def fileno(self) -> int:
        return self._fd

    def read(self) -> Iterator[tuple[int, int]]:
        """Each signal that has come: its number and si_code (how it was sent)."""
        with contextlib.suppress(BlockingIOError):
            while info := os.read(self._fd, _SIGNALFD_SIZE):
                number, _, code = struct.unpack_from("=Iii", info)
                yield number, code


class _Stage(Enum):
    COMING = auto()  # new in a reload, until all new workers serve
    CURRENT = auto()
    LEAVING = auto()  # replaced by a reload, or new in one that was given up


@dataclass(eq=False, slots=True)
class _Worker:
    number: int
    pid: int
    control: socket.socket  # a byte: serves; shut down: retire (_loop/worker.py)
    asks: socket.socket  # requests for listeners
    stage: _Stage
    serves: bool = False
    began: float = field(default_factory=time.monotonic)

    def tell(self, signum: int) -> None:
        os.kill(self.pid, signum)  # not reaped yet, so the pid is still the worker's

    def close(self) -> None:
        self.control.close()
        self.asks.close()

    def retire(self) -> None:
        with contextlib.suppress(OSError):
            self.control.shutdown(socket.SHUT_WR)


class _Supervisor:
    """`_timers`: calls due later, by the number of the worker to be replaced, or _DEADLINE for a
    reload or the end."""

    def __init__(
        self,
        count: int,
        work: Callable[[int], int],
        grace: float,
        forever: bool,
        signals: _Signals,
        at_end: Callable[[], None],
        patient: bool,
    ) -> None:
        self._work, self._grace, self._forever, self._signals = work, grace, forever, signals
        self._at_end, self._patient = at_end, patient
        self._numbers = range(count)
        self._workers: dict[int, _Worker] = {}  # by pid
        self._failures = [0] * count  # in a row, by worker number
        self._timers: dict[int, tuple[float, Callable[[], None]]] = {}
        self._proven = False  # a worker has served, or settled
        self._ending = False
        self._forwarded = False  # a signal that is to end the workers
        self._asked_again = False  # SIGHUP came while a reload was under way
        self._status = 0
        self._listeners = Listeners()
        self._selector = selectors.DefaultSelector()
        self._selector.register(signals.fileno(), selectors.EVENT_READ)

    def run(self) -> int:
        self._begin()
        while self._workers or self._timers or (self._patient and not self._ending):
            self._wait()
        self._selector.close()
        return self._status

    def _begin(self) -> None:
        for number in self._numbers:
            self._start(number, _Stage.CURRENT)

    def _start(self, number: int, stage: _Stage) -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        parent = os.getpid()
        control, its_control = socket.socketpair()
        asks, its_asks = socket.socketpair(type=socket.SOCK_SEQPACKET)
        pid = os.fork()
        if not pid:
            control.close()
            asks.close()
            self._become_worker(parent, its_control, its_asks)
            sys.exit(self._work(number))
        its_control.close()
        its_asks.close()
        one = self._workers[pid] = _Worker(number, pid, control, asks, stage)
        self._selector.register(control, selectors.EVENT_READ, partial(self._said, one))
        self._selector.register(asks, selectors.EVENT_READ, partial(self._asked, one))

    def _become_worker(self, parent: int, control: socket.socket, asks: socket.socket) -> None:
        os.setpgid(0, 0)
        end_with_parent(parent)
        for sibling in self._workers.values():
            sibling.close()
        self._listeners.close()
        self._selector.close()
        self._signals.close()
        worker.begin(control.detach(), asks.detach())

    def _later(self, key: int, delay: float, call: Callable[[], None]) -> None:
        self._timers[key] = (time.monotonic() + delay, call)

    def _of(self, stage: _Stage) -> list[_Worker]:
        return [each for each in self._workers.values() if each.stage is stage]

    # ---- what happens ----

    def _wait(self) -> None:
        timeout = None
        if self._timers:
            timeout = max(0.0, min(when for when, _ in self._timers.values()) - time.monotonic())
        for key, _ in self._selector.select(timeout):
            if key.data is not None:
                key.data()
        for signum, code in self._signals.read():
            self._signalled(signum, code)
        now = time.monotonic()
        for key_due in [key for key, (when, _) in self._timers.items() if when <= now]:
            if timer := self._timers.pop(key_due, None):
                timer[1]()

    def _signalled(self, signum: int, code: int) -> None:
        if signum == signal.SIGCHLD:
            for pid, status in _ended():
                if pid in self._workers:  # else an orphan, adopted where this is process 1
                    self._gone(self._workers.pop(pid), status)
        elif signum == signal.SIGHUP and code != _SI_KERNEL:
            self._reload()
        elif signum == signal.SIGTERM and not self._ending:
            self._end()
        else:
            if signum in _ENDING:
                signum = signal.SIGKILL if self._forwarded else signum
                self._ending = self._forwarded = True
                self._timers.clear()
            for each in self._workers.values():
                each.tell(signum)

    def _said(self, one: _Worker) -> None:
        self._selector.unregister(one.control)  # one byte is all: it serves, or has closed its end
        if not one.control.recv(1):
            return
        one.serves = self._proven = True
        coming = self._of(_Stage.COMING)
        if coming and not self._ending and all(each.serves for each in coming):
            self._take_over(coming)

    def _asked(self, one: _Worker) -> None:
        if not self._listeners.asked(one.pid, one.asks):
            self._selector.unregister(one.asks)

    def _gone(self, one: _Worker, status: int) -> None:
        for end in (one.control, one.asks):
            if end in self._selector.get_map():
                self._selector.unregister(end)
        one.close()
        self._listeners.left(one.pid, replaced=one.stage is _Stage.CURRENT and not self._ending)
        how = f"ended with status {status}" if status >= 0 else f"was killed by signal {-status}"
        what = f"worker {one.number} (pid {one.pid}) {how}"
        if not self._ending and one.stage is _Stage.CURRENT:
            self._replace(one, status, what)
            return
        if not self._ending and one.stage is _Stage.COMING:
            self._abandon(f"{what} before it served")
            return
        if status != 0 and -status not in _ENDING:  # asked to end, it ended otherwise
            say(what)
            if self._ending:
                self._status = self._status or _exit_status(status)
        if self._ending and not self._workers:
            self._timers.clear()

    # ---- replacing one ----

    def _replace(self, one: _Worker, status: int, what: str) -> None:
        if status == 0 and not self._forever:
            return
        if self._patient and not one.serves:
            say(f"{what} before it served: the next change starts another")
            return
        settled = time.monotonic() - one.began >= _SETTLED
        self._proven = self._proven or settled
        failures = 1 if settled else self._failures[one.number] + 1
        self._failures[one.number] = failures
        if failures >= (_LIMIT if self._proven else _LIMIT_AT_START):
            say(f"{what}, failure {failures} in a row: giving up")
            self._status = _exit_status(status)
            self._end()
            return
        delay = min(_DELAY * 2 ** (failures - 2), _DELAY_MOST) if failures > 1 else 0.0
        say(f"{what}; another takes its place" + (f" in {delay:g} s" if delay else ""))
        self._later(one.number, delay, partial(self._start, one.number, _Stage.CURRENT))

    # ---- replacing all, and the end ----

    def _reload(self) -> None:
        if self._ending or _DEADLINE in self._timers:
            say("SIGHUP while a reload is under way: another follows")
            self._asked_again = True
            return
        self._asked_again = False
        say("reload: starting new workers")
        for number in self._numbers:
            self._start(number, _Stage.COMING)
        self._later(_DEADLINE, _READY_TIMEOUT, self._reload_is_late)

    def _reload_again(self) -> None:
        if self._asked_again:
            self._reload()

    def _reload_is_late(self) -> None:
        silent = [each for each in self._of(_Stage.COMING) if not each.serves]
        self._abandon(f"{len(silent)} serve nothing yet")

    def _abandon(self, why: str) -> None:
        stay = ", the old workers stay" if self._of(_Stage.CURRENT) else ""
        say(f"reload given up{stay}: {why}")
        self._timers.pop(_DEADLINE, None)
        for each in self._of(_Stage.COMING):
            each.stage = _Stage.LEAVING
            each.tell(signal.SIGTERM)
        self._reload_again()

    def _take_over(self, coming: list[_Worker]) -> None:
        old = self._of(_Stage.CURRENT)
        for each in old:
            each.stage = _Stage.LEAVING
        for each in coming:
            each.stage = _Stage.CURRENT
        self._timers.clear()  # the new set is complete
        self._failures = [0] * len(self._numbers)
        self._retire(old)

    def _retire(self, workers: list[_Worker]) -> None:
        for each in workers:
            each.retire()
        self._later(_DEADLINE, self._grace, partial(self._terminate, workers))

    def _terminate(self, workers: list[_Worker]) -> None:
        for each in workers:
            if each.pid in self._workers:
                each.tell(signal.SIGTERM)
        if not self._ending:
            say(f"reload: done, {len(self._of(_Stage.CURRENT))} workers")
            self._reload_again()

    def _end(self) -> None:
        self._ending = True
        self._at_end()
        self._listeners.close()
        self._timers.clear()
        serving = [each for each in self._workers.values() if each.serves]
        for each in self._workers.values():
            if not each.serves:
                each.tell(signal.SIGTERM)
        if serving:
            self._retire(serving)


class _LedSupervisor(_Supervisor):
    """Worker 0 leads: it starts before the others and ends after them."""

    def _leader(self) -> _Worker | None:
        return next((each for each in self._of(_Stage.CURRENT) if each.number == 0), None)

    def _begin(self) -> None:
        self._start(0, _Stage.CURRENT)

    def _start(self, number: int, stage: _Stage) -> None:
        leader = self._leader()
        if number == 0 and self._workers:  # they still use the last leader's stack
            self._later(0, _LOOK, partial(self._start, 0, stage))
        elif number == 0 or (leader is not None and leader.serves):
            super()._start(number, stage)

    def _said(self, one: _Worker) -> None:
        super()._said(one)
        if one is self._leader() and one.serves and not self._ending:
            for number in self._numbers[1:]:
                self._start(number, _Stage.CURRENT)

    def _replace(self, one: _Worker, status: int, what: str) -> None:
        if one.number == 0:
            self._end_in_order(self._left())
        super()._replace(one, status, what)

    def _reload(self) -> None:
        if self._ending or self._leader() is None:  # those that start next are new ones
            return
        say("reload: the workers have the stack: they end, and others start")
        self._retire(self._left())
        self._later(0, 0.0, self._begin)

    def _left(self) -> list[_Worker]:
        leaving = self._of(_Stage.CURRENT)
        for each in leaving:
            each.stage = _Stage.LEAVING
        self._timers.clear()
        return leaving

    def _terminate(self, workers: list[_Worker]) -> None:
        self._end_in_order(workers)

    def _end_in_order(self, workers: list[_Worker]) -> None:
        for each in workers:
            if each.number and each.pid in self._workers:
                each.tell(signal.SIGTERM)
        self._end_leader([each for each in workers if each.number == 0])

    def _end_leader(self, leaders: list[_Worker]) -> None:
        here = [each for each in leaders if each.pid in self._workers]
        if here and any(each.number for each in self._workers.values()):
            self._later(_DEADLINE, _LOOK, partial(self._end_leader, here))
            return
        for each in here:
            each.tell(signal.SIGTERM)


def _exit_status(status: int) -> int:
    """The supervisor's exit status for a failed worker's, by the shell's rule."""
    return status if status > 0 else 128 - status if status < 0 else 1


def _ended() -> Iterator[tuple[int, int]]:
    # (pid, exit code, negative for a signal) of each child that has ended, reaped one by one: the
    # pids of those not reaped yet stay theirs, and may be signalled meanwhile.
    with contextlib.suppress(ChildProcessError):
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                return
            yield pid, os.waitstatus_to_exitcode(status)
