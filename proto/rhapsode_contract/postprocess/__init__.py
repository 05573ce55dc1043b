"""Post-processing: named steps that tidy what a model has written, stored with a version in its postprocess.json.

    {"schema_version": 1, "steps": ["ftfy", "whitespace", "last_sentence"]}

The trainer applies them to its samples and the server to its answers, through the same code. A step is a function from
text to text, in time linear in the text; steps run in the order given. Standard library only, but for the step `ftfy`.
"""

from .pipeline import SCHEMA_VERSION, STEPS, Pipeline

__all__ = ["SCHEMA_VERSION", "STEPS", "Pipeline"]
