"""Bytes and times as people read them."""

from __future__ import annotations


def bytes_text(count: int) -> str:
    """A byte count in its unit: 466 KB, 1.5 GB."""
    size = float(count)
    for unit in ("bytes", "KB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if size >= 100 or unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:,.1f} TB"


def gigabytes(count: int) -> str:
    """Memory to compare with other memory: 0.05 GB, 3.25 GB, 120.01 TB."""
    return f"{count / 1e9:.2f} GB" if count < 10**12 else f"{count / 1e12:,.2f} TB"


def duration(seconds: float) -> str:
    """A time: 0.35 s, 42 s, 3.5 minutes, 2.4 hours, 3.1 days."""
    for unit, size in (("days", 86400.0), ("hours", 3600.0), ("minutes", 60.0)):
        if seconds >= 1.5 * size:
            return f"{seconds / size:,.1f} {unit}"
    return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.2g} s"
