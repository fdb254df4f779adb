"""Worker processes of `ffloop run`: forked before anything is loaded, watched until all are gone.

Signals that end, reload or tell something are forwarded; workers are process groups of their own,
so that each arrives once, whether it was meant for the parent or for its group. A worker that died
is reported and not replaced: a service manager restarts the whole. Workers do not outlive their
parent.
"""

import ctypes
import os
import signal
import sys
from collections.abc import Callable

_FORWARDED = (
    signal.SIGTERM,
    signal.SIGINT,
    signal.SIGQUIT,
    signal.SIGHUP,
    signal.SIGUSR1,
    signal.SIGUSR2,
)
_ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP)
_WATCHED = (*_FORWARDED, signal.SIGCHLD)
_PR_SET_PDEATHSIG = 1


def run(count: int, work: Callable[[int], int]) -> int:
    """Runs work(0) to work(count - 1), each in a process of its own, to the end. Returns an exit
    status: 0, or that of the first that failed (128 and the signal where one killed it)."""
    sys.stdout.flush()
    sys.stderr.flush()
    parent = os.getpid()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _WATCHED)
    workers: dict[int, int] = {}
    for number in range(count):
        pid = os.fork()
        if not pid:
            os.setpgid(0, 0)
            _end_with(parent)
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            sys.exit(work(number))
        workers[pid] = number
    try:
        return _watch(workers)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _watch(workers: dict[int, int]) -> int:
    status = 0
    ending = False
    while workers:
        info = signal.sigwaitinfo(_WATCHED)
        if info.si_signo != signal.SIGCHLD:
            ending = ending or info.si_signo in _ENDING
            for pid in workers:  # not reaped yet: the numbers are still theirs
                os.kill(pid, info.si_signo)
            continue
        for pid, code in _ended():
            number = workers.pop(pid)
            if code == 0 or (ending and -code in _ENDING):
                continue
            status = status or (code if code > 0 else 128 - code)
            how = f"ended with status {code}" if code > 0 else f"was killed by signal {-code}"
            print(
                f"ffloop run: worker {number} (pid {pid}) {how}; {len(workers)} left",
                file=sys.stderr,
                flush=True,
            )
    return status


def _ended() -> list[tuple[int, int]]:
    # Of one SIGCHLD: (pid, exit code, negative for a signal).
    found: list[tuple[int, int]] = []
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return found
        if not pid:
            return found
        found.append((pid, os.waitstatus_to_exitcode(status)))


def _end_with(parent: int) -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:  # it went before that
        os.kill(os.getpid(), signal.SIGTERM)
