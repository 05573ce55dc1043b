"""From a model in memory or on disk to a verified version in the model directory."""
