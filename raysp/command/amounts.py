"""Numbers as a user gives them: 70, 0.5, 50k, 1.5M.

Owns the letters. Contract: what is written in decimal is multiplied in decimal, so that 1.1k is 1100 and no hair more.
"""

import re
from decimal import Decimal

UNITS = {"": 0, "k": 3, "M": 6, "G": 9}
"""Letters, and the power of ten that each stands for."""
_AMOUNT = re.compile(r"(\d+(?:\.\d*)?|\.\d+)([kMG]?)", re.ASCII)


def read_amount(text: str) -> float | None:
    """A number of at least 0, with a letter or without; None where it is none."""
    found = _AMOUNT.fullmatch(text.strip())
    return None if found is None else float(Decimal(found[1]).scaleb(UNITS[found[2]]))
