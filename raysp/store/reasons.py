"""Why a file's content isn't what it should be, for people: what Python raised, without Python's words.

Owns the wording. Refuses to name the file, which whoever reads it does. Contract: importing it costs no time.
"""

import json

MOST = 160
"""Characters of an error that are told."""


def why(error: Exception) -> str:
    """An error of reading content, as the middle of a sentence."""
    if isinstance(error, json.JSONDecodeError):
        return f"it is no JSON: line {error.lineno}, column {error.colno}"
    if isinstance(error, UnicodeError):
        return "it is no text"
    if isinstance(error, KeyError):
        return f"it has no {error.args[0] if error.args else 'entry'!s:.80}"
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    if isinstance(error, ValueError) and str(error):
        return f"{error!s:.{MOST}}"
    return "it holds something else"
