"""Settings that must stand before transformers is imported anywhere, and those of hypothesis."""

import os

from hypothesis import settings

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

# How long an example takes says more about the machine than about the code.
settings.register_profile("rhapsode", deadline=None)
settings.load_profile("rhapsode")
