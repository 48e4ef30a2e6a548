"""Hints in errors: the name that somebody probably meant."""

import re

import pytest

import lattok
from lattok import LattokError
from lattok.utils.checks import (
    did_you_mean,
    fail,
    known_keys,
    one_of,
    printable,
    warn,
)

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


def test_options_presets_and_names_of_the_package_say_what_was_meant(tmp_path):
    recipe = lattok.ActionVQRecipe
    with pytest.raises(LattokError, match=r"got learning_rate\. Did you mean lr\?"):
        recipe.from_preset("data", tmp_path, "quick", learning_rate=1e-3)
    with pytest.raises(LattokError, match=r"`preset`: .* got 'quikc'\. Did you mean quick\?"):
        recipe.from_preset("data", tmp_path, "quikc")
    with pytest.raises(LattokError, match=r"got batchsize, lerning_rate\. Did you mean batch_size\? Did you mean lr\?"):
        recipe.from_preset("data", tmp_path, "quick", lerning_rate=1, batchsize=3)
    for name, meant in (("ActionVQ", "P2TActionVQ"), ("ImageLam", "ImageLAM"), ("opendataset", "open_dataset")):
        with pytest.raises(AttributeError, match=rf"has no attribute '{name}'\. Did you mean {meant}\?"):
            getattr(lattok, name)
    assert not hasattr(lattok, "__wrapped__")
    with pytest.raises(AttributeError, match="has no attribute 'frobnicate'$"):
        _ = lattok.frobnicate
    with pytest.raises(LattokError, match="got 'nothing like it'.$"):
        one_of("x", "nothing like it", ("a", "b"))
    with pytest.raises(LattokError, match="got quux.$"):
        known_keys("x", {"quux": 1}, ["a", "b"])


def test_errors_do_not_command_a_terminal():
    """What a stranger wrote may clear a screen, name a window or turn text around."""
    shown = "`x`: expected a name, got saw\ufffd]0;owned\ufffd\ufffd[2J\ufffdtxt.exe."
    with pytest.raises(LattokError, match=f"^{re.escape(shown)}$"):
        fail("x", "a name", "saw\x1b]0;owned\x07\x1b[2J\u202etxt.exe")
    with pytest.raises(LattokError, match="^`x`: expected a name, got two lines.$"):
        fail("x", "a name", "two\nlines")
    with pytest.warns(UserWarning, match="^saw\ufffd\\[2J$") as told:
        warn("saw\x1b[2J")
    assert told[0].filename == __file__
    assert printable("größe\t→ 🤖\n") == "größe\t→ 🤖\n"
