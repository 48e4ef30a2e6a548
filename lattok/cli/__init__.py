"""The command line: `app` finds the verb, one file for each group of them does what it says."""

from lattok.cli.app import main

__all__ = ["main"]
