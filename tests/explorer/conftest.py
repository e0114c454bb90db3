"""The page in a browser."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.browser import Visit, started
from support.explorer_states import the_page


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with started() as found:
        yield found


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("page") / "explorer.html"
    made.write_text(the_page(), encoding="utf-8")
    return made


@pytest.fixture
def visit(browser: Any, path: Path) -> Iterator[Visit]:
    """Return a page that must end without errors and without a request but for itself."""
    with Visit(browser, path) as made:
        yield made
        assert made.errors == []
        assert set(made.requests) == {made.address}
