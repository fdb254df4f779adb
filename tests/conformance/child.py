"""One process, one test: `child.py LOOP MODULE CLASS TEST RESULT.json`; or `child.py --list`;
`child.py --probe LOOP` makes one loop and closes it.

Run by run.py; on its own for a debugger. Writes the outcome as JSON and exits 0, whatever the
outcome: no JSON means that the process died.
"""

from __future__ import annotations

import importlib
import json
import pathlib
import sys
import time
import unittest
from typing import Any

# The functional tests: those that run a loop, not those that mock one. Where a module repeats its
# mixin for each selector (epoll, poll, select), one of them is taken: the loop is substituted.
FUNCTIONAL = {
    "test_events": ("EPollEventLoopTests", "TestServer"),
    "test_sock_lowlevel": ("EPollEventLoopTests",),
    "test_server": ("SelectorStartServerTests", "TestServer2", "UnixServerCleanupTests"),
    "test_streams": ("StreamTests",),
    "test_ssl": ("TestSSL",),
    "test_sslproto": ("SelectorStartTLSTests",),
    "test_buffered_proto": ("BufferedProtocolSelectorTests",),
    "test_sendfile": ("EPollEventLoopTests",),
    "test_subprocess": ("SubprocessThreadedWatcherTests",),
    "test_context": ("DecimalContextTest",),
    "test_threads": ("ToThreadTests",),
    "test_timeouts": ("TimeoutTests",),
    "test_waitfor": ("AsyncioWaitForTest", "WaitForShieldTests"),
}


def listing() -> dict[str, Any]:
    """Every functional test that this interpreter ships, as [module, class, test]."""
    found: list[list[str]] = []
    missing: dict[str, str] = {}
    for module, classes in FUNCTIONAL.items():
        try:
            loaded = importlib.import_module(f"test.test_asyncio.{module}")
        except (ImportError, unittest.SkipTest) as exc:
            missing[module] = str(exc)
            continue
        for cls in classes:
            case = getattr(loaded, cls, None)
            if case is not None:
                for name in unittest.defaultTestLoader.getTestCaseNames(case):
                    found.append([module, cls, name])
    return {"tests": found, "missing": missing, "version": sys.version.split()[0]}


def run(loop: str, module: str, cls: str, test: str) -> dict[str, Any]:
    import loops
    from test import support

    # As `python -m test --timeout` raises them: what they bound is a hang.
    support.LOOPBACK_TIMEOUT = support.SHORT_TIMEOUT = 60.0
    record = loops.substitute(loop)
    loaded = importlib.import_module(f"test.test_asyncio.{module}")
    suite = unittest.TestSuite([getattr(loaded, cls)(test)])
    result = unittest.TestResult()
    began = time.monotonic()
    suite.run(result)
    seconds = time.monotonic() - began
    problems = [text for _, text in result.failures + result.errors]
    if problems:
        outcome = "failed"
    elif result.skipped:
        outcome = "skipped"
        problems = [reason for _, reason in result.skipped]
    elif result.expectedFailures:
        outcome = "skipped"
        problems = ["CPython expects this test to fail"]
    elif record.foreign:
        outcome = "failed"
        problems = [f"ran on another loop: {dict(record.foreign)}"]
    elif result.testsRun == 0:
        outcome = "failed"
        problems = ["no test ran"]
    else:
        outcome = "passed"
    return {
        "outcome": outcome,
        "why": "\n".join(problems),
        "seconds": round(seconds, 3),
        "loops": record.made,
        "submitted": record.submitted,
    }


def main() -> int:
    if sys.argv[1] == "--list":
        json.dump(listing(), sys.stdout)
        return 0
    if sys.argv[1] == "--probe":
        import loops

        loops.maker(sys.argv[2])[0]().close()
        return 0
    loop, module, cls, test, out = sys.argv[1:]
    answer = run(loop, module, cls, test)
    pathlib.Path(out).write_text(json.dumps(answer))
    return 0


if __name__ == "__main__":
    sys.exit(main())
