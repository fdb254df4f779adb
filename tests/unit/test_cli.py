"""The command line: what it loads, how it ends, what it says."""

import os
import pathlib
import pty
import signal
import subprocess
import sys

import pytest
from common import instances
from common.processes import completed

from ffloop._cli import parser

COMMAND = (sys.executable, "-P", "-m", "ffloop")
HEAVY = ("asyncio", "cffi", "ffloop._loop", "ffloop._native", "ffloop._session.binding", "rich")


def python(code, *args, **options):
    done = completed(sys.executable, "-P", "-c", code, *args, **options)
    assert "Traceback" not in done.stderr, done.stderr
    return done


def loaded(*args):
    """Which of HEAVY a command has imported when it ends."""
    code = (
        "import sys\n"
        "from ffloop._cli.main import main\n"
        "try: main(sys.argv[1:])\n"
        "except SystemExit: pass\n"
        f"print('loaded:', *({{*sys.modules}} & {{*{HEAVY}}}))\n"
    )
    return python(code, *args).stdout.splitlines()[-1].split()[1:]


def commands():
    (found,) = [a for a in parser.build()._actions if a.dest == "command"]
    return [*found.choices]


def test_every_command_is_here():
    assert commands() == ["instance", "run", "preload", "stat", "top", "doctor", "bench"]


@pytest.mark.parametrize("args", [["--version"], ["--help"], []], ids=str)
def test_the_command_itself_loads_nothing(args):
    assert loaded(*args) == []


@pytest.mark.parametrize("name", commands()[1:])
def test_help_loads_nothing(name):
    assert loaded(name, "--help") == []


def test_figures_need_neither_a_loop_nor_tables():
    assert "rich" not in (found := loaded("stat", "--json"))
    assert "ffloop._loop" not in found


def test_import_loads_what_is_asked_for():
    code = "import sys, ffloop\nassert not {*sys.modules}.intersection(sys.argv)\n"
    code += "ffloop.InstanceError, ffloop.errors\nassert 'ffloop._loop' not in sys.modules\n"
    code += "ffloop.Loop\nassert 'ffloop._loop' in sys.modules\nprint(*dir(ffloop))"
    done = python(code, *HEAVY)
    assert {"Loop", "install", "kqueue", "__version__"} <= {*done.stdout.split()}


# Python 3.16: asyncio without event loop policies.
WITHOUT_POLICIES = """
import asyncio, sys
asyncio.get_event_loop_policy()  # (else asyncio itself asks for what is to go)
for name in [name for name in vars(asyncio) if "olicy" in name]:
    delattr(asyncio, name)
def absent(name):  # (Python 3.14 has them here)
    raise AttributeError(name)
asyncio.__getattr__ = absent
"""


def test_all_without_policies():
    code = """
from ffloop import *
import ffloop, ffloop.workers
from ffloop._cli import apps, main, program, run, supervisor
for call in (ffloop.install, ffloop.FFLoopPolicy):
    try: call()
    except RuntimeError as exc: print(exc)
async def main(): return type(asyncio.get_running_loop()).__name__
print(ffloop.run(main()))
"""
    lines = python(WITHOUT_POLICIES + code).stdout.splitlines()
    assert lines[0] == lines[1]
    assert lines[0].startswith("this Python has no event loop policies: use `ffloop.run(main())`")
    assert lines[2:] == ["DirectLoop"]


@pytest.mark.parametrize("how", ["run", "Runner", "new_event_loop"])
def test_a_script_without_policies(tmp_path, how):
    """`ffloop run` puts its loop under it nevertheless."""
    script = tmp_path / "script.py"
    script.write_text(
        "import asyncio\n"
        "async def main(): print(type(asyncio.get_running_loop()).__module__)\n"
        + {
            "run": "asyncio.run(main())",
            "Runner": "with asyncio.Runner() as runner: runner.run(main())",
            "new_event_loop": "loop = asyncio.new_event_loop()\n"
            "loop.run_until_complete(main()); loop.close()",
        }[how]
    )
    code = "from ffloop._cli.main import main\nsys.exit(main(['run', sys.argv[1]]))"
    done = python(WITHOUT_POLICIES + code, str(script))
    assert (done.returncode, done.stdout) == (0, "ffloop._loop.direct_loop\n"), done.stderr


# ---- how it ends ----


WAITS = """
import asyncio, os, signal
async def main():
    os.write(1, b"runs\\n")  # one write, whatever PYTHONUNBUFFERED is
    await asyncio.sleep(3600)
asyncio.run(main())
"""


@pytest.mark.parametrize("workers", [[], ["--workers=2"]], ids=str)
def test_ctrl_c_of_a_script(tmp_path, workers):
    """No traceback; and the process ends by the signal, so that a shell's loop ends too."""
    script = tmp_path / "script.py"
    script.write_text(WAITS)
    with subprocess.Popen(
        [*COMMAND, "run", *workers, script], stdout=-1, stderr=-1, text=True
    ) as process:
        for _ in workers * 2 or [""]:
            assert process.stdout.readline() == "runs\n"
        process.send_signal(signal.SIGINT)
        _, words = process.communicate()
    assert "Traceback" not in words
    assert "KeyboardInterrupt" not in words
    assert process.returncode == (0 if workers else -signal.SIGINT)


IMPORTS = """
import os, time
try:
    os.write(1, b"imports\\n")
    time.sleep(60)
except BaseException:
    os.write(1, b"caught\\n")
"""


@pytest.mark.parametrize("workers", [[], ["--workers=2"]], ids=str)
def test_ctrl_c_while_an_app_is_imported(tmp_path, workers):
    """It is not for what the app imports."""
    (tmp_path / "app.py").write_text(IMPORTS)
    address = "--host=127.8.6.1"  # whose port nobody has
    command = [sys.executable, "-m", "ffloop", "run", address, *workers, "app:app"]
    with subprocess.Popen(command, cwd=tmp_path, stdout=-1, stderr=-1, text=True) as process:
        for _ in workers * 2 or [""]:
            assert process.stdout.readline() == "imports\n"
        process.send_signal(signal.SIGINT)
        assert process.communicate() == ("", "")
    assert process.returncode == (0 if workers else -signal.SIGINT)


def test_ctrl_c_before_the_command_is_loaded():
    code = """
import sys
class CtrlC:
    def find_spec(self, name, *_):
        if name == "ffloop._cli.dispatch": raise KeyboardInterrupt
sys.meta_path.insert(0, CtrlC())
from ffloop._cli.main import main
sys.exit(main(["stat"]))
"""
    done = python(code)
    assert (done.returncode, done.stderr) == (130, "")


def test_ctrl_c_of_a_benchmark():
    """Its server ends as well, whether it has begun to serve or not."""
    args = ("--loops=asyncio", "--apps=raw", "--bytes=0", "--connections=1", "--load=own")
    with subprocess.Popen(
        [*COMMAND, "bench", *args, "--seconds=60"], stdout=-1, stderr=-1, text=True
    ) as process:
        while not (servers := children(process.pid)):
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        _, words = process.communicate()
    assert "Traceback" not in words
    assert process.returncode == 130
    while any(pathlib.Path(f"/proc/{pid}").exists() for pid in servers):
        pass


def children(pid):
    return pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


@pytest.fixture
def running(tmp_path):
    """The path of an instance."""
    path = str(tmp_path / "i.sock")
    with instances.running(path):
        yield path


# Ctrl-C when nothing but the wait is to come any more.
LATE = """
import ctypes, signal, sys
from ffloop._cli.main import main
ctypes.c_int.in_dll(ctypes.CDLL(sys.argv.pop(1)), "armed").value = signal.SIGINT
sys.exit(main())
"""


@pytest.mark.parametrize("key", [b"q", b"\x03", b""], ids=["q", "ctrl-c", "late"])
def test_top_ends(running, key, window):
    """And leaves the terminal as it was."""
    import termios

    controller, terminal = pty.openpty()
    before = termios.tcgetattr(terminal)
    late = (sys.executable, "-P", "-c", LATE, window)
    with subprocess.Popen(
        [*(COMMAND if key else late), "top", "--instance", running, "--interval", "3600"],
        stdin=terminal,
        stdout=terminal,
        stderr=-1,
        env={**os.environ, "TERM": "xterm", "LD_PRELOAD": str(window)},
        start_new_session=True,
        preexec_fn=lambda: os.close(os.open(os.ttyname(0), os.O_RDWR)),  # the controlling one
    ) as process:
        try:
            shown = b""
            while b"pool free" not in shown and b"Instances" not in shown:
                shown += os.read(controller, 65536)
            os.write(controller, key)
            while b"\x1b[?1049l" not in shown:  # the terminal's own screen again
                shown += os.read(controller, 65536)
            assert process.wait() == 0
            assert process.stderr.read() == b""
        finally:
            process.kill()
    assert termios.tcgetattr(terminal) == before
    os.close(terminal)
    os.close(controller)


def test_top_leaves_a_handler_that_is_not_pythons(monkeypatch):
    """Of an embedding program, say: Python knows it as None, and could not set it again."""
    from ffloop._cli import top

    monkeypatch.setattr(signal, "getsignal", lambda _: None)
    with top._ctrl_c():
        pass


def test_top_into_a_pipe(running):
    """Every screen, below each other."""
    words = ("top", "--instance", running, "--interval", "0.01", "--count", "2")
    done = subprocess.run([*COMMAND, *words], capture_output=True, text=True)
    assert done.returncode == 0, done
    assert sum(line.startswith("Instances") for line in done.stdout.splitlines()) == 2


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&-"])
@pytest.mark.parametrize("words", ["stat --json", "doctor", "run nothing:app"])
def test_a_stream_that_is_closed(running, closed, words):
    command = ["sh", "-c", f'"$@" {words} {closed}', "sh", *COMMAND]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == (1 if "nothing" in words else 0), done
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("words", ["stat", "stat --prometheus", "top --count 1 --interval 0.01"])
def test_a_locale_without_the_letters(tmp_path, words):
    path = str(tmp_path / "é.sock")
    with instances.running(path):
        done = subprocess.run(
            [*COMMAND, *words.split(), "--instance", path],
            env={**os.environ, "PYTHONIOENCODING": "ascii", "COLUMNS": "300"},
            capture_output=True,
            text=True,
        )
    assert done.returncode == 0, done.stderr
    assert "?.sock" in done.stdout


# ---- what it says ----


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        ("stat --metrics [::1:80", 2, "[ADDRESS:]PORT, not '[::1:80'"),
        ("stat --metrics a..b:80", 1, "cannot serve at a..b:80: "),
        (f"bench --bytes {2**80}", 2, "from 0 to 1073741824"),
    ],
)
def test_bad_values(words, status, said):
    done = subprocess.run([*COMMAND, *words.split()], capture_output=True, text=True)
    assert done.returncode == status
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_a_directory_that_was_removed(tmp_path):
    command = ["sh", "-c", 'rmdir "$0"; "$@"', tmp_path / "gone", *COMMAND]
    for words in (["run", "nothing:app"], ["run", "-m", "nothing"]):
        (tmp_path / "gone").mkdir()
        done = subprocess.run(
            [*command, *words], cwd=tmp_path / "gone", capture_output=True, text=True
        )
        assert done.stderr == "ffloop run: there is no module 'nothing' here or in sys.path\n"


def test_commands_of_others(tmp_path):
    """`ffloop run uvicorn app:app` is what people try first."""
    tool = tmp_path / "a-server"
    tool.write_text("#!/bin/sh\n")
    tool.chmod(0o755)
    environ = {**os.environ, "PATH": str(tmp_path)}
    done = python(
        "import sys; from ffloop._cli.main import main; main(sys.argv[1:])",
        *("run", "a-server", "--port", "1", "app:app"),
        env=environ,
    )
    assert done.returncode == 2
    assert f"it is a command: `ffloop run {tool} --port 1 app:app`" in done.stderr
    assert "or the app alone: `ffloop run app:app`" in done.stderr


@pytest.mark.parametrize(
    "module", ["granian.server", "tornado.netutil", "twisted.internet.asyncioreactor"]
)
def test_servers_that_stay_on_the_kernel(tmp_path, module):
    """They go past the loop whatever it is: that is said, also where the program logs itself."""
    file = tmp_path.joinpath(*module.split(".")).with_suffix(".py")
    file.parent.mkdir(parents=True)
    file.touch()
    for setting in ("", "logging.basicConfig(level=logging.INFO)\n"):
        script = tmp_path / "script.py"
        script.write_text(f"import logging\n{setting}import {module}\n")
        done = completed(*COMMAND, "run", script, env={**os.environ, "PYTHONPATH": str(tmp_path)})
        assert done.returncode == 0, done.stderr
        assert done.stderr.count("stays on the kernel's network, not the stack's") == 1


def test_a_limit_of_files(tmp_path):
    """`ulimit -f 0`: the embedded instance cannot even write why it does not start."""
    script = tmp_path / "script.py"
    script.write_text(WAITS)
    done = completed("prlimit", "--fsize=0", *COMMAND, "run", "--instance", "spawn", script)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert "shared memory counts as a file, and `ulimit -f` (LimitFSIZE=) is too low" in done.stderr


@pytest.mark.skipif(os.getuid() != 0, reason="needs root, to unmount /proc")
@pytest.mark.parametrize("name", ["stat", "top", "doctor"])
def test_without_proc(name):
    command = f"umount -l /proc && exec {' '.join(COMMAND)} {name}"
    done = completed("unshare", "-m", "sh", "-c", command)
    if "unshare" in done.stderr:
        pytest.skip(done.stderr)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    words = "mount -t proc proc /proc" if name == "doctor" else "/proc is not mounted"
    assert words in done.stdout + done.stderr


def test_a_module(tmp_path):
    """`ffloop run -m`: all that follows is the module's."""
    (tmp_path / "beside.py").write_text(
        "import asyncio, sys\n"
        "async def main(): print(__name__, *sys.argv[1:], type(asyncio.get_running_loop()))\n"
        "asyncio.run(main())\n"
    )
    words = ("run", "-m", "beside", "--stack", "--help", "x")
    done = completed(sys.executable, "-m", "ffloop", *words, cwd=tmp_path)
    assert (
        done.stdout == "__main__ --stack --help x <class 'ffloop._loop.direct_loop.DirectLoop'>\n"
    ), done
    done = completed(*COMMAND, "run", "-m", "nothing.here")
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        "ffloop run: there is no module 'nothing.here' here or in sys.path"
    ]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("ffloop st", {"stat"}),
        ("ffloop run --stack ", {"host", "fstack"}),
        ("ffloop stat --js", {"--json"}),
        ("ffloop bench --load ", set(parser.LOADS)),
    ],
)
def test_completion(tmp_path, line, words):
    """As argcomplete's shell function asks."""
    pytest.importorskip("argcomplete")
    answers = tmp_path / "answers"
    asked = {
        "_ARGCOMPLETE": "1",
        "_ARGCOMPLETE_IFS": "\n",
        "_ARGCOMPLETE_STDOUT_FILENAME": str(answers),
        "COMP_LINE": line,
        "COMP_POINT": str(len(line)),
        "COMP_TYPE": "9",
    }
    done = completed(*COMMAND, env={**os.environ, **asked})
    assert done.returncode == 0, done
    assert {word.strip() for word in answers.read_text().splitlines()} == words


@pytest.mark.skipif(sys.version_info < (3, 14), reason="`python -m asyncio ps` is of Python 3.14")
def test_tasks_are_shown_from_outside():
    program = (
        "import asyncio, os, sys, ffloop\n"
        "async def main():\n"
        "    asyncio.create_task(asyncio.sleep(60), name='a-sleeper')\n"
        "    ask = (sys.executable, '-m', 'asyncio', 'ps', str(os.getpid()))\n"
        "    await (await asyncio.create_subprocess_exec(*ask)).wait()\n"
        "ffloop.run(main())\n"
    )
    done = completed(sys.executable, "-P", "-c", program)
    if "permission" in done.stderr.lower():
        pytest.skip("this user may not look into processes (ptrace)")
    assert "a-sleeper" in done.stdout, done
