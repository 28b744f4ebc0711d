"""The front door: verbs, exit codes, and errors for people."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import click
import pytest

from testbed.cli import main as main_module
from testbed.cli.main import VERBS, cli, main
from testbed.errors import ExperimentError, MachineError, TestbedError, UsageError

LOADED_MODULES = """
import sys
from testbed.cli.main import main
main({arguments!r})
print(*sorted(sys.modules), sep="\\n", file=sys.stderr)
"""


def run_module(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "testbed", *arguments], capture_output=True, text=True, timeout=60)


@pytest.fixture
def verb(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], object]], None]:
    """Puts a function in the place of the verb ``run``."""

    def install(body: Callable[[], object]) -> None:
        command = click.Command("run", callback=body)
        monkeypatch.setattr(main_module.VerbGroup, "get_command", lambda self, ctx, name: command)

    return install


def failing(error: BaseException) -> Callable[[], object]:
    def body() -> object:
        raise error

    return body


def test_help_lists_every_verb_with_its_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    for name in VERBS:
        assert any(line.split()[:1] == [name] and len(line.split()) > 2 for line in lines)


def test_help_and_usage_errors_import_no_torch_and_no_verb() -> None:
    for arguments in (["--help"], ["rnu"]):
        code = LOADED_MODULES.format(arguments=arguments)
        process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
        loaded = set(process.stderr.splitlines())
        assert "testbed.cli.main" in loaded
        assert not loaded & {"torch", "runner", "pandas", "matplotlib", *(f"testbed.cli.{name}" for name in VERBS)}


@pytest.mark.parametrize(("typed", "near"), [("rnu", "run"), ("valdate", "validate"), ("docter", "doctor")])
def test_unknown_verb_names_the_nearest(typed: str, near: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([typed]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert f"No such command '{typed}'. Did you mean '{near}'?" in captured.err


def test_unknown_verb_like_none_lists_all(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["xyzzy"]) == 2
    assert ", ".join(VERBS) in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [[], ["--bogus"], ["--debug"]])
def test_wrong_usage_is_exit_code_2_without_traceback(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    assert "Traceback" not in capsys.readouterr().err


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("testbed, version ")


@pytest.mark.parametrize(
    ("error", "exit_code"),
    [(ExperimentError("lost"), 1), (UsageError("odd"), 2), (MachineError("lacks"), 3)],
)
def test_expected_error_prints_message_and_remedy_and_sets_the_exit_code(
    error: TestbedError,
    exit_code: int,
    verb: Callable[[Callable[[], object]], None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    error.remedy = "do this instead"
    verb(failing(error))
    assert main(["run"]) == exit_code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == f"error: {error.message}\ndo this instead\n"


def test_debug_adds_the_traceback(
    verb: Callable[[Callable[[], object]], None], capsys: pytest.CaptureFixture[str]
) -> None:
    verb(failing(UsageError("odd")))
    assert main(["--debug", "run"]) == 2
    shown = capsys.readouterr().err
    assert "Traceback" in shown
    assert shown.endswith("error: odd\n")


def test_interrupt_is_130(verb: Callable[[Callable[[], object]], None], capsys: pytest.CaptureFixture[str]) -> None:
    verb(failing(KeyboardInterrupt()))
    assert main(["run"]) == 130
    assert capsys.readouterr().err == "interrupted\n"


@pytest.mark.parametrize(("returned", "exit_code"), [(None, 0), (0, 0), (1, 1), (4, 4)])
def test_exit_code_is_what_the_verb_returns(
    returned: int | None, exit_code: int, verb: Callable[[Callable[[], object]], None]
) -> None:
    verb(lambda: returned)
    assert main(["run"]) == exit_code


def test_context_exit_sets_the_exit_code(verb: Callable[[Callable[[], object]], None]) -> None:
    verb(lambda: click.get_current_context().exit(4))
    assert main(["run"]) == 4


@pytest.mark.parametrize("error", [RuntimeError("bug"), BrokenPipeError("a worker's")])
def test_bug_is_not_hidden(
    error: Exception,
    verb: Callable[[Callable[[], object]], None],
    capfd: pytest.CaptureFixture[str],
) -> None:
    verb(failing(error))
    with pytest.raises(type(error), match=str(error)):
        main(["run"])


def test_closed_pipe_ends_quietly() -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "testbed", "--help"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    with process.stderr:
        shown = process.stderr.read()
    assert process.wait(timeout=60) == 141
    assert shown == b""


def test_module_ends_with_the_exit_code() -> None:
    process = run_module("rnu")
    assert process.returncode == 2
    assert "Did you mean 'run'?" in process.stderr


@pytest.mark.parametrize("name", VERBS)
def test_every_verb_is_a_command_that_explains_itself(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    command = cli.get_command(click.Context(cli), name)
    assert command is not None
    assert command.name == name
    assert main([name, "--help"]) == 0
    assert capsys.readouterr().out.startswith(f"Usage: testbed {name}")
