"""Measuring a model: exact likelihood, what a compressor reaches, samples to read."""
