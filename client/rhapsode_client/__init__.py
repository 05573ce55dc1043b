"""Client library of Rhapsode."""

__version__ = "0.1.0"
