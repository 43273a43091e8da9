"""Child processes for tests: commands as a user types them.

What a command that evaluates imports costs nine seconds, so `command` forks it from a server that has imported everything once.
`fresh` starts an interpreter of its own; it is for tests of what is imported, of how the interpreter starts, or that name
a task of lm-eval's own.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import multiprocessing
import os
import pkgutil
import runpy
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PATHS = (str(ROOT), str(ROOT / "tests" / "helpers"))
_FORKING = threading.Lock()  # `fork` changes this process's environment, and ranks are forked by threads


def surroundings(changes: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return this process's environment with our modules on PYTHONPATH, one thread, and the changes."""
    paths = dict.fromkeys([*PATHS, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))])
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1", **(changes or {})}


def command(
    *words: str, env: Mapping[str, str] | None = None, cwd: Path | None = None, timeout: float = 550
) -> CompletedProcess[str]:
    """Run `python WORDS` in a child of the server: `command("-m", "steer_bench", ...)`, or `("-c", code)`."""
    with tempfile.TemporaryDirectory() as folder:
        out, err = Path(folder) / "out", Path(folder) / "err"
        process = fork(_python, words, str(out), str(err), surroundings(env), str(cwd or Path.cwd()))
        process.join(timeout)
        if process.exitcode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # what it started too
            process.kill()
            process.join()
            raise subprocess.TimeoutExpired(words, timeout, out.read_bytes(), err.read_bytes())
        said = [file.read_text(errors="replace") if file.is_file() else "" for file in (out, err)]
        return CompletedProcess(words, process.exitcode, *said)


def fresh(
    *words: str, env: Mapping[str, str] | None = None, cwd: Path | None = None, timeout: float = 550
) -> CompletedProcess[str]:
    """Run `python WORDS` in an interpreter of its own."""
    return subprocess.run(
        [sys.executable, *words], capture_output=True, text=True, env=surroundings(env), cwd=cwd, timeout=timeout
    )


def fork(function: Callable[..., Any], *arguments: Any, daemon: bool = False) -> Any:
    """Call the function in a child of the server, and return its process; a daemon ends when this process does."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["children"])
    with _FORKING:
        before = os.environ.get("PYTHONPATH")
        os.environ["PYTHONPATH"] = surroundings()["PYTHONPATH"]  # the server's, which the first child starts
        try:
            process = context.Process(target=function, args=arguments, daemon=daemon)
            process.start()
        finally:
            os.environ.pop("PYTHONPATH")
            if before is not None:
                os.environ["PYTHONPATH"] = before
    return process


def redirect(out: str, err: str) -> None:
    """In a child: print to the files, which may be one."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    for place, file in ((1, out), (2, err)):
        os.dup2(os.open(file, flags), place)
    sys.stdout, sys.stderr = os.fdopen(1, "w", buffering=1), os.fdopen(2, "w", buffering=1)


def _python(words: tuple[str, ...], out: str, err: str, environment: dict[str, str], cwd: str) -> None:
    os.setsid()
    redirect(out, err)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(cwd)
    atexit._clear()
    kind, what, *rest = words
    sys.argv = [kind, *rest]
    sys.path[:] = [cwd, *dict.fromkeys([*environment["PYTHONPATH"].split(os.pathsep), *sys.path])]
    try:
        if kind == "-m":
            runpy.run_module(what, run_name="__main__", alter_sys=True)
        else:
            exec(what, {"__name__": "__main__"})
    finally:
        atexit._run_exitfuncs()


def _import_everything() -> None:
    import steer_bench

    names = [module.name for module in pkgutil.walk_packages(steer_bench.__path__, "steer_bench.")]
    for name in ("steered", *names):  # `steered`: our tiny models, with their families of transformers and lm_eval
        if not name.endswith(("__main__", "ray_engine")):
            with contextlib.suppress(ImportError):
                importlib.import_module(name)
    _leave_out_tasks_of_lm_eval()
    describe_no_machine()
    gc.freeze()


def describe_no_machine() -> None:
    """Let lm-eval not describe the machine in its results file, for which it starts pip, gcc and others in each evaluation."""
    from torch.utils import collect_env

    collect_env.get_pretty_env_info = lambda: "left out by the tests"


def _leave_out_tasks_of_lm_eval() -> None:
    """Let lm-eval index the tasks it is given, and not its own, of which it reads 14,000 files in 14 CPU seconds at each start."""
    with contextlib.suppress(ImportError):  # before 0.4.13
        from lm_eval.tasks import _index

        files, own = _index.TaskIndex._iter_yaml_files, Path(_index.__file__).parent
        _index.TaskIndex._iter_yaml_files = staticmethod(lambda root: () if Path(root) == own else files(root))


if "multiprocessing.forkserver" in " ".join(sys.orig_argv) and multiprocessing.parent_process() is None:
    _import_everything()  # in the server, not in its children
