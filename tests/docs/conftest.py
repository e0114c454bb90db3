"""The extension of the site can be imported in the tests of this folder, which need its libraries."""

import sys
from importlib.util import find_spec
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "docs" / "_ext"))
if any(find_spec(name) is None for name in ("sphinx", "myst_parser")):
    collect_ignore_glob = ["test_*.py"]
