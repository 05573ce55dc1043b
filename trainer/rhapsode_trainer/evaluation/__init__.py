"""Measuring a model: exact likelihood with intervals, what a compressor reaches, samples to read and to measure."""
