"""`equipoise explore` writes the page and opens it."""

import os
import subprocess
import sys
import webbrowser
from pathlib import Path
from typing import Any

import pytest

from equipoise import explorer
from equipoise.cli import main


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the addresses that a browser is asked to open; there is a display."""
    found: list[str] = []
    monkeypatch.setattr(webbrowser, "open", lambda address: found.append(address) or True)
    monkeypatch.setenv("DISPLAY", ":0")
    return found


def test_it_writes_the_page_and_opens_it(tmp_path: Path, opened: list[str], capsys: Any) -> None:
    """The command writes the page, also over an earlier one, prints its path and opens it."""
    path = tmp_path / "page.html"
    for _ in range(2):  # the second time over the first
        assert main(["explore", "--out", str(path)]) == 0
        assert capsys.readouterr() == (f"{path}\n", "")
        assert path.read_text("utf-8") == explorer.page()
    assert opened == [path.as_uri()] * 2


def test_it_opens_nothing_if_asked_to(
    tmp_path: Path, opened: list[str], monkeypatch: Any, capsys: Any
) -> None:
    """With --no-browser the page is written to explorer.html and not opened."""
    monkeypatch.chdir(tmp_path)
    assert main(["explore", "--no-browser"]) == 0
    assert capsys.readouterr() == (f"{tmp_path / 'explorer.html'}\n", "")
    assert opened == []


@pytest.mark.parametrize("fails", ["no display", "none", "error"])
def test_without_a_browser_it_says_so(
    tmp_path: Path, opened: list[str], monkeypatch: Any, capsys: Any, fails: str
) -> None:
    """Without a display or a browser the page is written, and a line says that none was found."""

    def error(address: str) -> bool:
        raise webbrowser.Error(address)

    if fails == "no display":
        for name in ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setattr(sys, "platform", "linux")
    else:
        monkeypatch.setattr(webbrowser, "open", error if fails == "error" else lambda address: False)
    path = tmp_path / "page.html"
    assert main(["explore", "--out", str(path)]) == 0
    assert capsys.readouterr() == (f"{path}\n", "equipoise: no browser found; open the file in one\n")
    assert path.exists()
    assert opened == []


def test_files_of_others_are_kept(tmp_path: Path, opened: list[str], capsys: Any) -> None:
    """A file that is no explorer page, a folder and a missing folder are refused."""
    other = tmp_path / "other.html"
    other.write_text("<p>mine</p>")
    for path in (other, tmp_path):
        assert main(["explore", "--out", str(path)]) == 2
        rule = "equipoise: error: --out must be a new file or an explorer page, got"
        assert capsys.readouterr() == ("", f"{rule} {str(path)!r}; choose another name\n")
    assert other.read_text() == "<p>mine</p>"
    assert main(["explore", "--out", str(tmp_path / "none" / "page.html")]) == 2
    assert "--out must be a file that can be written, got" in capsys.readouterr().err
    assert opened == []


@pytest.mark.slow
def test_a_process_without_torch_writes_the_page(tmp_path: Path) -> None:
    """Importing torch, numpy or pandas is an error there."""
    for name in ("torch", "numpy", "pandas"):
        (tmp_path / f"{name}.py").write_text(f"raise ImportError('{name}')")
    source = Path(explorer.__file__).parents[2]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(source)])}
    words = [
        sys.executable,
        "-m",
        "equipoise",
        "explore",
        "--no-browser",
        "--out",
        str(tmp_path / "page.html"),
    ]
    done = subprocess.run(words, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "page.html").read_text("utf-8") == explorer.page()
    control = subprocess.run(
        [sys.executable, "-c", "import torch"], env=environment, capture_output=True, text=True
    )
    assert control.returncode == 1
