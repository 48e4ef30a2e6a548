"""Modules that several models share: normalisers, quantizers, attention, losses."""
