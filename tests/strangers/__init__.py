"""Additions of other packages, one file each, which `test_strangers.py` installs; others are in examples/extend."""
