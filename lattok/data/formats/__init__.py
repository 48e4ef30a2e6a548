"""Formats of datasets that lattok reads and writes: LeRobot, RLDS, HDF5, folders of videos."""
