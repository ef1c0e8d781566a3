"""JaxContext: settings by thread and nesting."""

import threading

import pytest

from pax_haiku.core.context import JaxContext, cur_jax_context


def test_defaults():
  hparams = JaxContext.new_context().hparams
  assert hparams == JaxContext.HParams(None, 3, None, False)


def test_nothing_is_active_outside():
  assert JaxContext.top() is None
  assert not JaxContext.has_context()
  with pytest.raises(AssertionError, match='new_context'):
    cur_jax_context()
  JaxContext.new_context()
  assert not JaxContext.has_context(), 'made but not entered'


def test_nesting_copies_hparams_only():
  hparams = JaxContext.HParams(do_eval=True, summary_verbosity=1)
  with JaxContext.new_context(hparams=hparams) as outer:
    assert JaxContext.top() is cur_jax_context() is outer
    assert outer.do_eval and outer.summary_verbosity == 1
    outer.summary_dict.add_summary('x', 1.0)
    with JaxContext.new_context() as inner:
      assert cur_jax_context() is inner
      assert inner.hparams == outer.hparams and inner.hparams is not outer.hparams
      assert inner.summary_dict.dict == {}
      inner.hparams.do_eval = False
    with JaxContext.new_context(hparams=JaxContext.HParams()) as inner:
      assert inner.do_eval is None and not inner.self_reflect_configs
    assert cur_jax_context() is outer and outer.do_eval
  assert not JaxContext.has_context()


def test_given_hparams_are_cloned():
  hparams = JaxContext.HParams(mesh_axes_transpose={'a': 'b'})
  with JaxContext.new_context(hparams=hparams) as ctx:
    hparams.mesh_axes_transpose['a'] = 'c'
    hparams.do_eval = True
    assert ctx.hparams.mesh_axes_transpose == {'a': 'b'}
    assert ctx.do_eval is None


def test_hparams_are_keyword_only():
  with pytest.raises(TypeError):
    JaxContext.new_context(JaxContext.HParams())


def test_left_when_an_error_passes_through():
  with pytest.raises(KeyError), JaxContext.new_context():
    raise KeyError
  assert not JaxContext.has_context()


def test_threads_do_not_see_each_other():
  seen = []
  with JaxContext.new_context():
    thread = threading.Thread(target=lambda: seen.append(JaxContext.has_context()))
    thread.start()
    thread.join()
  assert seen == [False]


def test_leaving_in_the_wrong_order():
  outer, inner = JaxContext.new_context(), JaxContext.new_context()
  with pytest.raises(RuntimeError, match='innermost'), outer, inner:
    outer.__exit__(None, None, None)
  assert not JaxContext.has_context()
