"""What the processor can do, as far as limits depend on it."""

from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")


def read_flags(cpuinfo: Path = CPUINFO) -> frozenset[str]:
    """Return the instruction sets that every core has, as Linux names them; none on another system."""
    if not cpuinfo.exists():
        return frozenset()
    lines = [line.partition(":") for line in cpuinfo.read_text().splitlines()]
    cores = [frozenset(flags.split()) for name, _, flags in lines if name.strip() in ("flags", "Features")]
    return frozenset.intersection(*cores) if cores else frozenset()


def has_amx(flags: frozenset[str]) -> bool:
    """Whether matrix products of bfloat16 run in AMX tiles."""
    return {"amx_tile", "amx_bf16"} <= flags


def kind(flags: frozenset[str]) -> str:
    """Return the kind of processor whose limits apply, in words."""
    if not flags:
        return "unknown; the limits without AMX apply"
    return "with AMX" if has_amx(flags) else "without AMX"
