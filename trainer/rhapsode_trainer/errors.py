"""What can go wrong in the trainer, and the exit code that tells a scheduler what to do about it.

TrainerError            1   something that should not happen
+-- ConfigError         2   the recipe, an option or a folder given by the user is wrong
|   +-- SourceError     2   a folder to publish is not a model that can be served
+-- DataError           3   the data cannot be trained on
+-- GateRejected        4   the trained model is not fit to be published
+-- Busy               75   another publisher is at work; run it again
+-- LoadCheckError      1   the version does not load back as it was written
+-- CheckpointError     1   a checkpoint cannot be written; those before it are as they were
+-- Interrupted        75   SIGTERM or SIGINT arrived; run it again
"""
# ruff: noqa: N818 - the names say what happened

from typing import ClassVar


class TrainerError(Exception):
    """Root of every error that the trainer reports without a traceback."""

    exit_code: ClassVar[int] = 1


class ConfigError(TrainerError):
    """The user asked for something impossible; the message names the field."""

    exit_code = 2


class SourceError(ConfigError):
    """The folder to publish is not a causal language model with a tokenizer and safetensors weights."""


class DataError(TrainerError):
    """The training data is unusable; the message names file and line where there is one."""

    exit_code = 3


class GateRejected(TrainerError):
    """The trained model is not fit to be published; the message says by which measure."""

    exit_code = 4


class Busy(TrainerError):
    """Another publisher is at work on this model."""

    exit_code = 75


class LoadCheckError(TrainerError):
    """A published folder, loaded back, is not the model that was written."""


class CheckpointError(TrainerError):
    """A checkpoint cannot be written, for want of space or of permission; those before it are as they were."""


class Interrupted(TrainerError):
    """A signal asked the run to stop."""

    exit_code = 75
