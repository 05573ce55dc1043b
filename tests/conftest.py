"""Settings that must stand before transformers is imported anywhere, and those of clients and of hypothesis."""

import os

from hypothesis import settings

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

# Clients show what a server answered first, and know nothing of who runs the tests.
os.environ["RHAPSODE_RETRIES"] = "0"
os.environ["RHAPSODE_CONFIG"] = os.devnull

# How long an example takes says more about the machine than about the code.
settings.register_profile("rhapsode", deadline=None)
settings.load_profile("rhapsode")
