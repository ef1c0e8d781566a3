"""The error of checkpoints."""


class CheckpointError(ValueError):
  """A checkpoint that cannot be read, written or used; the message says all of why."""
