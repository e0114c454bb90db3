"""The extension of the site can be imported in the tests of this folder."""

import sys
from pathlib import Path

import pytest

pytest.importorskip("sphinx", reason="sphinx is not installed")
pytest.importorskip("myst_parser", reason="myst-parser is not installed")
sys.path.insert(0, str(Path(__file__).parents[2] / "docs" / "_ext"))
