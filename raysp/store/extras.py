"""How an extra of raysp's is installed, in the words that all messages use.

Owns the wording. Refuses to know which extras there are, and what needs them (`raysp.command.packages`). Contract: importing it
costs no time.
"""


def remedy_for(extra: str) -> str:
    """What to do where the packages of an extra are missing."""
    return f"pip install -e '.[{extra}]' where raysp lies"
