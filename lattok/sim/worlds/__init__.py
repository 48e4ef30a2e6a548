"""Worlds, a module for each: importing it makes its tasks known."""
