"""The folder of a comparison: a check that it can be written, and the files in it."""

import io
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from equipoise.compare.results import Result
    from equipoise.compare.verdict import Verdict

__all__ = ["FILES", "require", "write"]

# Files, and a text in their first lines by which a comparison recognises its own files
FILES = {
    "report.html": b'name="generator" content="equipoise',
    "results.csv": b"objective,repeat,split,measure",
    "study.toml": b"# A study of equipoise",
}


def require(out: Path) -> None:
    """Raise unless a folder can be written without overwriting files of others; leave no file behind."""
    nearest = next(path for path in [out, *out.absolute().parents] if path.exists())
    try:
        if not nearest.is_dir():
            raise NotADirectoryError(20, "Not a directory", str(nearest))
        with tempfile.TemporaryFile(dir=nearest):
            pass
        heads = {name: (out / name).read_bytes()[:4096] for name in FILES if (out / name).exists()}
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise ValueError(
            f"out must be a folder that can be written, got {str(out)!r}; {reason.lower()}"
        ) from error
    for name, head in heads.items():
        if FILES[name] not in head:
            raise ValueError(
                f"out must hold nothing that a comparison would overwrite, got {str(out / name)!r}, which no "
                "comparison has written; name another folder"
            )


def write(result: "Result", verdict: "Verdict", out: Path) -> None:
    """Write the report, the table of results, the study, and the matrices in the order of the classes."""
    import numpy as np

    from equipoise.compare import outputs, report, study
    from equipoise.compare.store import write_atomically

    for name, matrix in result.plan.matrices.items():
        buffer = io.BytesIO()
        np.save(buffer, matrix)
        write_atomically(out / "trials" / f"{name}.npy", buffer.getvalue())
    write_atomically(out / "study.toml", study.dumps(result.plan).encode())
    outputs.write_table(result, out / "results.csv")
    report.write_report(result, verdict, out / "report.html")
