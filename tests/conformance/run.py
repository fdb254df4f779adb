"""CPython's own functional tests of asyncio, run on a chosen event loop.

    python tests/conformance/run.py --loop ffloop [--loop uvloop] [--json FILE] [NAME ...]

The tests come from the interpreter that runs this script (Debian: libpython3.N-testsuite). Each
one runs in a process of its own, with a time limit, in an empty directory. A test that fails
without a line in exceptions.txt, and one that passes in spite of such a line, fail the run (but
for uvloop, which is here to be compared with: its counts are reported only).
"""

from __future__ import annotations

import argparse
import concurrent.futures
import dataclasses
import fnmatch
import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable

HERE = pathlib.Path(__file__).resolve().parent
CHILD = HERE / "child.py"
EXCEPTIONS = HERE / "exceptions.txt"
LIMIT = 90.0  # seconds a test; the slowest takes 6 on an idle machine
REPORT_ONLY = ("uvloop",)


@dataclasses.dataclass(frozen=True)
class Test:
    module: str
    cls: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.cls}.{self.name}"


@dataclasses.dataclass(frozen=True)
class Result:
    test: Test
    outcome: str  # passed, failed, skipped, timeout, crashed
    why: str = ""
    seconds: float = 0.0
    loops: int = 0
    submitted: int = 0  # operations over ffloop's rings

    @property
    def bad(self) -> bool:
        return self.outcome in ("failed", "timeout", "crashed")


@dataclasses.dataclass(frozen=True)
class Suite:
    version: str
    tests: list[Test]
    missing: dict[str, str]


def suite() -> Suite:
    """The functional tests that this interpreter ships."""
    done = subprocess.run(
        [sys.executable, str(CHILD), "--list"],
        check=True,
        stdout=subprocess.PIPE,
        cwd=tempfile.gettempdir(),
    )
    answer = json.loads(done.stdout)
    return Suite(answer["version"], [Test(*t) for t in answer["tests"]], answer["missing"])


def probe(loop: str) -> str:
    """What keeps `loop` from being made here at all; empty: nothing."""
    done = subprocess.run(
        [sys.executable, str(CHILD), "--probe", loop],
        capture_output=True,
        text=True,
        cwd=tempfile.gettempdir(),
    )
    return "" if done.returncode == 0 else done.stderr


def exceptions(loop: str, version: str, lines: Iterable[str] | None = None) -> dict[str, str]:
    """Test pattern -> reason, for a loop and an interpreter version.

    A line is `loop versions test reason...`: versions are "*" or prefixes joined by commas.
    """
    if lines is None:
        lines = EXCEPTIONS.read_text().splitlines()
    found = {}
    for line in lines:
        if not line.strip() or line.startswith("#"):
            continue
        fields = line.split(None, 3)
        if len(fields) < 4:
            raise ValueError(f"{EXCEPTIONS.name}: no reason in {line!r}")
        of, versions, test, reason = fields
        if of == loop and any(
            v == "*" or version == v or version.startswith(v + ".") for v in versions.split(",")
        ):
            found[test] = reason
    return found


def run_one(loop: str, test: Test, limit: float = LIMIT) -> Result:
    # ignore_cleanup_errors: a test that was killed may leave a file that is still being written.
    with tempfile.TemporaryDirectory(prefix="ffloop-c-", ignore_cleanup_errors=True) as directory:
        out = pathlib.Path(directory, "result.json")
        work = pathlib.Path(directory, "work")
        work.mkdir()
        log = pathlib.Path(directory, "log")
        argv = [sys.executable, str(CHILD), loop, test.module, test.cls, test.name, str(out)]
        env = {**os.environ, "TMPDIR": str(work)}
        env.pop("_FFLOOP_EMBEDDED", None)  # an embedded instance of its own, not of a parent's
        with log.open("wb") as output:
            process = subprocess.Popen(
                argv,
                cwd=work,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=env,
                start_new_session=True,
            )
            late = False
            try:
                process.wait(limit)
            except subprocess.TimeoutExpired:
                late = True
            # A new session is a new process group: whatever the test left behind goes with it.
            try:
                os.killpg(process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
            code = process.wait()
        tail = log.read_text(errors="replace")[-4000:]
        if out.exists():
            answer = json.loads(out.read_text())
            why = answer["why"]
            if answer["outcome"] == "failed":
                why += tail
            counts = answer["seconds"], answer["loops"], answer["submitted"]
            return Result(test, answer["outcome"], why, *counts)
        if late:
            return Result(test, "timeout", f"no end after {limit:.0f} s\n{tail}", limit)
        return Result(test, "crashed", f"exit status {code}\n{tail}")


def run_all(loop: str, tests: list[Test], parallel: int, limit: float = LIMIT) -> list[Result]:
    with concurrent.futures.ThreadPoolExecutor(parallel) as pool:
        return list(pool.map(lambda test: run_one(loop, test, limit), tests))


def verdict(result: Result, expected: dict[str, str]) -> str | None:
    """None, or what is wrong with this result."""
    reason = expected.get(str(result.test))
    if result.bad and reason is None:
        return f"unexpected: {result.outcome}\n{result.why}"
    if result.outcome == "passed" and reason is not None:
        return f"passed, although exceptions.txt expects a failure ({reason}): remove its line"
    return None


def table(results: dict[str, list[Result]]) -> str:
    outcomes = ("passed", "skipped", "failed", "timeout", "crashed")
    modules = list(dict.fromkeys(r.test.module for rs in results.values() for r in rs))
    rows = [["module", "tests", *(f"{loop} passed" for loop in results)]]
    for module in modules:
        mine = {loop: [r for r in rs if r.test.module == module] for loop, rs in results.items()}
        count = max(len(rs) for rs in mine.values())
        rows.append(
            [module, str(count)]
            + [str(sum(r.outcome == "passed" for r in rs)) for rs in mine.values()]
        )
    rows.append(
        ["all", str(max(len(rs) for rs in results.values()))]
        + [str(sum(r.outcome == "passed" for r in rs)) for rs in results.values()]
    )
    for outcome in outcomes[1:]:
        rows.append(
            [f"  {outcome}", ""]
            + [str(sum(r.outcome == outcome for r in rs)) for rs in results.values()]
        )
    if any(r.submitted for rs in results.values() for r in rs):
        rows.append(
            ["  over the rings", ""]
            + [str(sum(r.submitted > 0 for r in rs)) for rs in results.values()]
        )
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join(
        "  ".join(
            [row[0].ljust(widths[0])]
            + [cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True)]
        )
        for row in rows
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--loop", action="append", help="asyncio, uvloop, ffloop (by ring) or direct; may repeat"
    )
    parser.add_argument("--parallel", type=int, default=2, help="processes at a time")
    parser.add_argument("--limit", type=float, default=LIMIT, help="seconds a test")
    parser.add_argument("--json", type=pathlib.Path, help="write every result to this file")
    parser.add_argument("--verbose", action="store_true", help="show why tests failed")
    parser.add_argument("names", nargs="*", help="only tests whose name matches (with * and ?)")
    args = parser.parse_args()
    shipped = suite()
    for module, why in shipped.missing.items():
        print(f"{module}: not in this interpreter ({why})")
    tests = [
        t
        for t in shipped.tests
        if not args.names or any(fnmatch.fnmatch(str(t), f"*{n}*") for n in args.names)
    ]
    if not tests:
        print("no test to run", file=sys.stderr)
        return 2
    results: dict[str, list[Result]] = {}
    wrong = 0
    for loop in args.loop or ["ffloop"]:
        if problem := probe(loop):
            print(f"{loop} cannot be tried here:\n{problem}", file=sys.stderr)
            return 2
        results[loop] = run_all(loop, tests, args.parallel, args.limit)
        expected = exceptions(loop, shipped.version)
        for result in results[loop]:
            wrong_one = verdict(result, expected)
            if wrong_one is not None and (args.verbose or loop not in REPORT_ONLY):
                wrong += loop not in REPORT_ONLY
                text = wrong_one if args.verbose else wrong_one.splitlines()[0]
                print(f"{loop} {result.test}: {text}")
            elif result.outcome == "skipped":
                print(f"{loop} {result.test}: skipped: {result.why}")
    print(f"\nCPython {shipped.version}, functional tests of asyncio\n{table(results)}")
    if args.json:
        report = {
            "python": shipped.version,
            "loops": {
                loop: {
                    "counts": Counter(r.outcome for r in rs),
                    "results": [{**dataclasses.asdict(r), "test": str(r.test)} for r in rs],
                }
                for loop, rs in results.items()
            },
        }
        args.json.write_text(json.dumps(report, indent=1))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
