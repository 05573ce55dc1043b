"""The disk contract of Rhapsode: what programs deployed apart agree on."""

__version__ = "0.1.0"
