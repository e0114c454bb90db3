"""Finished trials, in memory or on disk: there written whole or not at all, and believed only if intact."""

import hashlib
import io
import json
import os
import re
import socket
import sys
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Store", "digest", "write_atomically"]

DAY = 24 * 60 * 60.0


def digest(value: Any) -> str:
    """Fingerprint of bytes, or of anything that JSON can hold."""
    raw = value if isinstance(value, bytes) else json.dumps(value, sort_keys=True).encode()
    return hashlib.sha256(raw).hexdigest()


def _machine() -> str:
    """Name of this machine since its start, or of this container: where process numbers have a meaning."""
    known = [socket.gethostname(), str(uuid.getnode())]
    with suppress(OSError):
        known += [Path("/proc/sys/kernel/random/boot_id").read_text(), os.readlink("/proc/self/ns/pid")]
    return digest(known)[:8]


_MACHINE = _machine()
_UNFINISHED = re.compile(r"\.(?P<machine>[0-9a-f]{8})\.(?P<process>\d+)\.[0-9a-f]{32}\.tmp$")


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Say in one line what cannot be written, why, and that nothing finished is lost."""
    try:
        yield
    except OSError as error:
        why = error.strerror or error
        said = OSError(
            f"{path} must be writable, got {why}; finished trainings are kept, the same call resumes"
        )
        said.errno = error.errno
        raise said from error


def write_atomically(path: Path, content: bytes) -> None:
    """Put the content at the path in one step: what was there stays until then, and if that fails."""
    fresh = path.with_name(f"{path.name}.{_MACHINE}.{os.getpid()}.{uuid.uuid4().hex}.tmp")
    try:
        with _writing(path):
            fresh.write_bytes(content)
            os.replace(fresh, path)
    finally:
        with suppress(OSError):
            fresh.unlink(missing_ok=True)


class Store:
    """The finished trials of a folder, a JSON and an NPZ each, or of memory where the folder is None.

    The JSON names the NPZ by its content and is put in place last, so two runs that finish the same trial at
    once leave a whole pair.
    """

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        self._memory: dict[str, tuple[str, dict[str, NDArray[Any]]]] = {}

    def prepare(self) -> None:
        """Make sure that the folder can be written, and remove what killed runs left unfinished in it."""
        if self.folder is None:
            return
        with _writing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
        probe = self.folder / f"{uuid.uuid4().hex}.probe"
        write_atomically(probe, b"")
        probe.unlink(missing_ok=True)
        for leftover in self.folder.glob("*.tmp"):
            with suppress(OSError):  # another run may have removed it, or it is somebody else's
                if _abandoned(leftover):
                    leftover.unlink()

    def write(self, key: str, record: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> None:
        """Keep a finished trial."""
        if self.folder is None:
            self._memory[key] = json.dumps(dict(record)), dict(arrays)
            return
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **arrays)  # pyright: ignore[reportArgumentType]
        content = buffer.getvalue()
        body = {"key": key, "predictions": digest(content), "record": dict(record)}
        text = json.dumps(body | {"digest": digest(body)}, indent=1, sort_keys=True)
        with _writing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
        write_atomically(self.folder / _name(key, body["predictions"]), content)
        write_atomically(self.folder / f"{key}.json", text.encode())

    def read(self, key: str) -> dict[str, Any] | None:
        """The record of a finished trial; None if it is missing, torn, altered, or without its arrays."""
        if self.folder is None:
            return json.loads(self._memory[key][0]) if key in self._memory else None
        found = _intact(self.folder, key)
        return None if found is None else found[0]["record"]

    def arrays(self, key: str) -> dict[str, NDArray[Any]]:
        """The arrays of a finished trial, checked again."""
        if self.folder is None:
            return dict(self._memory[key][1])
        found = _intact(self.folder, key)
        if found is None:
            raise OSError(
                f"a finished training must be readable, got a damaged {self.folder / key}.json or .npz; "
                "the same call runs it again"
            )
        with np.load(io.BytesIO(found[1]), allow_pickle=False) as kept:
            return dict(kept)

    def path(self, key: str) -> Path | None:
        """Where the arrays of a finished trial are; None in memory, or if the trial is missing or damaged."""
        if self.folder is None or (found := _intact(self.folder, key)) is None:
            return None
        return self.folder / _name(key, found[0]["predictions"])


def _intact(folder: Path, key: str) -> tuple[dict[str, Any], bytes] | None:
    """The JSON of a trial and the bytes of its arrays, or None."""
    try:
        body = json.loads((folder / f"{key}.json").read_bytes())
        if body.pop("digest") != digest(body) or body["key"] != key:
            return None
        content = (folder / _name(key, body["predictions"])).read_bytes()
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    return (body, content) if digest(content) == body["predictions"] else None


def _name(key: str, predictions: str) -> str:
    return f"{key}-{predictions[:8]}.npz"


def _abandoned(leftover: Path) -> bool:
    """Whether a file was left by a process of this machine that is gone, or by any a day ago."""
    made = _UNFINISHED.search(leftover.name)
    if made is None or time.time() - leftover.stat().st_mtime > DAY:
        return made is not None
    try:
        if made["machine"] == _MACHINE and sys.platform != "win32":  # where 0 is a signal that interrupts
            os.kill(int(made["process"]), 0)
    except ProcessLookupError:
        return True
    except OverflowError:
        pass
    return False  # its process lives, or another has its number by now, or it is elsewhere: it has a day
