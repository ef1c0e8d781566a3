"""JaxContext: what layers know about the run around them, such as eval or training."""

import copy
import dataclasses
import threading

from pax_haiku.core import summary_types


class _Stack(threading.local):
  """The active contexts of a thread, the innermost last."""

  def __init__(self):
    self.contexts: list[JaxContext] = []


_stack = _Stack()


class JaxContext:
  """Settings that layers read at trace time; active inside `with`.

  Contexts nest, by thread. An inner one has its own summaries and shares no layers with
  the outer ones. Make one by `JaxContext.new_context`.
  """

  @dataclasses.dataclass
  class HParams:
    """The settings.

    Attributes:
      do_eval: whether to behave as in evaluation: no dropout, frozen statistics.
      summary_verbosity: summaries of a higher verbosity are dropped.
      mesh_axes_transpose: new name -> old name of mesh axes, see
        `sharding.maybe_transpose_mesh_axes`.
      self_reflect_configs: whether to record the layers' configs.
    """

    do_eval: bool | None = None
    summary_verbosity: int = 3
    mesh_axes_transpose: dict[str, str] | None = None
    self_reflect_configs: bool = False

    def clone(self) -> 'JaxContext.HParams':
      """Returns a deep copy."""
      return copy.deepcopy(self)

  def __init__(self, hparams: HParams):
    self._hparams = hparams.clone()
    self._summary_dict = summary_types.SummaryDict()

  def __enter__(self) -> 'JaxContext':
    _stack.contexts.append(self)
    return self

  def __exit__(self, exc_type, exc_value, traceback):
    if not _stack.contexts or _stack.contexts[-1] is not self:
      raise RuntimeError('A JaxContext was left that is not the innermost one.')
    _stack.contexts.pop()

  @staticmethod
  def new_context(*, hparams: 'JaxContext.HParams | None' = None) -> 'JaxContext':
    """Returns a context to enter by `with`.

    Args:
      hparams: copied. None: those of the innermost active context, else the defaults.
    """
    if hparams is None:
      outer = JaxContext.top()
      hparams = JaxContext.HParams() if outer is None else outer.hparams
    return JaxContext(hparams)

  @staticmethod
  def top() -> 'JaxContext | None':
    """Returns the innermost active context of this thread, or None."""
    return _stack.contexts[-1] if _stack.contexts else None

  @staticmethod
  def has_context() -> bool:
    """Whether a context is active in this thread."""
    return bool(_stack.contexts)

  @property
  def hparams(self) -> 'JaxContext.HParams':
    return self._hparams

  @property
  def do_eval(self) -> bool | None:
    return self._hparams.do_eval

  @property
  def summary_verbosity(self) -> int:
    return self._hparams.summary_verbosity

  @property
  def self_reflect_configs(self) -> bool:
    return self._hparams.self_reflect_configs

  @property
  def summary_dict(self) -> summary_types.SummaryDict:
    return self._summary_dict


def cur_jax_context() -> JaxContext:
  """Returns the innermost active context; AssertionError when there is none."""
  if not _stack.contexts:
    raise AssertionError(
      'No JaxContext is active. Enter one: '
      '`with JaxContext.new_context(hparams=JaxContext.HParams(do_eval=...)):`.'
    )
  return _stack.contexts[-1]
