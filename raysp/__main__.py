"""`raysp`, or `python -m raysp`: see `raysp.command.table`."""

from raysp.command.table import main

if __name__ == "__main__":
    main()
