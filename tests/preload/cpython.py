"""One of CPython's own test modules, test by test: `cpython.py MODULE OUT but|only [TEST...]`.

Appends to OUT a JSON line [test, "began"] before each test and [test, outcome, why] after it, so
that a run that ended in the middle says where, and the next goes on with all but those. A test
that takes longer than LIMIT ends the process.
"""

import faulthandler
import json
import os
import sys
import unittest

from test import support

LIMIT = 120  # seconds
# Waits for ever, natively too, where the machine has the device and no peer behind it.
NOT_RUN = ("ThreadedVSOCKSocketStreamTest",)


def name_of(test: object) -> str:
    name = str(getattr(test, "id", lambda: test)())
    return name.removeprefix("test.").removeprefix("test_asyncio.")


class Recorder(unittest.TestResult):
    def __init__(self, out: str) -> None:
        super().__init__()
        self.out = os.open(out, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self.ended: list[str] = ["passed", ""]

    def _tell(self, test: object, *what: str) -> None:
        os.write(self.out, json.dumps([name_of(test), *what]).encode() + b"\n")

    def startTest(self, test: unittest.TestCase) -> None:
        super().startTest(test)
        self._tell(test, "began")
        self.ended = ["passed", ""]
        faulthandler.dump_traceback_later(LIMIT, exit=True)

    def stopTest(self, test: unittest.TestCase) -> None:
        faulthandler.cancel_dump_traceback_later()
        self._tell(test, *self.ended)
        super().stopTest(test)

    def _failed(self, test: object, err: object) -> None:
        self.ended = ["failed", self._exc_info_to_string(err, test)]  # type: ignore[attr-defined]
        if not isinstance(test, unittest.TestCase):  # a class or module's set-up
            self._tell(test, *self.ended)

    addFailure = addError = _failed

    def addSubTest(self, test: object, subtest: object, err: object) -> None:
        if err is not None:
            self._failed(test, err)

    def addSkip(self, test: unittest.TestCase, reason: str) -> None:
        self.ended = ["skipped", reason]

    def addUnexpectedSuccess(self, test: unittest.TestCase) -> None:
        self.ended = ["failed", "passed, although CPython expects a failure"]


def each(suite: unittest.TestSuite) -> list[unittest.TestCase]:
    found = []
    for test in suite:
        found += each(test) if isinstance(test, unittest.TestSuite) else [test]
    return found


def main() -> None:
    module, out, how, *named = sys.argv[1:]
    support.use_resources = []  # no network but this machine's, as `python -m test` has it
    support.LOOPBACK_TIMEOUT = support.SHORT_TIMEOUT = 60.0  # as its --timeout raises them
    recorder = Recorder(out)
    tests = [
        test
        for test in each(unittest.defaultTestLoader.loadTestsFromName(f"test.{module}"))
        if type(test).__name__ not in NOT_RUN and (name_of(test) in named) == (how == "only")
    ]
    unittest.TestSuite(tests).run(recorder)
    os._exit(0)  # threads that a failed test left behind are not waited for


if __name__ == "__main__":
    main()
