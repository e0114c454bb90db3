"""Finished trials on disk: a JSON and an NPZ each, written whole or not at all, believed only if intact."""

import hashlib
import io
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Store", "digest", "write_atomically"]


def digest(value: Any) -> str:
    """Fingerprint of bytes, or of anything that JSON can hold."""
    raw = value if isinstance(value, bytes) else json.dumps(value, sort_keys=True).encode()
    return hashlib.sha256(raw).hexdigest()


def write_atomically(path: Path, content: bytes) -> None:
    """Put the content at the path in one step, so that no reader and no kill ever meets half of it."""
    fresh = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        fresh.write_bytes(content)
        os.replace(fresh, path)
    finally:
        fresh.unlink(missing_ok=True)


class Store:
    """The finished trials of a folder.

    Args:
        folder: Where they are; made when the first one is written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def predictions(self, key: str) -> Path:
        """Where the predictions of a trial are."""
        return self.folder / f"{key}.npz"

    def record(self, key: str) -> Path:
        """Where the record of a trial is."""
        return self.folder / f"{key}.json"

    def write(self, key: str, record: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> None:
        """Keep a finished trial: predictions first, so that a record never lacks them."""
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **arrays)  # pyright: ignore[reportArgumentType]
        write_atomically(self.predictions(key), buffer.getvalue())
        body = {"key": key, "predictions": digest(buffer.getvalue()), "record": dict(record)}
        text = json.dumps(body | {"digest": digest(body)}, indent=1, sort_keys=True)
        write_atomically(self.record(key), text.encode())

    def read(self, key: str) -> dict[str, Any] | None:
        """The record of a finished trial; None if missing, torn, altered, or without its predictions."""
        try:
            body = json.loads(self.record(key).read_bytes())
            stated = body.pop("digest")
            whole = stated == digest(body) and body["key"] == key
            if whole and body["predictions"] == digest(self.predictions(key).read_bytes()):
                return body["record"]
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            pass
        return None

    def arrays(self, key):
        with np.load(self.predictions(key)) as kept:
            return dict(kept)

    def path(self, key):
        return self.predictions(key)

    def tidy(self) -> None:
        """Remove what a killed run was in the middle of writing."""
        for leftover in self.folder.glob("*.tmp"):
            leftover.unlink(missing_ok=True)
