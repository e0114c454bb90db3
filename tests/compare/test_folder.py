"""The folder of a comparison is checked before anything is written."""

import os
import re
from pathlib import Path

import pytest

from equipoise.compare import folder


def test_a_new_folder_is_accepted_and_not_made(tmp_path: Path) -> None:
    """A folder that does not exist is accepted, and the check leaves no file or folder."""
    folder.require(tmp_path / "a" / "b")
    assert not list(tmp_path.iterdir())


def test_files_of_a_comparison_may_be_overwritten(tmp_path: Path) -> None:
    """Files with the mark of a comparison are accepted, and files of other names are not read."""
    for name, mark in folder.FILES.items():
        (tmp_path / name).write_bytes(b"<!DOCTYPE html>\n" + mark)
    (tmp_path / "thesis.txt").write_text("my own")
    folder.require(tmp_path)


@pytest.mark.parametrize("name", folder.FILES)
def test_files_of_others_are_not_overwritten(name: str, tmp_path: Path) -> None:
    """A file of the same name without the mark is refused with its path."""
    (tmp_path / name).write_text("my own")
    with pytest.raises(ValueError, match=rf"^out must hold nothing that .*{re.escape(name)}.*; name another"):
        folder.require(tmp_path)
    assert (tmp_path / name).read_text() == "my own"


def test_a_file_in_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    """A file, and a folder below a file, are refused."""
    (tmp_path / "file").write_text("")
    for out in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(ValueError, match=r"^out must be a folder that can be written, got .*; not a dir"):
            folder.require(out)


def test_a_folder_without_permission_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder in which no file can be made is refused with the reason of the operating system."""

    def refuse(**_: object) -> None:
        raise PermissionError(13, os.strerror(13))

    monkeypatch.setattr(folder.tempfile, "TemporaryFile", refuse)
    with pytest.raises(
        ValueError, match=r"^out must be a folder that can be written, got .*; permission den"
    ):
        folder.require(tmp_path)
