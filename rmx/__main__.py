"""`python -m rmx` is the command `rmx`."""

from rmx.cli import console

if __name__ == "__main__":
    console()
