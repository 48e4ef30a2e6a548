"""Formats of datasets that lattok reads: LeRobot v3, RLDS, HDF5, folders of videos."""
