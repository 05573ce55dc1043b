"""`rhapsode score`: how likely a model finds a text."""
