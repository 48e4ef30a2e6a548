"""Additions of other packages, one file each; `test_strangers.py` installs each as a package of its own."""
