"""Hints in errors: the name that somebody probably meant."""

import re

import pytest

from lattok.utils.checks import (
    did_you_mean,
    fail,
    printable,
    warn,
)
from tests.errors import refused

OPTIONS = ("lr", "steps", "batch_size", "horizon", "dim", "codebook_size", "hidden", "log_every", "seed", "schedule")


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        ("learning_rate", "lr"),
        ("LR", "lr"),
        ("bs", "batch_size"),
        ("batchsize", "batch_size"),
        ("batch-size", "batch_size"),
        ("num_steps", "steps"),
        ("epochs", "steps"),
        ("codebok_size", "codebook_size"),
        ("zzz", None),
        ("n", None),
        ("", None),
        (7, None),
    ],
)
def test_a_name_that_is_nearly_known_is_named(word, meant):
    assert did_you_mean(word, OPTIONS) == (f"Did you mean {meant}?" if meant else "")


def test_errors_do_not_command_a_terminal():
    """What a stranger wrote may clear a screen, name a window or turn text around."""
    shown = "`x`: expected a name, got saw\ufffd]0;owned\ufffd\ufffd[2J\ufffdtxt.exe."
    refused(f"^{re.escape(shown)}$", fail, "x", "a name", "saw\x1b]0;owned\x07\x1b[2J\u202etxt.exe")
    refused("^`x`: expected a name, got two lines.$", fail, "x", "a name", "two\nlines")
    with pytest.warns(UserWarning, match="^saw\ufffd\\[2J$") as told:
        warn("saw\x1b[2J")
    assert told[0].filename == __file__
    assert printable("größe\t→ 🤖\n") == "größe\t→ 🤖\n"
