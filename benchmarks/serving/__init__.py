"""Serving measured: this server beside its peers, and beside what the machine could do at best.

`python -m benchmarks.serving` runs it all; `benchmarks/README.md` says how and what the figures mean.
"""
