"""Which messages to users the tests provoke: every place in ser_jax that makes a UserError should be come to.

A plugin of pytest. It notes where UserErrors are made; a run of all tests in which none fails or is skipped names the
places that were never come to, and fails. `MESSAGES=FILE pytest tests/x` writes those of some tests to a file, and

    python -m tests.messages FILE ...

names the places that are in none of the files.
"""

import ast
import contextlib
import functools
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
_KINDS = ("UserError", "_Damaged")
_THROUGH = ("contextlib.py", f"ser_jax{os.sep}errors.py")  # `reading` makes the message of the `with` that it stands in

_made: set[tuple[str, int]] = set()  # file below ROOT and line
_skipped: set[str] = set()  # tests


@functools.cache
def places() -> dict[tuple[str, int], tuple[int, str]]:
    """Returns where messages are made: file and line, with the last line of the statement and its beginning."""
    found = {}
    for path in sorted((ROOT / "ser_jax").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            made = (
                isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in (*_KINDS, "reading")
            )
            if made and path.name != "errors.py":
                begins = ast.unparse(node)
                found[path.relative_to(ROOT).as_posix(), node.lineno] = (node.end_lineno or node.lineno, begins)
    return found


def missing(made: set[tuple[str, int]]) -> list[str]:
    """Returns the places that were not come to, each with the beginning of its message."""
    lines = []
    for (file, first), (last, begins) in places().items():
        if not any((file, line) in made for line in range(first, last + 1)):
            lines.append(f"{file}:{first}: {begins[:110]}")
    return lines


@contextlib.contextmanager
def noted(made: set[tuple[str, int]]) -> Iterator[None]:
    """Notes where UserErrors are made inside the block."""
    from ser_jax.errors import UserError

    make = UserError.__init__

    def note(self: UserError, *arguments: object) -> None:
        frame = sys._getframe(1)
        while frame.f_back and frame.f_code.co_filename.endswith(_THROUGH):
            frame = frame.f_back
        with contextlib.suppress(ValueError):  # a test's own
            made.add((Path(frame.f_code.co_filename).relative_to(ROOT).as_posix(), frame.f_lineno))
        make(self, *arguments)

    UserError.__init__ = note
    try:
        yield
    finally:
        UserError.__init__ = make


@pytest.hookimpl(wrapper=True)
def pytest_runtestloop(session: pytest.Session) -> Iterator[None]:
    with noted(_made):
        return (yield)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: object) -> None:
    told = getattr(node, "workeroutput", {})
    _made.update(map(tuple, told.get("messages", ())))
    _skipped.update(told.get("skipped", ()))


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.skipped and "gpu" not in report.keywords:  # as for want of the corpora, of PyTorch or of a C compiler
        _skipped.add(report.nodeid)


def pytest_collectreport(report: pytest.CollectReport) -> None:
    if report.skipped:
        _skipped.add(report.nodeid)


def is_whole(config: pytest.Config) -> bool:
    """Whether a run was asked for all tests."""
    options = ("keyword", "markexpr", "deselect", "ignore", "ignore_glob", "lf", "stepwise")
    chosen = any(getattr(config.option, name, None) for name in options)
    return not chosen and config.args_source is config.ArgsSource.TESTPATHS


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    if hasattr(session.config, "workerinput"):  # a worker of pytest-xdist: the first process has the last word
        session.config.workeroutput |= {"messages": sorted(_made), "skipped": sorted(_skipped)}
    elif "MESSAGES" in os.environ:
        Path(os.environ["MESSAGES"]).write_text(json.dumps(sorted(_made)))
    elif exitstatus == pytest.ExitCode.OK and is_whole(session.config) and not _skipped and missing(_made):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    ended = terminalreporter._session.exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED)
    if ended and is_whole(config) and (never := missing(_made)):
        terminalreporter.section(f"{len(never)} of {len(places())} messages that no test came to")
        terminalreporter.write_line("\n".join([*never, f"{len(_skipped)} tests were skipped"]))


def main() -> int:
    made = {tuple(one) for file in sys.argv[1:] for one in json.loads(Path(file).read_text())}
    never = missing(made)
    print(*never, f"{len(places()) - len(never)} of {len(places())} messages provoked", sep="\n")
    return int(bool(never))


if __name__ == "__main__":
    sys.exit(main())
