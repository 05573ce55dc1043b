"""From token ids to text, exactly, as they arrive."""
