"""HParams, parameterizable classes, and structures as text.

The texts are what the real Praxis prints for the same values.
"""

import collections
import copy
import dataclasses
import enum
import functools
import inspect
import pickle
import types

import jax.numpy as jnp
import numpy as np
import pytest

from pax_haiku import base_hyperparams, base_layer, pax_fiddle
from pax_haiku.base_hyperparams import (
    BaseHyperParams,
    BaseParameterizable,
    FiddleBaseParameterizable,
    nested_struct_to_text,
    sub_config_field,
    visit_nested_struct,
)
from pax_haiku.core.nested_map import NestedMap
from pax_haiku.layers import linears


class A(BaseHyperParams):
  x: int = 1
  y: object = None


class B(A):
  z: list = dataclasses.field(default_factory=list)


# --- BaseHyperParams ---


def test_is_a_dataclass():
  assert A(5, 6) == A(x=5, y=6) != A()
  assert [f.name for f in dataclasses.fields(B)] == ['x', 'y', 'z']
  assert A() != B()
  assert repr(B()) == 'B(x=1, y=None, z=[])'
  with pytest.raises(TypeError, match='unhashable'):
    hash(A())


def test_redeclaring_needs_permission():
  with pytest.raises(AttributeError, match='x was overridden'):

    class Bad(A):
      x: int = 3

  class Good(A):
    _attribute_overrides: tuple[str, ...] = ('x',)
    x: int = 3

  assert Good().x == 3
  assert [f.name for f in dataclasses.fields(Good)] == ['x', 'y']

  class Ignored(A):
    x = 3

  assert Ignored().x == 1


def test_unknown_names():
  a = A()
  with pytest.raises(TypeError):
    A(q=1)
  with pytest.raises(AttributeError, match="Attribute q doesn't exist on A"):
    a.q = 1
  with pytest.raises(AttributeError, match="Attribute q doesn't exist on A"):
    a.set(q=1)
  with pytest.raises(AttributeError):
    _ = a.q


def test_hparams_given_to_the_constructor_are_cloned():
  inner = A()
  outer = A(y=inner)
  assert outer.y is not inner and outer.y == inner
  outer.y = inner
  assert outer.y is inner
  items = [inner]
  assert A(y=items).y is items


def test_freeze():
  outer = A()
  outer.y = inner = A()
  assert outer.freeze() is None
  for frozen in (outer, inner):
    with pytest.raises(AttributeError, match='This HParam object is frozen: A'):
      frozen.x = 2
  free = outer.clone()
  free.x = free.y.x = 8
  assert (outer.x, inner.x) == (1, 1)
  with pytest.raises(AttributeError, match='frozen'):
    copy.deepcopy(outer).x = 2
  outer.unfreeze()
  outer.x = inner.x = 3
  assert outer.set(x=4) is outer


def test_copy_fields_from():
  b = B(x=5)
  b.copy_fields_from(A(x=9, y=3))
  assert b == B(x=9, y=3)
  a = A()
  with pytest.raises(ValueError, match='z not in self'):
    a.copy_fields_from(b)
  a.copy_fields_from(b, missing_fields_in_self=['z'])
  assert a == A(x=9, y=3)
  with pytest.raises(TypeError):
    a.copy_fields_from(3)


def test_configs_of_hparams():
  cfg = A.config(x=3)
  assert cfg == pax_fiddle.Config(A, x=3)
  assert base_hyperparams.instantiate(cfg, x=5) == A(x=5)
  assert pax_fiddle.build(A.partial(x=3))(y=2) == A(x=3, y=2)


def test_sub_config_field():

  class D(BaseHyperParams):
    s: A = sub_config_field(A)
    n: object = sub_config_field(None)
    e: A = sub_config_field(lazy_ref=lambda: B)

  assert D() == D(s=A(), n=None, e=B())
  assert D().s is not D().s
  cfg = D.config()
  cfg.s.x = 7
  assert isinstance(cfg.e, pax_fiddle.Config) and cfg.e.cls is B
  assert cfg.Instantiate() == D(s=A(x=7), e=B())
  make = pax_fiddle.build(D.partial())
  assert make() == D() and make().s is not make().s
  with pytest.raises(TypeError, match='not both'):
    sub_config_field(A, lazy_ref=lambda: A)
  with pytest.raises(AssertionError):
    sub_config_field(int)
  assert base_hyperparams.sub_config_field is pax_fiddle.sub_config_field


def test_traversals_enter_hparams():
  cfg = pax_fiddle.Config(A)
  tree = {'a': A(x=cfg)}
  assert any(value is cfg for value, _ in pax_fiddle.iterate(tree))

  def increase(value, state):
    if isinstance(value, int):
      return value + 1
    return state.map_children(value) if state.is_traversable(value) else value

  for traversal in (pax_fiddle.BasicTraversal, pax_fiddle.MemoizedTraversal):
    out = traversal.run(increase, {'a': A(x=[1, A(x=2)])})
    assert out == {'a': A(x=[2, A(x=3)])}
  # Building does not enter.
  assert pax_fiddle.build(tree)['a'].x == cfg


# --- BaseParameterizable ---


class P(BaseParameterizable):
  _USE_DEPRECATED_HPARAMS_BASE_PARAMETERIZABLE = True

  class HParams(BaseParameterizable.HParams):
    k: int = 1
    sub: object = None

  def __init__(self, hparams, extra=0):
    super().__init__(hparams)
    self.total = hparams.k + extra


class Q(P):
  pass


def test_parameterizable():
  p = P.HParams(name='n', k=7)
  assert [f.name for f in dataclasses.fields(p)] == ['cls', 'name', 'k', 'sub']
  assert p.cls is P
  x = p.Instantiate(extra=3)
  p.k = 100
  assert x.total == 10 and x.hparams.k == 7
  with pytest.raises(AttributeError, match='frozen'):
    x.hparams.k = 3
  assert base_hyperparams.instantiate(p, extra=1).total == 101
  assert P.make(k=5, extra=1).total == 6
  cfg = P.config(k=3)
  cfg.extra = 4
  assert cfg.Instantiate().total == 7
  assert p.to_text() == (
      f"cls : type/{__name__}/P\nk : 100\nname : 'n'\nsub : NoneType\n"
  )


def test_each_parameterizable_has_its_own_hparams():
  assert Q.HParams().cls is Q and P.HParams().cls is P
  assert isinstance(Q.HParams(), P.HParams)
  assert type(Q.HParams(k=4).Instantiate()) is Q
  assert Q.HParams.__qualname__ == 'Q.HParams'


class Inner(BaseParameterizable):
  """A class whose HParams have neither name nor Instantiate."""

  _USE_DEPRECATED_HPARAMS_BASE_PARAMETERIZABLE = True

  class HParams(BaseHyperParams):
    """Of Inner."""

    a: int
    b: list = dataclasses.field(default_factory=lambda: [1])


class Outer(Inner):

  class HParams(Inner.HParams):
    inner_tpl: BaseHyperParams = sub_config_field(A)

  def __init__(self, hparams, child: Inner):
    super().__init__(hparams)
    self.child = child


def test_parameterizable_with_plain_hparams():
  x = Inner.make(a=3)
  assert (x.hparams.a, x.hparams.b, x.hparams.cls) == (3, [1], Inner)
  assert x.hparams.b is not Inner.make(a=3).hparams.b
  assert repr(Inner.HParams(a=1)) == f'Inner.HParams(a=1, b=[1], cls={Inner!r})'
  assert Inner.HParams.__doc__ == 'Of Inner.'
  with pytest.raises(TypeError, match="'a'"):
    Inner.make()
  cfg = Inner.config(a=2)
  cfg.b = [5]
  copied = pickle.loads(pickle.dumps(cfg))
  assert base_hyperparams.instantiate(copied).hparams.b == [5]
  with pytest.raises(AttributeError, match='valid parameter names: a, b'):
    cfg.c = 3
  with pytest.raises(TypeError, match='wrong'):
    Inner.config(wrong=3)


def test_configs_of_parameterizables_nest_and_show_sub_configs():
  cfg = Outer.config(a=1, child=Inner.config(a=2))
  cfg.inner_tpl.x = 7
  cfg.child.b = [3]
  x = base_hyperparams.instantiate(cfg)
  assert type(x) is Outer and x.hparams.inner_tpl == A(x=7)
  assert (x.child.hparams.a, x.child.hparams.b) == (2, [3])


def test_partials_of_parameterizables():
  make = base_hyperparams.instantiate(Outer.partial(a=1))
  x, y = make(child=None), make(child=None, a=2)
  assert (x.hparams.a, y.hparams.a) == (1, 2)
  assert x.hparams.inner_tpl == A() and x.hparams.inner_tpl is not y.hparams.inner_tpl


def test_constructors_of_parameterizables():
  flag = {'_USE_DEPRECATED_HPARAMS_BASE_PARAMETERIZABLE': True}

  def of_other_name(self, p, extra=3, hidden=4):
    BaseParameterizable.__init__(self, p)
    self.extra = extra, hidden

  with pytest.raises(TypeError, match='WrongInit.__init__ must have a parameter named'):
    type('WrongInit', (Inner,), {**flag, '__init__': of_other_name})
  with pytest.raises(TypeError, match='Duplicated parameter.*Twice.__init__.*: b'):
    type('Twice', (Inner,), {**flag, '__init__': lambda self, hparams, b=3: None})
  cls = types.new_class(
      'Named',
      (Inner,),
      {'init_params_arg_name': 'p', 'nonconfigurable_init_arg_names': ('hidden',)},
      lambda body: body.update(flag, __init__=of_other_name),
  )
  assert cls.make(a=1, extra=5).extra == (5, 4)
  assert list(inspect.signature(cls.make).parameters) == ['a', 'b', 'extra']


def test_default_factory_of_sub_config_fields():
  field = next(f for f in dataclasses.fields(Outer.HParams) if f.name == 'inner_tpl')
  assert isinstance(field.default_factory, base_hyperparams.SubConfigFactory)
  assert field.default_factory.get_class() is A


def test_new_parameterizables_have_to_ask_for_it():
  with pytest.raises(ValueError, match='FiddleBaseParameterizable'):

    class New(BaseParameterizable):
      pass


def test_instantiate_refuses_the_rest():
  for other in (3, A()):
    with pytest.raises(ValueError, match='Unknown configuration type'):
      base_hyperparams.instantiate(other)


# --- FiddleBaseParameterizable ---


class F(FiddleBaseParameterizable):
  r: int
  n: int = 2


class G(F):
  n: int = 3
  t: pax_fiddle.Config[A] = pax_fiddle.template_field(A)
  req: pax_fiddle.Config[A] | None = pax_fiddle.template_field()


def test_keyword_only_dataclass():
  f = F(r=1)
  assert (f.name, f.r, f.n) == ('', 1, 2)
  assert f == F(r=1, n=2) != F(r=2)
  with pytest.raises(TypeError, match='keyword'):
    F(1)
  with pytest.raises(TypeError):
    F()
  with pytest.raises(TypeError, match='missing a type annotation.*`n: int = ...`'):

    class Bad(F):
      n = 3


def test_post_init():

  class S(FiddleBaseParameterizable):
    a: int = 1

    def __post_init__(self):
      self.b = self.a + 1

  assert S(a=4).b == 5


def test_view_of_fields():
  g = G(r=1, name='nm', req=None)
  h = g.hparams
  assert (h.n, h.name, h.cls, g._hparams.n) == (3, 'nm', G, 3)
  assert h.t is g.t
  assert h.clone() == pax_fiddle.Config(G, r=1, name='nm', req=None)
  with pytest.raises(AttributeError, match='read-only'):
    h.n = 3
  with pytest.raises(AttributeError, match="no attribute 'zz'"):
    _ = h.zz
  assert h.to_text() == (
      f"cls : type/{__name__}/G\nn : 3\nname : 'nm'\nr : 1\nreq : NoneType\n"
      f't.cls : type/{__name__}/A\nt.x : 1\nt.y : NoneType\n'
  )


def test_configs_of_fiddle_parameterizables():
  cfg = G.config(r=2, req=A.config())
  cfg.t.x = 9
  g = cfg.Instantiate()
  assert g.t is cfg.t and g.req is cfg.req
  assert g.n == 3


# --- text ---


class En(enum.Enum):
  A = 1


class Plain:
  pass


class Text(base_hyperparams.StrOverride):

  def __str__(self):
    return 'hallo'


@dataclasses.dataclass
class DC:
  a: object = 1
  b: list = dataclasses.field(default_factory=list)


Named = collections.namedtuple('Named', 'u v')


def function():
  pass


def config(value):
  return pax_fiddle.Config(DC, a=value)


@pytest.mark.parametrize(
    'value, text',
    [
        ("it's", '"it\'s"'),
        ('a"b', "'a\"b'"),
        ('a"b\'c\\d', "'a\"b\\'c\\\\d'"),
        ('', "''"),
        (3, '3'),
        (1e-20, '1e-20'),
        (float('inf'), 'inf'),
        (True, 'True'),
        (En.A, 'En.A'),
        (None, 'NoneType'),
        (Plain(), 'Plain'),
        (Plain, f'type/{__name__}/Plain'),
        (jnp.float32, 'type/jax.numpy/float32'),
        (np.float32, 'type/numpy/float32'),
        (np.dtype('float32'), 'Float32DType'),
        (np.float32(2.5), 'float32'),
        (function, f'callable/{__name__}/function'),
        (functools.partial(function), 'partial'),
        (np.arange(6).reshape(2, 3), '[[0, 1, 2],\n [3, 4, 5]]'),
        ([1, 'a', 2.5], "[1, 'a', 2.5]"),
        ((1,), '(1,)'),
        ([1, None], "[1, 'NoneType']"),
        ([[1, 2], [3]], '[[1, 2], [3]]'),
        ([(1, 'x'), {'q': 1}], "[(1, 'x'), {'q': 1}]"),
        ([int, jnp.float32], "['type/builtins/int', 'type/jax.numpy/float32']"),
        ([En.A], '[<En.A: 1>]'),
        ([Named(1, None)], "[{'u': 1, 'v': 'NoneType'}]"),
        ([DC(), 3], "['DC(a=1, b=[])', 3]"),
        ([config(1), None], "['<PaxConfig[DC(a=1)]>', 'NoneType']"),
        ([A(), 3], "[{'x': 1, 'y': 'NoneType'}, 3]"),
        ([np.float32(2), np.arange(2)], "['float32', '[0, 1]']"),
        ({1}, 'set'),
        (range(3), 'range'),
        (b'ab', 'bytes'),
        (Text(), 'hallo'),
        ([Text()], "['hallo']"),
    ],
)
def test_text_of_leaves(value, text):
  assert nested_struct_to_text({'z': value}) == f'z : {text}\n'


@pytest.mark.parametrize(
    'value, lines',
    [
        ({'z': []}, []),
        ({'z': {'a': {}}, 'y': ()}, []),
        ({'b': {'k': 1, 'j': 2}, 'a': 3}, ['a : 3', 'b.j : 2', 'b.k : 1']),
        (NestedMap(a=1, b=NestedMap(c=[1])), ['a : 1', 'b.c : [1]']),
        (DC(a=DC()), ['a.a : 1']),
        ({'z': Named(1, [2])}, ['z[u] : 1', 'z[v] : [2]']),
        ([A(), A(x=2)], ['[0].x : 1', '[0].y : NoneType', '[1].x : 2',
                         '[1].y : NoneType']),
        ({1: 2, (1, 2): 3}, ['(1, 2) : 3', '1 : 2']),
        (3, [' : 3']),
    ],
)  # fmt: skip
def test_text_of_structures(value, lines):
  assert nested_struct_to_text(value) == ''.join(f'{line}\n' for line in lines)


def test_text_of_configs():
  cls = f'cls : type/{__name__}/DC\n'
  unset = 'b : _HAS_DEFAULT_FACTORY_CLASS\n'
  assert nested_struct_to_text(config(config(2))) == (
      f'a.a : 2\na.{unset}a.{cls}{unset}{cls}'
  )
  assert nested_struct_to_text({'z': [config(1)]}) == (
      f'z[0].a : 1\nz[0].{unset}z[0].{cls}'
  )
  assert nested_struct_to_text({'x_split_dims_mapping': config(1)}) == (
      f'x_split_dims_mapping.a : 1\nx_split_dims_mapping.{unset}'
  )
  partial = pax_fiddle.Partial(function)
  assert nested_struct_to_text(partial) == f'cls : callable/{__name__}/function\n'


class DType:
  """As TensorFlow's."""

  name = 'bfloat16'
  as_numpy_dtype = None


def test_text_names_what_users_import():
  text = nested_struct_to_text({
      'a': base_layer.WeightInit, 'b': base_layer.BaseLayer.WeightSharding,
      'c': base_layer.instantiate, 'd': linears.Linear, 'e': nested_struct_to_text,
      'f': DType(),
  })  # fmt: skip
  assert text == (
      'a : type/pax_haiku.base_layer/WeightInit\n'
      'b : type/pax_haiku.base_layer/BaseLayer.WeightSharding\n'
      'c : callable/pax_haiku.base_hyperparams/instantiate\n'
      'd : type/pax_haiku.layers.linears/Linear\n'
      'e : callable/pax_haiku.core.config_text/nested_struct_to_text\n'
      'f : bfloat16\n'
  )


def test_text_with_types_and_separator():
  assert nested_struct_to_text({'a': 1, 'b': config('s').a}, include_types=True) == (
      "a : 1\nb : 's'\n",
      {'a': 'int', 'b': 'str'},
  )
  assert nested_struct_to_text({'a': 1}, separator='=') == 'a = 1\n'
  assert B(x=3).to_text(separator='=') == 'x = 3\ny = NoneType\n'


# --- visit_nested_struct ---


def walk(value, enter=True):
  log = []
  visit_nested_struct(
      value,
      lambda key, v: log.append(('visit', key)),
      lambda key, v: log.append(('enter', key)) or enter,
      lambda key, v: log.append(('exit', key)),
  )
  return log


def test_order_of_visits():
  assert walk({'a': [1, {'b': 2}]}) == [
      ('enter', ''),
      ('enter', 'a'),
      ('visit', 'a[0]'),
      ('enter', 'a[1]'),
      ('visit', 'a[1].b'),
      ('exit', 'a[1]'),
      ('exit', 'a'),
      ('exit', ''),
  ]
  assert walk({'a': [1]}, enter=False) == [('enter', ''), ('visit', '')]


@pytest.mark.parametrize(
    'value, keys',
    [
        (Named(1, [2]), ['[u]', '[v][0]']),
        ([('a', A())], ['[0][0]', '[0][1].x', '[0][1].y']),
        (range(2), ['[0]', '[1]']),
        (DC(a=3), ['a']),
        (config(1), ['a', 'b']),
        ({'a': {}, 'b': DC}, ['b']),
        (3, ['']),
    ],
)
def test_keys_of_visits(value, keys):
  seen = []
  visit_nested_struct(value, lambda key, v: seen.append(key))
  assert seen == keys


def test_circular_structures():
  circle = {}
  circle['d'] = circle
  for use in (nested_struct_to_text, walk):
    with pytest.raises(ValueError, match='circular'):
      use(circle)
  shared = [1]
  assert walk({'a': shared, 'b': shared})
