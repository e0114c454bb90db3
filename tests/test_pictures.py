"""Pages that draw link to the pictures that `docs/pictures.py` saves, and it writes what blocks print."""

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

pytest.importorskip("matplotlib", reason="the pages need the extra compare")

DOCS = Path(__file__).parents[1] / "docs"
PAGE = """# A page

```python
from matplotlib import pyplot as plt

figure, axes = plt.subplots(figsize=(1, 1))
print(2 + 3)
```

```
a number of yesterday
```

Text that stays.

```python
later = 1
```
"""


@pytest.fixture(scope="module")
def pictures() -> ModuleType:
    spec = importlib.util.spec_from_file_location("pictures", DOCS / "pictures.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_page_gets_its_pictures_and_what_it_prints(pictures: ModuleType, tmp_path: Path) -> None:
    """Outputs of a page are replaced, its figures are saved, and a second run changes nothing."""
    page, space = pictures.run(PAGE, "page", tmp_path)
    assert page == PAGE.replace("a number of yesterday", "5")
    assert pictures.run(page, "page", tmp_path)[0] == page
    assert space["later"] == 1
    assert [path.name for path in tmp_path.iterdir()] == ["page_1.svg"]
    drawn = (tmp_path / "page_1.svg").read_text()
    assert pictures.INK in drawn
    assert "fill: #ffffff" not in drawn  # no white behind it on a dark page
    before = pictures.STYLE.pop("savefig.transparent")
    try:
        pictures.run(PAGE, "page", tmp_path)
        assert "fill: #ffffff" in (tmp_path / "page_1.svg").read_text()  # the control
    finally:
        pictures.STYLE["savefig.transparent"] = before


def test_every_page_shows_its_pictures(pictures: ModuleType) -> None:
    """A page links to each picture that is saved for it, and to no other."""
    for name in pictures.PAGES:
        shown = re.findall(rf"\]\((images/{name}_\d+\.svg)\)", (DOCS / f"{name}.md").read_text())
        saved = sorted(f"images/{path.name}" for path in DOCS.glob(f"images/{name}_*.svg"))
        assert shown == saved
        assert shown
