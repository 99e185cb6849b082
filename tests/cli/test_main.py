import subprocess
import sys
from importlib.metadata import version

import pytest

from van.cli import COMMANDS, main


def test_help_lists_every_command(van):
    for arguments in ([], ["--help"]):
        status, out, _ = van(*arguments)
        assert status == 0
        assert all(f"  {name} " in out for name in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_each_command(van, command):
    status, out, _ = van(command, "--help")
    assert status == 0
    assert f"usage: van {command}" in out
    assert "_" not in " ".join(word for word in out.split() if word.startswith("--") and "." not in word)


def test_version(van):
    assert van("--version")[1].strip() == f"van {version('visual-attention-network')}"


@pytest.mark.parametrize("arguments", [["train"], ["check-data", "x"]])
def test_workers_below_0_are_refused_before_anything_else(van, tmp_path, arguments):
    status, _, err = van(*arguments, "--workers", "-1")
    assert (status, list(tmp_path.iterdir())) == (1, [])
    assert "workers is -1, expected 0 or more." in err


def test_unknown_command_suggests_one(van):
    status, _, err = van("trian")
    assert status == 2
    assert "Did you mean train?" in err


@pytest.mark.parametrize("command", [None, *COMMANDS])
def test_help_loads_nothing_heavy(command):
    arguments = [command, "--help"] if command else ["--help"]
    code = f"""
import sys
from van.cli import main
try:
    main({arguments})
except SystemExit:
    pass
sys.exit(" ".join({{"torch", "timm", "matplotlib", "lightning", "transformers"}} & set(sys.modules)) or 0)
"""
    result = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (0, "")


def test_module_runs_the_same_command():
    result = subprocess.run([sys.executable, "-m", "van", "--version"], capture_output=True, text=True, check=True)
    assert result.stdout.startswith("van ")


@pytest.mark.parametrize(
    ("error", "status", "word"),
    [
        (PermissionError(13, "Permission denied", "/some/file"), 1, "Permission denied /some/file"),
        (OSError(28, "No space left on device"), 1, "No space left"),
        (KeyboardInterrupt(), 130, "stopped"),
    ],
)
def test_errors_of_the_system_are_sentences(monkeypatch, capsys, error, status, word):
    def fail(arguments):
        raise error

    monkeypatch.setattr("van.cli.models.run", fail)
    assert main(["models"]) == status
    assert word in capsys.readouterr().err
