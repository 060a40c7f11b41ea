"""`python -m raysp.export`: see `raysp.deploy.cli`."""

from raysp.deploy.cli import main

if __name__ == "__main__":
    main()
