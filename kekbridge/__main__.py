"""`python -m kekbridge` is the same as `kekbridge`."""

from kekbridge.cli.main import run

run()
