"""Configs, field declarations, building, auto_config, tags.

What is expected here is what the real Praxis does in the same situation, observed by
running it, unless the spec says otherwise.
"""

import collections.abc
import copy
import dataclasses
import functools
import inspect
import logging
import threading
import typing
from typing import Any, NamedTuple

import fiddle as fdl
import fiddle.history
import pytest

from pax_haiku import base_layer, fiddle_tags, pax_fiddle
from pax_haiku.core.nested_map import NestedMap
from pax_haiku.pax_fiddle import Config, instance_field, template_field


@dataclasses.dataclass
class Lin:
  n: int = 1
  m: object = None


@dataclasses.dataclass
class Lin2(Lin):
  k: Config = template_field(Lin)


@dataclasses.dataclass
class Other:
  q: int = 1


def make_lin():
  return Lin(n=8)


def make_config():
  return Config(Lin, n=33)


@dataclasses.dataclass
class Owner:
  a: Config[Lin] = template_field(Lin)
  b: Lin = instance_field(Lin)
  c: Lin = instance_field(lambda: Lin(n=7))
  d: Config = template_field(make_lin)
  e: list = template_field(list)
  f: list = instance_field(list)
  g: object = template_field(None)
  h: object = instance_field(None)
  i: dict = dataclasses.field(default_factory=dict)
  j: Config = template_field(make_config)


# --- config objects ---


def test_default_fields_are_expanded():
  cfg = Config(Owner)
  assert cfg.a == Config(Lin) and cfg.b == Config(Lin)
  assert cfg.c == Config(Lin, n=7) and cfg.d == Config(Lin, n=8)
  assert cfg.e == [] and cfg.f == [] and cfg.g is None and cfg.h is None
  assert cfg.j == Config(Lin, n=33)
  cfg.a.n = 3
  cfg.e.append(1)
  assert Config(Owner).a.n == 1 and Config(Owner).e == []
  assert isinstance(cfg, fdl.Config) and type(cfg).__name__ == 'PaxConfig'


def test_reading():
  cfg = Config(Lin)
  assert cfg.n == 1
  with pytest.raises(ValueError, match="Can't get default value for dataclass field"):
    _ = Config(Owner).i
  with pytest.raises(AttributeError, match="No parameter 'x' has been set"):
    _ = Config(lambda x: x).x
  with pytest.raises(AttributeError):
    _ = cfg.zz
  assert not hasattr(cfg, 'zz')
  assert 'n=5' in repr(Config(Lin, n=5)) and 'm=' not in repr(Config(Lin, n=5))


def test_unknown_names():
  with pytest.raises(AttributeError, match="No parameter named 'zz'.*valid parameter"):
    Config(Lin).zz = 1
  with pytest.raises(AttributeError, match="'zz'"):
    Config(Lin).set(zz=1)
  with pytest.raises(TypeError, match='unexpected keyword argument'):
    Config(Lin, zz=1)


def test_unknown_names_suggest_the_nearest():

  @dataclasses.dataclass
  class Layer:
    input_dims: int = 0

  with pytest.raises(AttributeError, match="Did you mean 'input_dims'"):
    Config(Layer).input_dim = 1


def test_del_goes_back_to_the_default():
  cfg = Config(Lin, n=5)
  del cfg.n
  assert cfg.n == 1
  with pytest.raises(AttributeError):
    del cfg.n


def test_positional_arguments():
  assert Config(Lin, 3, 4) == Config(Lin, n=3, m=4)


def test_cls():
  cfg = Config(Lin, n=5)
  assert cfg.cls is Lin
  cfg.cls = Lin2
  assert cfg == Config(Lin2, n=5) and cfg.k == Config(Lin)
  with pytest.raises(TypeError, match='invalid arguments'):
    cfg.cls = Other
  pax_fiddle.update_callable(cfg, Other, drop_invalid_args=True)
  assert cfg == Config(Other)


def test_parameters_that_have_names_of_the_config():

  @dataclasses.dataclass
  class Odd:
    cls: int = 1
    mesh_shape: int = 2

  cfg = Config(Odd, cls=3)
  cfg.mesh_shape = 4
  assert (cfg.cls, cfg.mesh_shape) == (3, 4)
  cfg.cls = 5
  assert pax_fiddle.build(cfg) == Odd(5, 4)


def test_copies():
  shared = Config(Lin)
  cfg = Config(Owner, a=shared, d=shared, e=[shared])
  clone = cfg.clone()
  assert clone == cfg and clone.a is not cfg.a
  assert clone.a is clone.d is clone.e[0]
  assert copy.deepcopy(cfg).a is not cfg.a
  assert copy.copy(cfg).a is cfg.a


def test_set():
  cfg = Config(Lin)
  assert cfg.set(n=2, m=3) is cfg and cfg == Config(Lin, 2, 3)
  assert cfg.Set(n=4) is cfg and cfg.n == 4


@dataclasses.dataclass
class OwnInit:
  n: int = 1

  def __init__(self, m: int = 2, n: int = 3):
    del m
    self.n = n


@dataclasses.dataclass
class OtherInit:
  hidden: int = 1

  def __init__(self, m: int = 2):
    self.hidden = m


@pytest.mark.parametrize('tracking', [True, False])
def test_arguments_are_those_of_the_constructor(tracking):
  before = fiddle.history.tracking_enabled()
  fiddle.history.set_tracking(tracking)  # off in setups, where setting is quicker
  try:
    assert Config(OwnInit).n == 3
    assert Config(OwnInit).set(n=5).n == 5
    with pytest.raises(AttributeError, match='hidden'):
      Config(OtherInit).hidden = 4
  finally:
    fiddle.history.set_tracking(before)


def test_equality():
  assert Config(Lin) == Config(Lin, n=1) != Config(Lin, n=2)
  assert Config(Lin) != Config(Lin2) and Config(Lin) != 3
  assert Config(Owner) == Config(Owner)
  with pytest.raises(TypeError):
    hash(Config(Lin))
  with pytest.raises(TypeError):
    Config(Lin)()


def test_instantiate():
  cfg = Config(Lin, n=2)
  assert cfg.Instantiate(m=3) == Lin(2, 3)
  assert pax_fiddle.instantiate(cfg, n=4) == Lin(4) and cfg.n == 2
  with pytest.raises(AttributeError):
    cfg.Instantiate(zz=1)


def test_to_text():
  assert Config(Lin).to_text() == f'cls : type/{__name__}/Lin\nm : NoneType\nn : 1\n'


@dataclasses.dataclass
class S1:
  a: int = 1
  b: int = 2
  t: Config = template_field(Lin)
  l: list = dataclasses.field(default_factory=list)  # noqa: E741


@dataclasses.dataclass
class S2(S1):
  z: int = 3


@dataclasses.dataclass
class S3:
  l: list = dataclasses.field(default_factory=dict)  # noqa: E741


def test_copy_fields_from():
  cfg = Config(S2, a=9, z=8, l=[1])
  source = Config(S1, b=5)
  cfg.copy_fields_from(source)
  assert cfg == Config(S2, b=5, z=8)
  assert cfg.cls is S2 and cfg.t is not source.t
  with pytest.raises(ValueError, match="'z' not in self"):
    Config(S1).copy_fields_from(Config(S2))
  back = Config(S1)
  back.copy_fields_from(Config(S2, a=7), missing_fields_in_self=['z'])
  assert back == Config(S1, a=7)
  with pytest.raises(TypeError):
    Config(S1).copy_fields_from(3)
  with pytest.raises(ValueError, match="Can't copy from default_factory of S3.l"):
    Config(S1).copy_fields_from(Config(S3))
  back.copy_fields_from(Config(S3, l=[2]))
  assert back.l == [2]
  with pytest.raises(ValueError, match="Can't copy from missing required .*lambda>.x"):
    Config(lambda x: x).copy_fields_from(Config(lambda x: x))


def test_copy_fields_from_takes_base_fields_and_name():
  cfg = Config(base_layer.BaseLayer, name='x', dtype=1)
  cfg.copy_fields_from(Config(base_layer.BaseLayer, name='y'))
  assert cfg == Config(base_layer.BaseLayer, name='y')


def test_mesh_shape():
  Layer = base_layer.BaseLayer  # noqa: N806
  assert Config(Layer).mesh_shape is None
  cfg = Config(Layer, ici_mesh_shape=[2, 2], mesh_axis_names=['a', 'b'])
  assert cfg.mesh_shape == [2, 2]
  assert cfg.set(dcn_mesh_shape=[3, 1]).mesh_shape == [6, 2]
  for names in (None, ['a']):
    with pytest.raises(AssertionError, match='mesh_axis_names'):
      _ = cfg.clone().set(mesh_axis_names=names).mesh_shape
  with pytest.raises(AttributeError):
    _ = Config(Lin).mesh_shape


# --- field declarations ---


def test_direct_construction():
  owner = Owner()
  assert owner.a == Config(Lin) and owner.d == Config(Lin, n=8)
  assert owner.b == Lin() and owner.c == Lin(n=7)
  assert owner.e == [] and owner.f == [] and owner.j == Config(Lin, n=33)
  assert Owner().a is not owner.a


def test_field():

  @dataclasses.dataclass
  class Fields:
    a: object = pax_fiddle.field(default_factory=Lin)
    b: object = pax_fiddle.field(default_factory=Lin, configurable_factory=True)
    c: object = pax_fiddle.field(default_factory=pax_fiddle.auto_config(make_lin))
    d: object = pax_fiddle.fdl_field(default=4, metadata={'mine': 5}, repr=False)

  assert Fields() == Fields(Lin(), Lin(), Lin(n=8), 4)
  cfg = Config(Fields)
  assert cfg.b == Config(Lin) and cfg.c == Config(Lin, n=8) and cfg.d == 4
  with pytest.raises(ValueError, match='default_factory'):
    _ = cfg.a
  assert pax_fiddle.build(cfg) == Fields()
  assert dataclasses.fields(Fields)[3].metadata['mine'] == 5


def test_configurable_factory_needs_a_signature():
  with pytest.raises(ValueError, match='min.* has no signature'):
    pax_fiddle.field(default_factory=min, configurable_factory=True)


def test_configurable_factory_is_not_for_auto_config():
  with pytest.raises(ValueError, match="should not be used with auto_config'ed"):
    pax_fiddle.field(
        default_factory=pax_fiddle.auto_config(make_lin), configurable_factory=True
    )


def test_configurable_factory_needs_a_factory():
  with pytest.raises(ValueError, match='configurable_factory'):
    pax_fiddle.field(configurable_factory=True)


@pytest.mark.parametrize('declare', [template_field, instance_field])
@pytest.mark.parametrize('value', [Config(Lin), functools.partial(Lin)])
def test_fields_take_classes_and_functions(declare, value):
  with pytest.raises(ValueError):
    declare(value)


def test_required_template_field():

  @dataclasses.dataclass(kw_only=True)
  class Owner:
    x: int = 1
    t: Config = template_field()

  with pytest.raises(TypeError):
    Owner()
  assert Owner(t=Config(Lin)).t == Config(Lin)


def test_weight_init_as_factory():

  @dataclasses.dataclass
  class Owner:
    i: object = instance_field(base_layer.WeightInit.Gaussian)

  assert Owner().i == base_layer.WeightInit.Gaussian(1.0)
  assert Config(Owner).i.method == 'gaussian'
  assert pax_fiddle.build(Config(Owner)) == Owner()


def test_two_lambdas_on_one_line_are_an_error_only_when_needed():
  fields = [instance_field(f) for f in (lambda: Lin(n=1), lambda: Lin(n=2))]

  @dataclasses.dataclass
  class Owner:
    a: object = fields[0]

  assert Owner().a == Lin(n=1)
  with pytest.raises(ValueError, match='own line'):
    Config(Owner)


# --- what is a template ---


CFG = Config(Lin)

KEPT = [
    (Config, CFG),
    (Config[Lin], CFG),
    (Config[Lin] | None, CFG),
    (typing.Optional[Config], CFG),  # noqa: UP045
    (pax_fiddle.Buildable, CFG),
    (pax_fiddle.Partial[Lin], CFG),
    (typing.Annotated[Config, 3], CFG),
    ('Config', CFG),
    (collections.abc.Sequence[Config[Lin]], [CFG]),
    (typing.Sequence[Config | None], [None, CFG]),
    (list[Config], [CFG]),
    (list[Config], NestedMap(a=CFG)),
    (tuple[Config, ...], (CFG,)),
    (tuple[Config, int], (CFG, 3)),
    (dict[str, Config], {'a': CFG}),
    (collections.abc.Mapping[str, Config], {'a': CFG}),
    (Config | typing.Sequence[Config], [CFG]),
    (typing.Sequence[typing.Mapping[str, Config]] | None, [{'a': CFG}]),
]
BUILT = [
    (Any, CFG),
    (object, CFG),
    (Lin, CFG),
    (Lin | None, CFG),
    (list[Lin], [CFG]),
    (dict[str, Any], {'a': CFG}),
    (typing.Literal['a'], CFG),
    (typing.Sequence, [CFG]),
    (NestedMap, NestedMap(a=CFG)),
    (collections.abc.Callable[..., Any], CFG),
]


def owner_of(annotation):
  return dataclasses.make_dataclass(
      'Owner', [('x', annotation, None)], namespace={'__module__': __name__}
  )


@pytest.mark.parametrize('annotation, value', KEPT)
def test_annotations_of_templates(annotation, value):
  assert pax_fiddle.build(Config(owner_of(annotation), x=value)).x is value


@pytest.mark.parametrize('annotation, value', BUILT)
def test_annotations_of_objects(annotation, value):
  out = pax_fiddle.build(Config(owner_of(annotation), x=value)).x
  while isinstance(out, list | dict):
    (out,) = out.values() if isinstance(out, dict) else out
  assert out == Lin()


@pytest.mark.parametrize(
    'annotation', [set[Config], type[Config], collections.abc.Callable[[Config], int]]
)
def test_unsupported_annotations(annotation):
  with pytest.raises(ValueError, match='Unsupported type'):
    pax_fiddle.build(Config(owner_of(annotation), x=CFG))


def test_unresolvable_annotation():
  cfg = Config(owner_of('Nope'), x=CFG)
  with pytest.raises(TypeError, match='Nope'):
    pax_fiddle.build(cfg)
  assert pax_fiddle.build(cfg.set(x=3)).x == 3  # No need to know.

  @dataclasses.dataclass
  class Owner:
    a: 'Config' = None
    b: 'Nope' = None  # noqa: F821
    c: Any = None

  out = pax_fiddle.build(Config(Owner, a=CFG, b=3, c=Config(Lin)))
  assert out.a is CFG and out.c == Lin()

  def fn(a: 'Config', b: 'Nope'):  # noqa: F821
    return a

  assert pax_fiddle.build(Config(fn, a=CFG, b=3)) is CFG


class Pair(NamedTuple):
  x: 'Config'
  y: Any = None


def test_annotations_of_functions_and_other_classes():

  def fn(x: Config, y: Any = None):
    return x, y

  class Plain:

    def __init__(self, x: Config, y=None):
      self.both = x, y

  other = Config(Lin, n=2)
  assert pax_fiddle.build(Config(fn, x=CFG, y=other)) == (CFG, Lin(2))
  assert pax_fiddle.build(Config(Plain, x=CFG, y=other)).both == (CFG, Lin(2))
  assert pax_fiddle.build(Config(Pair, x=CFG, y=other)) == (CFG, Lin(2))


# --- building ---


def test_templates_survive_as_the_same_objects():
  cfg = Config(Owner)
  owner = pax_fiddle.build(cfg)
  assert owner.a is cfg.a and owner.d is cfg.d
  assert owner.b == Lin() and owner.c == Lin(n=7) and owner.i == {}
  assert pax_fiddle.build(cfg).b is not owner.b


def test_build_of_structures():
  cfg = Config(Lin)
  out = pax_fiddle.build({'a': [cfg], 'b': NestedMap(c=cfg), 'd': 3})
  assert out == {'a': [Lin()], 'b': {'c': Lin()}, 'd': 3}
  assert out['a'][0] is out['b'].c and type(out['b']) is NestedMap
  for value in (3, None, 'x', [1]):
    assert pax_fiddle.build(value) == value
  assert pax_fiddle.build([cfg])[0] is not pax_fiddle.build([cfg])[0]


def test_building_leaves_the_config_alone():
  cfg = Config(Owner, e=[Config(Lin)], b=Config(Lin, m={'x': Config(Lin)}))
  before = cfg.clone()
  pax_fiddle.build(cfg)
  assert cfg == before


def test_errors_of_constructors_keep_their_type():

  class MyError(Exception):

    def __init__(self, code):
      super().__init__('boo')
      self.code = code

  def boom(x):
    raise MyError(x)

  with pytest.raises(MyError, match='boo') as e:
    pax_fiddle.build(Config(Owner, e=[Config(boom, x=3)]))
  assert e.value.code == 3
  assert 'Fiddle context: failed to construct' in str(e.value)
  assert '<root>.e[0]' in str(e.value)
  assert not pax_fiddle.is_building()


def test_partial():
  make = pax_fiddle.build(pax_fiddle.Partial(Owner, e=[1]))
  assert isinstance(make, functools.partial)
  assert make().b == Lin() and make().b is not make().b
  assert make(b=3).b == 3


def test_partial_around_configs_in_defaults():

  @dataclasses.dataclass
  class Good:
    a: object = instance_field(lambda: functools.partial(Lin, n=3))

  @dataclasses.dataclass
  class Bad:
    a: object = instance_field(lambda: functools.partial(Lin, m=Lin(n=3)))

  assert pax_fiddle.build(pax_fiddle.Partial(Good))().a() == Lin(n=3)
  assert pax_fiddle.build(Config(Bad)).a() == Lin(m=Lin(n=3))
  with pytest.raises(ValueError, match='Unable to safely replace'):
    pax_fiddle.Partial(Bad)


def test_arg_factory():
  cfg = pax_fiddle.Partial(Lin, m=pax_fiddle.ArgFactory(Lin2))
  make = pax_fiddle.build(cfg)
  assert isinstance(make().m, Lin2) and make().m is not make().m


def test_no_warnings(caplog):
  with caplog.at_level(logging.WARNING):
    pax_fiddle.build(3)
    pax_fiddle.build(pax_fiddle.Partial(Owner))()
  assert not caplog.records


class Hooked:
  """Says what a layer can see while it is built."""

  def __init__(self, inner=None):
    self.inner = inner
    self.built_inside = pax_fiddle.is_building()

  def __pax_built__(self):
    assert not pax_fiddle.is_building()
    return 'hooked', self


def test_hook_after_building():
  assert not Hooked().built_inside
  word, outer = pax_fiddle.build(Config(Hooked, inner=Config(Hooked)))
  assert word == 'hooked' and outer.built_inside
  assert type(outer.inner) is Hooked and outer.inner.built_inside
  (in_list,) = pax_fiddle.build([Config(Hooked)])
  assert type(in_list) is Hooked


def test_building_inside_a_constructor():

  class Nesting:

    def __init__(self):
      self.made = pax_fiddle.build(Config(Hooked))
      assert pax_fiddle.is_building()

  assert type(pax_fiddle.build(Config(Nesting)).made) is Hooked


def test_building_is_a_matter_of_one_thread():
  seen = []
  with pax_fiddle.empty_flax_module_stack():
    assert pax_fiddle.is_building()
    thread = threading.Thread(target=lambda: seen.append(pax_fiddle.is_building()))
    thread.start()
    thread.join()
  assert seen == [False] and not pax_fiddle.is_building()


def test_odd_metaclass():
  """Signature and fields are found behind a metaclass with a `__call__` of its own."""

  class Meta(type):

    def __new__(mcs, name, bases, namespace):
      return dataclasses.dataclass(eq=False, repr=False)(
          super().__new__(mcs, name, bases, namespace)
      )

    def __call__(cls, *args, **kwargs):
      made = cls.__new__(cls)
      made.__init__(*args, **kwargs)
      return made

    @property
    def __signature__(cls):
      signature = inspect.signature(cls.__init__)
      return signature.replace(parameters=list(signature.parameters.values())[1:])

  class Base(metaclass=Meta):
    x: int = 1

  class Derived(Base):
    t: Config = template_field(Lin)
    i: Lin = instance_field(Lin)

  cfg = Config(Derived, x=3)
  cfg.t.n = 5
  made = cfg.Instantiate()
  assert (made.x, made.t.n, made.i) == (3, 5, Lin())
  with pytest.raises(TypeError):
    Config(Derived, y=1)


# --- base fields flow down ---


@dataclasses.dataclass
class Leaf:
  base: object = None
  x: Any = None
  t: Config = template_field(None)

  @staticmethod
  def copy_base_hparams(source, target):
    if target.base is None:
      target.base = source.base


def test_base_fields_flow_through_containers():
  leaf = Config(Leaf)
  other = Config(Lin, m=Config(Leaf))  # Not a layer, but a layer is inside.
  cfg = Config(Leaf, base=1, x={'a': [leaf], 'b': NestedMap(c=other)}, t=Config(Leaf))
  out = pax_fiddle.build(cfg)
  assert out.x['a'][0].base == 1 and out.x['b'].c.m.base == 1
  assert out.t.base is None  # A template inherits when its owner builds it.
  assert leaf.base is None


def test_base_fields_flow_depth_first():
  middle = Config(Leaf, base=2, x=Config(Leaf))
  out = pax_fiddle.build(Config(Leaf, base=1, x=[middle, Config(Leaf, x=Config(Leaf))]))
  assert [out.x[0].base, out.x[0].x.base] == [2, 2]
  assert [out.x[1].base, out.x[1].x.base] == [1, 1]


def test_what_is_shared_inherits_once_and_stays_shared():
  shared = Config(Leaf)
  first, second = Config(Leaf, base=1, x=shared), Config(Leaf, base=2, x=shared)
  out = pax_fiddle.build([first, second])
  assert out[0].x is out[1].x and out[0].x.base == 1


def test_layers_inherit():

  class Child(base_layer.BaseLayer):
    pass

  class Parent(base_layer.BaseLayer):
    child: Child = instance_field(Child)
    child_tpl: Config = template_field(Child)

  parent = Config(Parent, dtype=int, mesh_axis_names=['a']).Instantiate()
  assert parent.child.dtype is int and parent.child.mesh_axis_names == ['a']
  assert parent.child_tpl.dtype is not int


# --- auto_config ---


@dataclasses.dataclass
class Stack:
  subs: Any = None
  out_tpl: Config | None = None


@pax_fiddle.auto_config
def net(n=3):
  subs = [Lin(n=n) for _ in range(2)]
  if n > 4:
    subs.append(Lin(n=0))
  return Stack(subs=subs, out_tpl=Config(Lin, n=4))


@pax_fiddle.auto_config
def nets():
  return {'a': net(2), 'b': functools.partial(Lin, n=2), 'c': [1, 2]}


def test_auto_config():
  assert net() == Stack([Lin(3), Lin(3)], Config(Lin, n=4))
  cfg = net.as_buildable(n=5)
  assert cfg == Config(
      Stack,
      subs=[Config(Lin, n=5), Config(Lin, n=5), Config(Lin, n=0)],
      out_tpl=Config(Lin, n=4),
  )
  assert pax_fiddle.build(cfg) == net(5)


def test_auto_config_inlines_others():
  cfg = nets.as_buildable()
  assert cfg['a'] == net.as_buildable(2) and cfg['c'] == [1, 2]
  assert isinstance(cfg['b'], pax_fiddle.Partial)


def test_auto_config_of_other_things():
  assert pax_fiddle.auto_config(net) is net
  lin = pax_fiddle.auto_config(Lin)
  assert lin() == Lin() and lin.as_buildable() == Config(Lin)
  number = pax_fiddle.auto_config(lambda: 3)
  assert number() == number.as_buildable() == 3
  with pytest.raises(ValueError, match='auto_config takes'):
    pax_fiddle.auto_config(3)


class Makers:

  @pax_fiddle.auto_config
  @staticmethod
  def static(n=2):
    return Lin(n=n)

  @pax_fiddle.auto_config
  @classmethod
  def of_class(cls, n=2):
    return Lin(n=n, m=cls)

  @pax_fiddle.auto_config
  def method(self, n=2):
    return Lin(n=n)


def test_auto_config_of_methods():
  assert Makers.static(n=5) == Makers().static(5) == Lin(5)
  cfg = Makers.static.as_buildable(n=6)
  assert cfg == Config(Lin, n=6)
  assert Makers.of_class(n=5) == Lin(5, Makers)
  assert Makers.of_class.as_buildable(5) == Config(Lin, n=5, m=Makers)
  assert Makers().method.as_buildable(5) == Config(Lin, n=5)


# --- tags ---


class T1(pax_fiddle.Tag):
  """A tag."""


class T2(T1):
  """A narrower one."""


@dataclasses.dataclass
class Tagged:
  a: object = pax_fiddle.field(default=1, tags=T1)
  b: object = pax_fiddle.field(default=2, tags=[T2])
  c: Config = template_field(Lin, tags=(T1, T2))
  d: object = instance_field(Lin, tags=T2)
  e: object = 5


def test_tags_of_fields():
  cfg = Config(Tagged)
  assert pax_fiddle.get_tags(cfg, 'a') == {T1}
  assert pax_fiddle.get_tags(cfg, 'c') == {T1, T2}
  assert pax_fiddle.get_tags(cfg.clone(), 'b') == {T2}
  pax_fiddle.set_tagged([cfg], tag=T2, value=77)
  assert (cfg.a, cfg.b, cfg.c, cfg.d, cfg.e) == (1, 77, 77, 77, 5)
  pax_fiddle.set_tagged(cfg, tag=T1, value=78)
  assert (cfg.a, cfg.b, cfg.c, cfg.d, cfg.e) == (78, 78, 78, 78, 5)


def test_inspection_of_fields():
  fields = {f.name: f for f in dataclasses.fields(Tagged)}
  assert pax_fiddle.field_has_tag(fields['a'], T1)
  assert not pax_fiddle.field_has_tag(fields['a'], T2)
  assert not pax_fiddle.field_has_tag(fields['e'], T1)
  metadata = pax_fiddle.field_metadata(fields['c'])
  assert metadata.tags == (T1, T2)
  assert metadata.buildable_initializer() == Config(Lin)
  assert pax_fiddle.field_metadata(fields['e']) is None


def test_pax_tags():
  assert issubclass(fiddle_tags.ParamsDType, fiddle_tags.BaseDType)
  assert issubclass(fiddle_tags.ActivationDType, fiddle_tags.BaseDType)
  cfg = Config(base_layer.BaseLayer)
  assert not any(pax_fiddle.get_tags(cfg, name) for name in ('dtype', 'fprop_dtype'))
  pax_fiddle.add_tag(cfg, 'dtype', fiddle_tags.ParamsDType)
  pax_fiddle.set_tagged(cfg, tag=fiddle_tags.BaseDType, value=3)
  assert cfg.dtype == 3


# --- the rest ---


def test_clone_and_set_mixin():

  @dataclasses.dataclass
  class Thing(pax_fiddle.CloneAndSetMixin):
    x: Any = 1

  thing = Thing([1])
  assert thing.clone() == thing and thing.clone().x is not thing.x
  assert thing.set(x=3) is thing and thing.Set(x=4).x == 4


@pytest.mark.parametrize('name', pax_fiddle.__all__)
def test_every_name_exists(name):
  assert hasattr(pax_fiddle, name)


def test_clones_made_while_no_history_is_kept_are_independent():
  cfg = pax_fiddle.Config(dict, a=1, b=pax_fiddle.Config(dict, c=2))
  with fiddle.history.suspend_tracking():
    one, two = cfg.clone(), cfg.clone()
    one.b.c = 3
  one.a = two.a = 4
  assert (cfg.a, cfg.b.c, one.b.c, two.b.c) == (1, 2, 3, 2)
  assert not one.__argument_history__ and not two.b.__argument_history__
  assert pax_fiddle.build(one) == {'a': 4, 'b': {'c': 3}}
