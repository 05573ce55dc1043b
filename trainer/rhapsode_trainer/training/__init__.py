"""Building a model and training it with `transformers.Trainer`."""
