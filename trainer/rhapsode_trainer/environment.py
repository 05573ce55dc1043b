"""Settings of libraries that must stand before they are imported: no network, no output of their own."""

import os


def prepare_libraries() -> None:
    """Call before transformers or datasets are imported. A run needs no network and owns the terminal."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ["HF_DATASETS_OFFLINE"] = "1"
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
