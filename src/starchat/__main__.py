"""`python -m starchat` is the command `starchat`."""

from .cli import main

main()
