"""Numbers with a suffix, as servers read them: a small letter counts in thousands, a capital one in powers of 1024."""

from __future__ import annotations

import re

_SIZE = re.compile(r"(\d+(?:\.\d+)?)([kKmMgGtT])")
FACTORS = {"k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
"""What the number is multiplied with (vLLM 0.32, ``human_readable_int``)."""


def parts(text: str) -> tuple[str, str] | None:
    """The digits and the suffix of ``32k``; None for anything else."""
    found = _SIZE.fullmatch(text)
    return None if found is None else (found[1], found[2])
