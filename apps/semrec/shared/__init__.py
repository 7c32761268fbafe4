"""Shared by all systems: the run, its stages, the commands and the reports."""
