"""How commands show progress where standard error is no terminal."""

from mlxr.cli import show


def test_steps_in_lines(capsys, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(show.time, "monotonic", lambda: now[0])
    progress = show.steps_progress()
    for done in range(5):
        progress("compressing", done, 30)
        now[0] += 4.0
    progress("reading text", 1, 1)
    progress("compressing", 30, 30)
    assert capsys.readouterr().err.splitlines() == [
        "mlxr: compressing, 0 of 30", "mlxr: compressing, 3 of 30", "mlxr: reading text, 1 of 1", "mlxr: compressing, 30 of 30"]
