"""`python -m rigsync`: the same as the command `rigsync`."""

from rigsync.cli import main

if __name__ == "__main__":
    main()
