"""BaseLayer: its fields, how it is built, set up once and frozen; errors on the way.

Expected values are Pax's rules, or were seen in the real Praxis.
"""

from typing import Any

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pax_haiku import base_layer, pax_fiddle

BaseLayer = base_layer.BaseLayer
Config = pax_fiddle.Config
WeightHParams = base_layer.WeightHParams
WeightInit = base_layer.WeightInit
LayerTpl = pax_fiddle.Config[BaseLayer]
KEY = jax.random.PRNGKey(0)
X = jnp.ones(2)


class Leaf(BaseLayer):
  """Adds a vector."""

  size: int = 2

  def setup(self):
    self.create_variable('w', WeightHParams([self.size], WeightInit.Constant(1.0)))

  def __call__(self, x):
    return x + self.theta.w


class Tree(BaseLayer):
  """One child made from a template."""

  tpl: LayerTpl = pax_fiddle.template_field(Leaf)
  extra: Any = None

  def setup(self):
    self.create_child('child', self.tpl)

  def __call__(self, x):
    return self.child(x)


def inside(layer, look, *args):
  """What `look(bound layer, *args)` returns while `layer` initializes."""
  found = []
  layer.init(KEY, *args, method=lambda bound, *a: found.append(look(bound, *a)))
  return found[0]


# -- Fields --------------------------------------------------------------------


def test_base_fields_and_their_order():
  names = [n for n in base_layer.get_template_fields(Config(Leaf))]
  assert names == [
    'dtype', 'fprop_dtype', 'params_init', 'skip_lp_regularization',
    'ici_mesh_shape', 'dcn_mesh_shape', 'contiguous_submeshes', 'mesh_axis_names',
    'shared_weight_layer_id', 'weight_split_dims_mapping',
    'activation_split_dims_mapping', 'size', 'parent', 'name']
  with pytest.raises(TypeError):
    base_layer.get_template_fields(Leaf())


def test_defaults():
  layer = Leaf()
  assert layer.dtype == layer.fprop_dtype == jnp.float32
  assert layer.params_init == WeightInit.Xavier(1.000001)
  assert layer.weight_split_dims_mapping.wt is None
  assert layer.activation_split_dims_mapping.out is None
  for name in ('skip_lp_regularization', 'ici_mesh_shape', 'dcn_mesh_shape', 'name',
               'contiguous_submeshes', 'mesh_axis_names', 'shared_weight_layer_id'):
    assert getattr(layer, name) is None, name


def test_fprop_dtype_falls_back_to_dtype():
  assert Leaf(dtype=jnp.bfloat16).fprop_dtype == jnp.bfloat16
  both = Leaf(dtype=jnp.bfloat16, fprop_dtype=jnp.float32)
  assert (both.dtype, both.fprop_dtype) == (jnp.bfloat16, jnp.float32)


def test_positional_arguments_start_with_dtype():
  assert Leaf(jnp.bfloat16, jnp.float16).fprop_dtype == jnp.float16
  for wrong in ('foo', Config(Leaf)):
    with pytest.raises(TypeError, match=r'layer_p\.Instantiate\(\)'):
      Leaf(wrong)
  with pytest.raises(TypeError):
    Leaf(no_such_field=1)


def test_every_field_needs_a_default():
  with pytest.raises(TypeError, match='size'):

    class Bad(BaseLayer):
      size: int


def test_redefinition_needs_the_annotation():
  class Silent(Leaf):
    size = 5

  class Loud(Leaf):
    size: int = 5

  assert Silent().size == 2, 'as in Pax, where this is ignored'
  assert Loud().size == 5 and Config(Loud).Instantiate().size == 5
  assert Config(Silent).Instantiate().size == 2


def test_default_must_not_be_a_config():
  with pytest.raises(ValueError, match=r'Bad\.tpl.*template_field'):

    class Bad(BaseLayer):
      tpl: LayerTpl = Config(Leaf)


def test_config_of_a_class():
  assert Leaf.config(size=3) == Config(Leaf, size=3)
  assert Leaf.config(size=3).Instantiate().size == 3


def test_equality_is_by_fields():
  assert Leaf(size=3) == Leaf(size=3) != Leaf(size=4)
  assert Leaf() != Tree()
  assert Leaf(name='a') != Leaf(name='b')


def test_repr_shows_what_was_chosen():
  assert repr(Leaf(size=7)) == 'Leaf(size=7)'
  assert repr(Tree(tpl=Config(Leaf), name='t')) == "Tree(name='t')"
  assert 'size=3' in repr(Tree(tpl=Config(Leaf, size=3)))
  assert 'fprop_dtype' in repr(Leaf(fprop_dtype=jnp.bfloat16))
  assert repr(Tree(extra=jnp.ones(2))).startswith('Tree(extra=Array(')


# -- Sharding classes ------------------------------------------------------------


def test_sharding_is_a_template():
  cfg = Config(Leaf)
  cfg.weight_split_dims_mapping.wt = ['data', None]
  layer = cfg.Instantiate()
  assert isinstance(layer.weight_split_dims_mapping, pax_fiddle.Config)
  assert layer.weight_split_dims_mapping.wt == ['data', None]
  other = layer.weight_split_dims_mapping.clone().set(wt=['model'])
  assert (other.wt, layer.weight_split_dims_mapping.wt) == (['model'], ['data', None])
  with pytest.raises(AttributeError, match='wtt'):
    cfg.weight_split_dims_mapping.wtt = 1
  assert Config(Leaf).weight_split_dims_mapping.wt is None, 'not shared'


def test_sharding_classes_are_frozen_dataclasses():
  sharding = BaseLayer.WeightSharding(wt=[None])
  assert sharding.clone() == sharding
  with pytest.raises((AttributeError, ValueError)):
    sharding.wt = 3
  with pytest.raises((AttributeError, ValueError)):
    sharding.set(wt=3)


def test_override_of_a_sharding_class():
  class Wide(Leaf):
    class WeightSharding(BaseLayer.WeightSharding):
      extra: Any = 'e'

    class ActivationSharding(BaseLayer.ActivationSharding):
      logits: Any = None

  class Wider(Wide):
    pass

  for cls in (Wide, Wider):
    cfg = Config(cls)
    assert cfg.weight_split_dims_mapping.extra == 'e'
    assert cfg.weight_split_dims_mapping.wt is None
    cfg.activation_split_dims_mapping.logits = ['x']
    assert cfg.Instantiate().activation_split_dims_mapping.logits == ['x']
  assert issubclass(Wider.WeightSharding, BaseLayer.WeightSharding)


def test_override_must_be_a_subclass():
  with pytest.raises(ValueError, match=r'WeightSharding.*subclass'):

    class Bad(BaseLayer):
      class WeightSharding:
        wt: Any = None


def test_mesh_shape():
  names = ['data', 'model']
  both = Leaf(ici_mesh_shape=[2, 3], dcn_mesh_shape=[4, 1], mesh_axis_names=names)
  assert list(both.mesh_shape) == [8, 3]
  assert list(Leaf(ici_mesh_shape=[2, 3], mesh_axis_names=names).mesh_shape) == [2, 3]
  assert Leaf(mesh_axis_names=names).mesh_shape is None
  assert Leaf(dcn_mesh_shape=[2, 3], mesh_axis_names=names).mesh_shape is None
  with pytest.raises(AssertionError):
    Leaf(ici_mesh_shape=[2, 3], mesh_axis_names=['data']).mesh_shape  # noqa: B018
  cfg = Config(Leaf, ici_mesh_shape=[2, 3], dcn_mesh_shape=[4, 1],
               mesh_axis_names=names)
  assert list(cfg.mesh_shape) == [8, 3]


def test_shard_count():
  layer = Leaf(ici_mesh_shape=[2, 3], dcn_mesh_shape=[4, 1],
               mesh_axis_names=['data', 'model'])
  assert layer.get_shard_count_on_dim(None) == 1
  assert layer.get_shard_count_on_dim('data') == 8
  assert layer.get_shard_count_on_dim(('data', 'model')) == 24
  assert Leaf().get_shard_count_on_dim('data') == 1


# -- hparams ---------------------------------------------------------------------


def test_hparams_hold_the_present_values():
  tpl = Config(Leaf, size=4)
  layer = Tree(tpl=tpl, fprop_dtype=jnp.bfloat16, name='tree', extra=Leaf(size=9))
  cfg = layer.hparams
  assert pax_fiddle.get_callable(cfg) is Tree
  assert cfg.tpl is tpl and cfg.fprop_dtype == jnp.bfloat16 and cfg.name == 'tree'
  assert cfg.params_init == WeightInit.Xavier(1.000001)
  assert isinstance(cfg.extra, Config) and cfg.extra.size == 9
  assert cfg.Instantiate() == layer


def test_hparams_of_a_bound_layer():
  def look(tree):
    assert tree.hparams is tree.hparams, 'cached'
    return tree.child.hparams

  cfg = inside(Tree(tpl=Config(Leaf, size=3), dtype=jnp.bfloat16, name='t'), look)
  assert (cfg.name, cfg.size, cfg.dtype) == ('child', 3, jnp.bfloat16)
  assert cfg.fprop_dtype == jnp.bfloat16


# -- Inheritance of base fields ----------------------------------------------------


def dtypes(layer):
  return np.dtype(layer.dtype).name, np.dtype(layer.fprop_dtype).name


BF16, F32, F16 = jnp.bfloat16, jnp.float32, jnp.float16


class Family(BaseLayer):
  """A child of each kind: template, instance field, built in setup."""

  tpl: LayerTpl = pax_fiddle.template_field(Leaf)
  inst: BaseLayer = pax_fiddle.instance_field(Leaf)

  def setup(self):
    self.create_child('child', self.tpl)
    self.built = Leaf()
    self.built_bf16 = Leaf(dtype=jnp.bfloat16)

  def __call__(self):
    return {n: dtypes(getattr(self, n))
            for n in ('child', 'inst', 'built', 'built_bf16')}


@pytest.mark.parametrize('fields, child, made, held', [
  ({}, {}, ('float32', 'float32'), ('float32', 'float32')),
  ({'dtype': BF16}, {}, ('bfloat16', 'bfloat16'), ('bfloat16', 'bfloat16')),
  ({}, {'dtype': BF16}, ('bfloat16', 'float32'), ('bfloat16', 'bfloat16')),
  ({'dtype': BF16}, {'dtype': F32}, ('bfloat16', 'bfloat16'),
   ('bfloat16', 'bfloat16')),
  ({'dtype': BF16}, {'dtype': F32, 'fprop_dtype': F32}, ('bfloat16', 'float32'),
   ('bfloat16', 'float32')),
  ({'fprop_dtype': BF16}, {}, ('float32', 'bfloat16'), ('float32', 'bfloat16')),
  ({'dtype': BF16}, {'dtype': F16}, ('float16', 'bfloat16'), ('float16', 'float16')),
])
def test_inherited_dtypes(fields, child, made, held):
  """Of a child that is made by create_child, and of one in an instance field.

  The latter is built with its parent, whose fprop_dtype may be unset at that time.
  """
  layer = Config(Family, tpl=Config(Leaf, **child), inst=Config(Leaf, **child),
                 name='f', **fields).Instantiate()
  found = inside(layer, Family.__call__)
  assert found['child'] == made and found['inst'] == held


@pytest.mark.parametrize('fields, built, built_bf16', [
  ({}, ('float32', 'float32'), ('bfloat16', 'float32')),
  ({'dtype': BF16}, ('bfloat16', 'bfloat16'), ('bfloat16', 'bfloat16')),
  ({'fprop_dtype': BF16}, ('float32', 'bfloat16'), ('bfloat16', 'bfloat16')),
  ({'fprop_dtype': F16}, ('float32', 'float16'), ('bfloat16', 'float16')),
])
def test_inherited_dtypes_of_layers_built_in_setup(fields, built, built_bf16):
  """Numbers seen in Praxis: fprop_dtype flows down as it does by create_child."""
  found = inside(Family(name='f', **fields), Family.__call__)
  assert found['built'] == built and found['built_bf16'] == built_bf16


def test_layer_built_outside_keeps_its_fprop_dtype():
  layer = Family(fprop_dtype=BF16, inst=Leaf(), name='f')
  assert inside(layer, Family.__call__)['inst'] == ('float32', 'float32')


def test_other_inherited_fields():
  mesh = dict(ici_mesh_shape=[1, 1], dcn_mesh_shape=[1, 1],
              mesh_axis_names=['a', 'b'])
  layer = Config(Tree, name='t', params_init=WeightInit.Gaussian(3.0),
                 skip_lp_regularization=True, contiguous_submeshes=True,
                 shared_weight_layer_id=None, **mesh).Instantiate()

  def look(tree):
    child = tree.child
    return (child.params_init, child.skip_lp_regularization,
            child.contiguous_submeshes, *(list(getattr(child, n)) for n in mesh))

  assert inside(layer, look) == (
    WeightInit.Gaussian(3.0), True, True, [1, 1], [1, 1], ['a', 'b'])


def test_explicit_values_of_a_child_stay():
  child = Config(Leaf, params_init=WeightInit.Xavier(1.0),
                 skip_lp_regularization=False, mesh_axis_names=['z'])
  layer = Config(Tree, tpl=child, params_init=WeightInit.Gaussian(3.0), name='t',
                 skip_lp_regularization=True, mesh_axis_names=['a']).Instantiate()
  found = inside(layer, lambda t: (t.child.params_init, list(t.child.mesh_axis_names),
                                   t.child.skip_lp_regularization))
  assert found == (WeightInit.Xavier(1.0), ['z'], False)


def test_the_default_init_counts_as_not_chosen():
  child = Config(Leaf, params_init=WeightInit.Xavier(1.000001))
  layer = Tree(tpl=child, params_init=WeightInit.Gaussian(3.0), name='t')
  assert inside(layer, lambda t: t.child.params_init) == WeightInit.Gaussian(3.0)


def test_what_is_not_inherited():
  layer = Config(Tree, name='t').Instantiate()
  layer.weight_split_dims_mapping.wt = ['a']
  layer.activation_split_dims_mapping.out = ['a']

  def look(tree):
    child = tree.child
    return (child.weight_split_dims_mapping.wt,
            child.activation_split_dims_mapping.out, child.shared_weight_layer_id)

  assert inside(layer, look) == (None, None, None)


def test_copy_base_hparams():
  source, target = Config(Leaf, dtype=BF16, size=5), Config(Tree)
  BaseLayer.copy_base_hparams(source, target)
  assert target.dtype == BF16 and target.fprop_dtype is None
  live = Leaf(dtype=BF16, fprop_dtype=F16)
  BaseLayer.copy_base_hparams(live, target)
  assert target.fprop_dtype == F16
  onto = Leaf()
  BaseLayer.copy_base_hparams(source, onto)
  assert onto.dtype == BF16 and onto.size == 2
  for bad in ((source, 3), (None, target), (Config(dict), target)):
    with pytest.raises(AssertionError):
      BaseLayer.copy_base_hparams(*bad)


def test_building_a_config_hands_down_without_touching_it():
  cfg = Config(Family, dtype=BF16, name='f')
  layer = cfg.Instantiate()
  assert dtypes(layer.inst) == ('bfloat16', 'bfloat16')
  assert cfg.inst.dtype == F32 and cfg.tpl.dtype == F32
  assert layer.tpl is cfg.tpl


# -- Context ---------------------------------------------------------------------


def test_context_is_optional():
  assert Leaf().do_eval is False
  with pytest.raises(AssertionError):
    Leaf().jax_context  # noqa: B018
  with base_layer.JaxContext.new_context() as context:
    assert Leaf().do_eval is None
    assert Leaf().jax_context is context
  hparams = base_layer.JaxContext.HParams(do_eval=True)
  with base_layer.JaxContext.new_context(hparams=hparams):
    assert Leaf().do_eval is True


def test_cast_to_fprop_dtype():
  cast = Leaf(fprop_dtype=BF16)._cast_to_fprop_dtype
  tree = cast({'f': jnp.ones(2), 'i': jnp.ones(2, int), 'b': jnp.ones(2, bool),
               'none': None, 'np': np.ones(2, np.float32), 'same': jnp.ones(2, BF16)})
  assert {k: None if v is None else v.dtype.name for k, v in tree.items()} == {
    'f': 'bfloat16', 'i': 'int32', 'b': 'bool', 'none': None, 'np': 'bfloat16',
    'same': 'bfloat16'}


# -- Unbound layers ----------------------------------------------------------------


def test_unbound_layer_is_an_open_dataclass():
  layer = Leaf()
  layer.size = 3
  layer.note = 'mine'
  assert layer.size == 3 and layer.note == 'mine'


def test_unbound_layer_has_no_variables():
  layer = Tree(name='t')
  for use in (lambda: layer.theta.w, lambda: layer.get_var('n'),
              lambda: layer.update_var('n', X), lambda: layer.next_prng_key(),
              lambda: layer.add_summary('s', X), lambda: layer.variables,
              lambda: layer.create_variable('v', WeightHParams([])),
              lambda: layer.create_child('c', Config(Leaf)), lambda: layer.path):
    with pytest.raises(ValueError, match="Tree 't'.*unbound"):
      use()


def test_what_setup_makes_is_not_there_on_an_unbound_layer():
  with pytest.raises(AttributeError, match="'child'.*unbound"):
    Tree().child  # noqa: B018
  assert not hasattr(Tree(), 'child')
  with pytest.raises(AttributeError, match='child'):
    Tree()(X)


def test_methods_without_variables_work_unbound():
  class Plain(BaseLayer):
    def twice(self, x):
      return 2 * x

  assert Plain().twice(4) == 8


# -- Life cycle ----------------------------------------------------------------------


def test_init_works_on_a_copy():
  layer = Leaf(name='leaf')
  before = dict(layer.__dict__)
  seen = inside(layer, lambda bound: bound)
  assert seen is not layer and layer.__dict__ == before
  layer.size = 4
  assert layer.init(KEY, jnp.ones(4))['params']['w'].shape == (4,)


class Counted(BaseLayer):
  """Counts in `log` how often and in which order setup runs."""

  log: Any = None
  kids: int = 0

  def setup(self):
    self.log.append(self.name)
    self.create_children('kid', [Config(Counted, log=self.log)] * self.kids)
    self.create_variable('v', WeightHParams([], WeightInit.Constant(0.0)))

  def __call__(self):
    for kid in self.kid:
      kid()
    return self.theta.v

  def first_only(self):
    return self.kid[0]()

  def look(self):
    return self.kids


class Log(list):
  """A list that stays the same object when containers are frozen."""


def counted(**fields):
  log = Log()

  class Opaque:
    append = staticmethod(log.append)

  return Counted(log=Opaque(), name='root', **fields), log


def test_setup_runs_once_and_parents_first():
  layer, log = counted(kids=2)
  variables = layer.init(KEY)
  assert log == ['root', 'kid_0', 'kid_1']
  log.clear()
  layer.apply(variables, method=lambda bound: (bound(), bound(), bound.theta.v))
  assert log == ['root', 'kid_0', 'kid_1']


def test_child_that_is_not_used_is_not_set_up():
  layer, log = counted(kids=2)
  variables = layer.init(KEY, method='first_only')
  assert log == ['root', 'kid_0']
  assert set(variables['params']) == {'v', 'kid_0'}


def test_fields_and_helpers_do_not_trigger_setup():
  layer, log = counted(kids=1)

  def look(bound):
    kid = bound.kid[0]
    log.clear()
    kid.next_prng_key()
    kid.add_summary('s', 1.0)
    kid.is_initializing()
    return kid.kids, kid.fprop_dtype, kid.name, kid.path, kid.hparams

  variables = layer.init(KEY, method=look)
  assert log == [] and 'kid_0' not in variables['params']


@pytest.mark.parametrize('touch', [
  lambda kid: kid.look(), lambda kid: kid.theta.v, lambda kid: kid.kid])
def test_what_triggers_setup(touch):
  layer, log = counted(kids=1)
  variables = layer.init(KEY, method=lambda bound: touch(bound.kid[0]))
  assert log == ['root', 'kid_0']
  assert set(variables['params']['kid_0']) == {'v'}


def test_get_var_of_a_child_before_its_use():
  class Stats(BaseLayer):
    def setup(self):
      self.create_variable('n', WeightHParams([], WeightInit.Constant(2.0)), False)

    def __call__(self):
      return self.get_var('n')

  layer = Tree(tpl=Config(Stats), name='t')
  with pytest.raises(AssertionError, match='n'):
    layer.init(KEY, method=lambda bound: bound.child.get_var('n'))
  used = layer.init(KEY, method=lambda b: (b.child(), b.child.get_var('n')))
  assert layer.apply(used, method=lambda b: b.child.get_var('n')) == 2.0


def test_a_failing_setup_can_be_run_again_in_a_new_trace():
  class Moody(Leaf):
    def setup(self):
      super().setup()
      if self.size == 3:
        raise RuntimeError('moody')

  layer = Moody(size=3, name='m')
  with pytest.raises(RuntimeError, match='moody'):
    layer.init(KEY, jnp.ones(3))
  layer.size = 2
  assert layer.init(KEY, X)['params']['w'].shape == (2,)


def test_super_setup_and_methods_of_base_classes():
  class Scaled(Leaf):
    def setup(self):
      super().setup()
      self.create_variable('s', WeightHParams([], WeightInit.Constant(3.0)))

    def __call__(self, x):
      return super().__call__(x) * self.theta.s

  layer = Scaled(name='s')
  np.testing.assert_array_equal(layer.apply(layer.init(KEY, X), X), [6.0, 6.0])


class Derived(Leaf):
  """Computes an attribute from a field when it is built."""

  half: int | None = None

  def __post_init__(self):
    self.double = 2 * self.size
    if self.half is None:
      self.half = self.size // 2
    super().__post_init__()

  def __call__(self, x):
    return super().__call__(x) * self.double + self.half


def test_post_init_holds_for_every_copy():
  """Numbers seen in Praxis: a clone derives anew, from what the fields hold."""
  layer = Derived(size=4, name='derived')
  for made in (layer, Config(Derived, size=4, name='derived').Instantiate()):
    variables = made.init(KEY, jnp.ones(4))
    np.testing.assert_array_equal(made.apply(variables, jnp.ones(4)), [18.0] * 4)
    assert made.bind(variables).double == 8
  child = Tree(tpl=Config(Derived), name='t')
  np.testing.assert_array_equal(child.apply(child.init(KEY, X), X), [9.0, 9.0])
  clone = layer.clone(size=6)
  assert (clone.double, clone.half) == (12, 2)
  np.testing.assert_array_equal(
    hk.without_apply_rng(hk.transform(lambda x: Derived()(x))).apply(
      {'derived': {'w': X}}, X), [9.0, 9.0])


# -- Freezing --------------------------------------------------------------------------


def test_containers_in_fields_are_frozen():
  given = base_layer.NestedMap(a=1, b=[1, {'z': 1}], c={'e': 2})
  bound = inside(Tree(extra=given, name='t'), lambda tree: tree.extra)
  assert type(bound) is base_layer.FrozenDict
  assert type(bound['b']) is tuple and type(bound['b'][1]) is base_layer.FrozenDict
  assert type(bound['c']) is base_layer.FrozenDict
  assert given.b == [1, {'z': 1}], 'the given one is as it was'


def test_containers_assigned_in_setup_are_frozen():
  class Holder(BaseLayer):
    def setup(self):
      self.items = [1, [2]]
      self.table = {'a': [3]}

    def __call__(self):
      return self.items, self.table

  items, table = inside(Holder(name='h'), Holder.__call__)
  assert items == (1, (2,)) and table == {'a': (3,)}
  assert type(table) is base_layer.FrozenDict


def test_templates_stay_as_they_are():
  tpl = Config(Leaf, size=4)
  assert inside(Tree(tpl=tpl, name='t'), lambda tree: tree.tpl) is tpl


def test_assignment_outside_setup_is_refused():
  frozen = base_layer.SetAttributeFrozenModuleError
  for name in ('size', 'fresh'):
    with pytest.raises(frozen, match=f"Leaf 't/child'.*'{name}'"):
      Tree(name='t').init(KEY, method=lambda t, n=name: setattr(t.child, n, 1))


def test_setup_cannot_assign_fields():
  class Bad(Leaf):
    def setup(self):
      self.size = 4

  with pytest.raises(base_layer.SetAttributeFrozenModuleError, match="field 'size'"):
    Bad(name='bad').init(KEY, X)


def test_setup_of_the_parent_cannot_assign_to_a_child():
  class Bad(Tree):
    def setup(self):
      super().setup()
      self.child.size = 4

  with pytest.raises(base_layer.SetAttributeFrozenModuleError, match="'size'"):
    Bad(name='bad').init(KEY, X)


def test_attributes_of_setup_may_be_assigned_twice():
  class Twice(BaseLayer):
    def setup(self):
      self.a = 1
      self.a = self.a + 1

    def __call__(self):
      return self.a

  assert inside(Twice(name='t'), Twice.__call__) == 2


def test_unknown_attribute_of_a_bound_layer():
  with pytest.raises(AttributeError, match="Leaf 't/child' has no attribute 'nope'"):
    Tree(name='t').init(KEY, method=lambda t: t.child.nope)


def test_an_attribute_error_inside_setup_is_shown_as_it_is():
  class Broken(BaseLayer):
    def setup(self):
      self.create_variable('w', WeightHParams([self.sizes]))

    def __call__(self):
      return self.theta.w

  with pytest.raises(AttributeError, match='sizes'):
    Broken(name='b').init(KEY)


# -- Compact methods -------------------------------------------------------------------


class Inline(BaseLayer):
  """Creates everything in its call."""

  tpl: LayerTpl = pax_fiddle.template_field(Leaf)

  @base_layer.compact
  def __call__(self, x):
    w = self.create_variable('w', WeightHParams([2], WeightInit.Constant(2.0)))
    child = self.create_child('child', self.tpl)
    pair = self.create_children('pair', [self.tpl, self.tpl])
    assert not hasattr(self, 'child'), 'returned only'
    return jnp.multiply(pair[1](child(x)), w)


def test_compact_method():
  layer = Inline(name='inline')
  variables = layer.init(KEY, X)
  assert set(variables['params']) == {'w', 'child', 'pair_1'}
  np.testing.assert_array_equal(layer.apply(variables, X), [6.0, 6.0])
  net = hk.transform(lambda x: Inline(name='inline')(x))
  params = net.init(KEY, X)
  assert set(params) == {'inline', 'inline/child', 'inline/pair_1'}
  np.testing.assert_array_equal(net.apply(params, None, X), [6.0, 6.0])


# -- Inside a transform ----------------------------------------------------------------


def test_a_layer_is_an_hk_module():
  seen = []

  def net(x):
    layer = Tree(name='tree')
    seen.append((isinstance(layer, hk.Module), layer.module_name, layer.name))
    y = layer(x)
    seen.append((layer.child.module_name, layer.child.name, layer.child.path))
    return y

  params = hk.transform(net).init(KEY, X)
  assert seen == [(True, 'tree', 'tree'), ('tree/child', 'child', ('child',))]
  assert jax.tree.map(jnp.shape, params) == {'tree/child': {'w': (2,)}}


def test_names_inside_a_transform():
  def net(x):
    layers = [Leaf(), Leaf(), Leaf(name='mine'), Leaf(name='mine')]
    for layer in layers:
      x = layer(x)
    return x

  params = hk.transform(net).init(KEY, X)
  assert set(params) == {'leaf', 'leaf_1', 'mine', 'mine_1'}, 'as hk.Module names do'


def test_names_must_be_identifiers():
  with pytest.raises(ValueError, match=r"Leaf cannot be named 'a/b'"):
    hk.transform(lambda x: Leaf(name='a/b')(x)).init(KEY, X)


def test_a_bound_layer_has_no_init_or_apply():
  for use in (lambda layer: layer.init(KEY, X), lambda layer: layer.apply({}, X)):
    with pytest.raises(ValueError, match="Leaf 'leaf'.*bound"):
      hk.transform(lambda x, use=use: use(Leaf(name='leaf'))).init(KEY, X)
