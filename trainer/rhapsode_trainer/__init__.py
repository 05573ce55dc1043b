"""Batch trainer of Rhapsode."""

__version__ = "0.1.0"
