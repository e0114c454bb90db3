"""Matrices in files, right and wrong."""

from pathlib import Path

import pytest


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name, text in FILES.items():
        Path(name).write_text(text)
    Path("latin.csv").write_bytes(b"true,\xe9\n\xe9,0\n")
    Path("latin.toml").write_bytes(b"[\xe9]\n")
    return tmp_path


FILES = {
    "costs.csv": "true, well, ill\nwell,0,1\nill,6,0\n",
    "turned.csv": "true,ill,well\nwell,1,0\nill,0,6\n",
    "tabs.tsv": "\twell\till\nwell\t0\t1\nill\t6\t0\n",
    "costs.toml": "[well]\notherwise = 1\n[ill]\nwell = 6\n",
    "groups.toml": 'groups = "horse, zebra | whale, shark"\nwithin = 0.2\n',
    "alike.toml": "[a]\nb = 0.25\n[b]\na = 0.5\nb = 0.5\n",
    "corner.csv": "predicted,well,ill\nwell,0,6\nill,1,0\n",
    "ragged.csv": "true,well,ill\nwell,0\nill,6,0\n",
    "bare.csv": "0,1\n1,0\n2,2\n",
    "names.csv": "true,well,ill\nwell,0,1\nsick,6,0\n",
    "word.csv": "true,well,ill\nwell,0,one\nill,6,0\n",
    "digits.csv": "true,well,ill\nwell,0,1_0\nill,6,0\n",
    "open.csv": 'true,well,ill\nwell,0,1\n"ill,6,0\n',
    "semicolons.csv": "true;well;ill\nwell;0;1\nill;6;0\n",
    "bars.csv": '\ufefftrue|well|ill\nwell|0|1\n\n "ill"|6|0\n||\n',
    "bad.toml": "[well\n",
    "extra.toml": 'groups = "a, b"\nwithn = 1\n',
    "flat.toml": "well = 1\n",
    "unknown.toml": "[well]\nil = 1\n[ill]\nwell = 6\n",
    "truth.toml": "[well]\nill = true\n[ill]\nwell = 6\n",
    "list.toml": "[well]\nill = [1]\n[ill]\nwell = 6\n",
}
