"""Runs a command that takes notice of Ctrl-C: `notice.py COMMAND ...`, with the command in this process' place.

Python takes none in a process that inherits SIGINT as ignored, as those do that a script starts with `&`.
"""

import os
import signal
import sys

signal.signal(signal.SIGINT, signal.SIG_DFL)
os.execv(sys.argv[1], sys.argv[1:])
