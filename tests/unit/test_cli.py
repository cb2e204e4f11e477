"""What the console script makes of errors."""

import pytest

from worker import cli


def ends(monkeypatch: pytest.MonkeyPatch, error: Exception) -> object:
    """The exit code when a command raises the error."""

    def app() -> None:
        raise error

    monkeypatch.setattr(cli, "app", app)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return ended.value.code


def test_a_package_of_the_extra_is_asked_for_in_a_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ends(monkeypatch, ModuleNotFoundError("No module named 'captum'", name="captum")) == cli.EXIT_FAILED
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "captum" in said
    assert "intent-worker[training]" in said


def test_any_other_missing_module_is_a_fault_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ModuleNotFoundError):
        ends(monkeypatch, ModuleNotFoundError("No module named 'worker.nothing'", name="worker.nothing"))
