"""How hard random tests try: a little in every run, long under `make fuzz`."""

import os

IS_LONG = os.environ.get("RHAPSODE_FUZZ") == "1"


def examples(count: int) -> int:
    """Of a property test: `count` in every run, ten times as many in a long one."""
    return count * 10 if IS_LONG else count
