"""Engine processes: start, talk to, watch, stop."""
