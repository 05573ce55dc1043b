"""Settings of libraries that must stand before they are imported: no output of their own."""

import os


def is_main() -> bool:
    """Whether this is the process of the run that writes. Known before anything is loaded: every launcher sets RANK."""
    return int(os.environ.get("RANK", "0")) == 0


def world_size() -> int:
    """How many processes train together."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def prepare_libraries() -> None:
    """Call before transformers or datasets are imported. A run owns the terminal.

    It needs no network unless its recipe names the hub; `HF_HUB_OFFLINE=1` keeps it to what is cached.
    """
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"


def silence_libraries() -> None:
    """Call once transformers and datasets are imported."""
    import datasets
    from transformers.utils import logging

    datasets.disable_progress_bars()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
