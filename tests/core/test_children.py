"""Children: made from templates, held in fields, built in setup, and shared by id.

Expected values are Pax's rules, or were seen in the real Praxis.
"""

from typing import Any, NamedTuple

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pax_haiku import base_layer, pax_fiddle

BaseLayer = base_layer.BaseLayer
Config = pax_fiddle.Config
JaxContext = base_layer.JaxContext
LayerTpl = pax_fiddle.Config[BaseLayer]
KEY = jax.random.PRNGKey(0)
X = jnp.ones(2)


class Leaf(BaseLayer):
  """Adds a random vector."""

  tag: Any = 0

  def setup(self):
    self.create_variable(
      'w', base_layer.WeightHParams([2], base_layer.WeightInit.Gaussian(1.0)))

  def __call__(self, x):
    return x + self.theta.w


class Owner(BaseLayer):
  """Runs `make(self)` in setup and `use(self, x)` when called."""

  tpl: LayerTpl = pax_fiddle.template_field(Leaf)
  inst: Any = None
  other: Any = None
  make: Any = None
  use: Any = None

  def method(self):
    pass

  def setup(self):
    if self.make:
      self.make(self)

  def __call__(self, x):
    return self.use(self, x) if self.use else x


def paths(variables, collection='params'):
  """Module paths of a collection, e.g. `{'a', 'b/c'}`."""
  flat = jax.tree_util.tree_flatten_with_path(variables.get(collection, {}))[0]
  return {'/'.join(k.key for k in path[:-1]) for path, _ in flat}


def init(**fields):
  return Owner(name='owner', **fields).init(KEY, X)


def seen(look, **fields):
  """`look(owner)` while an Owner with these fields initializes."""
  found = []
  init(use=lambda owner, x: found.append(look(owner)), **fields)
  return found[0]


# -- create_child ------------------------------------------------------------------


def test_child_is_an_attribute_and_is_returned():
  kept = []

  def make(owner):
    kept.append(owner.create_child('c', owner.tpl))
    assert owner.c is kept[0]

  def look(owner):
    return (owner.c is kept[0], owner.c.name, owner.c.path, owner.c.module_name,
            isinstance(owner.c, Leaf))

  assert seen(look, make=make) == (True, 'c', ('c',), 'owner/c', True)


def test_name_in_the_template_is_overwritten():
  tpl = Config(Leaf, name='mine')
  assert seen(lambda o: o.c.name, make=lambda o: o.create_child('c', tpl)) == 'c'
  assert tpl.name == 'mine'


def test_the_template_is_cloned():
  tpl = Config(Leaf, tag=Config(Leaf))
  untouched = tpl.clone()

  def make(owner):
    owner.create_child('c', tpl)
    owner.create_child('d', tpl)

  layer = Config(Owner, make=make, dtype=jnp.bfloat16, name='o')
  found = []
  layer.Instantiate().init(KEY, X, method=lambda o, x: (
    o(x), found.append((o.c.dtype, o.d.dtype))))
  assert found == [(jnp.bfloat16,) * 2]
  assert tpl == untouched


def test_templates_inside_stay_templates():
  inner = Config(Owner, tpl=Config(Leaf, tag=5))

  def look(owner):
    assert isinstance(owner.c.tpl, Config) and owner.c.tpl.tag == 5
    return owner.c.tpl is inner.tpl

  assert not seen(look, make=lambda o: o.create_child('c', inner)), 'a clone'
  assert seen(look, make=lambda o: o.create_child('c', inner, skip_clone=True))


def test_wrong_children():
  """Each error names the layer's path and the child."""
  def twice(owner):
    owner.create_child('c', owner.tpl)
    owner.create_child('c', owner.tpl)

  def variable_first(owner):
    owner.create_variable('c', base_layer.WeightHParams([2]))
    owner.create_child('c', owner.tpl)

  for error, text, make in [
      (AttributeError, "can not create a new child named 'tpl'",
       lambda o: o.create_child('tpl', o.tpl)),
      (AttributeError, "can not create a new child named 'dtype'",
       lambda o: o.create_children('dtype', [o.tpl])),
      (ValueError, "'c': Expected templates .* Fiddle Configs.*type annotation",
       lambda o: o.create_child('c', Leaf())),
      (ValueError, 'Expected templates', lambda o: o.create_child('c', None)),
      (ValueError, 'Expected templates', lambda o: o.create_child('c', [o.tpl])),
      (ValueError, 'Child `c` already exists', twice),
      (base_layer.NameInUseError, "'c'", variable_first),
      (ValueError, 'expected a config of a layer',
       lambda o: o.create_child('c', Config(dict))),
  ]:
    with pytest.raises(error, match=f"(?s)Owner 'owner'.*{text}"):
      init(make=make)


def test_name_of_a_method_is_allowed():
  """As in Praxis: the attribute hides the method."""
  assert paths(init(make=lambda o: o.create_child('method', o.tpl),
                    use=lambda o, x: o.method(x))) == {'method'}


def test_children_only_in_setup():
  for use in (lambda o, x: o.create_child('c', o.tpl),
              lambda o, x: o.create_children('c', [o.tpl])):
    with pytest.raises(base_layer.AssignSubModuleError, match="'owner'.*'c'.*setup"):
      init(use=use)


# -- create_children ---------------------------------------------------------------


def test_create_children():
  kept = []

  def make(owner):
    kept.append(owner.create_children('c', (owner.tpl, Config(Leaf, tag=7))))

  def use(owner, x):
    assert type(kept[0]) is list and type(owner.c) is tuple
    assert owner.c == tuple(kept[0]) and owner.c[1].tag == 7
    assert [c.name for c in owner.c] == ['c_0', 'c_1']
    assert not hasattr(owner, 'c_0')
    return owner.c[1](owner.c[0](x))

  assert paths(init(make=make, use=use)) == {'c_0', 'c_1'}


def test_create_no_children():
  assert seen(lambda o: o.c, make=lambda o: o.create_children('c', [])) == ()


def test_wrong_sequences_of_children():
  for wrong in ({'a': Config(Leaf)}, Config(Leaf), 'abc', None):
    with pytest.raises(AssertionError, match="'owner'.*'c'.*sequence of Configs"):
      init(make=lambda o, wrong=wrong: o.create_children('c', wrong))
  with pytest.raises(ValueError, match='`c_0` already exists'):
    init(make=lambda o: (o.create_children('c', [o.tpl]),
                         o.create_child('c_0', o.tpl)))


def test_children_of_one_template_differ():
  variables = init(make=lambda o: o.create_children('c', [o.tpl] * 2),
                   use=lambda o, x: o.c[0](o.c[1](x)))
  a, b = (variables['params'][n]['w'] for n in ('c_0', 'c_1'))
  assert (a != b).all()


# -- Layers in fields --------------------------------------------------------------


def test_instance_field_is_named_by_the_field():
  class Holder(BaseLayer):
    inner: BaseLayer = pax_fiddle.instance_field(Leaf)

    def __call__(self, x):
      return self.inner(x)

  for layer in (Config(Holder, name='h').Instantiate(),
                Holder(inner=Leaf(name='own'), name='h')):
    assert paths(layer.init(KEY, X)) == {'inner'}


def test_layers_in_containers():
  """Names seen in Praxis: indices and keys are joined by `_`."""
  def use(o, x):
    layers = [o.inst[0], o.inst[1][0], o.other['q'], o.other['z'][0]]
    assert [layer.name for layer in layers] == [
      'inst_0', 'inst_1_0', 'other_q', 'other_z_0']
    assert o.inst[2] == 3
    return [layer(x) for layer in layers]

  cfg = Config(Owner, inst=[Config(Leaf), (Config(Leaf),), 3], use=use, name='owner',
               other={'q': Config(Leaf), 'z': [Config(Leaf)]})
  assert paths(cfg.Instantiate().init(KEY, X)) == {
    'inst_0', 'inst_1_0', 'other_q', 'other_z_0'}


def test_layers_in_a_namedtuple():
  class Pair(NamedTuple):
    left: Any
    right: Any

  def use(o, x):
    assert type(o.inst) is Pair
    return o.inst.left(o.inst.right(x))

  found = paths(init(inst=Pair(Leaf(), Leaf()), use=use))
  assert found == {'inst_left', 'inst_right'}


def test_one_layer_in_two_fields_is_one_layer():
  def use(o, x):
    assert o.inst is o.other
    return o.other(o.inst(x))

  leaf = Leaf()
  assert paths(init(inst=leaf, other=leaf, use=use)) == {'inst'}
  cfg = Config(Leaf)
  layer = Config(Owner, inst=cfg, other=cfg, use=use, name='owner').Instantiate()
  assert layer.inst is layer.other
  assert paths(layer.init(KEY, X)) == {'inst'}, 'named by the first field'


def test_field_layers_exist_again_in_each_run():
  leaf = Leaf()
  layer = Owner(inst=leaf, use=lambda o, x: o.inst(x), name='o')
  variables = layer.init(KEY, X)
  first = layer.apply(variables, X)
  np.testing.assert_array_equal(layer.apply(variables, X), first)
  assert layer.inst is leaf and leaf.name is None, 'untouched'


# -- Layers built in setup ---------------------------------------------------------


def test_layers_assigned_in_setup():
  def make(o):
    o.foo = Leaf()
    o.baz = [Leaf(tag=1), Leaf(tag=2)]
    o.table = {'k': Leaf()}
    o.named = Leaf(name='own')

  def use(o, x):
    assert type(o.baz) is tuple and [b.tag for b in o.baz] == [1, 2]
    for layer in (o.foo, *o.baz, o.table['k'], o.named):
      x = layer(x)
    return x

  assert paths(init(make=make, use=use)) == {
    'foo', 'baz_0', 'baz_1', 'table_k', 'own'}, 'an explicit name stays'


def test_layers_instantiated_in_setup():
  def make(o):
    o.a = o.tpl.Instantiate()
    o.b = base_layer.instantiate(o.tpl.clone().set(tag=3))

  def use(o, x):
    assert o.b.tag == 3
    return o.a(o.b(x))

  assert paths(init(make=make, use=use)) == {'a', 'b'}


def test_unused_layers_of_setup_have_no_variables():
  def make(o):
    o.a, o.b = Leaf(), Leaf()

  assert paths(init(make=make, use=lambda o, x: o.a(x))) == {'a'}


def test_all_kinds_inside_a_transform():
  def make(o):
    o.create_child('child', o.tpl)
    o.built = Leaf()

  def use(o, x):
    return o.child(o.inst(o.built(x)))

  cfg = Config(Owner, make=make, use=use, inst=Config(Leaf), name='owner')
  params = hk.transform(lambda x: cfg.Instantiate()(x)).init(KEY, X)
  assert set(params) == {'owner/child', 'owner/inst', 'owner/built'}


def test_layer_built_by_hand_inside_a_transform_keeps_its_name():
  """As any hk.Module that is given to another: it belongs where it was built."""
  net = hk.transform(
    lambda x: Owner(inst=Leaf(), use=lambda o, x: o.inst(x), name='owner')(x))
  assert set(net.init(KEY, X)) == {'leaf'}


# -- Sharing by shared_weight_layer_id ---------------------------------------------


class Pair(BaseLayer):
  """Two children, and a third if asked for."""

  a: LayerTpl = pax_fiddle.template_field(Leaf)
  b: LayerTpl = pax_fiddle.template_field(Leaf)
  c: LayerTpl | None = None

  def setup(self):
    self.create_child('a1', self.a)
    self.create_child('b1', self.b)
    if self.c is not None:
      self.create_child('c1', self.c)

  def __call__(self, x):
    x = self.b1(self.a1(x))
    return x if self.c is None else self.c1(x)

  def same(self):
    return self.a1 is self.b1, self.a1.name, self.b1.path


def shared(name='X', **fields):
  return Config(Leaf, shared_weight_layer_id=name, **fields)


def in_context(function, *args, **kwargs):
  with JaxContext.new_context():
    return function(*args, **kwargs)


def pair(**fields):
  return Config(Pair, name='pair', **fields)


def test_shared_layer_is_one_layer_at_the_root():
  layer = pair(a=shared(), b=shared()).Instantiate()
  variables = in_context(layer.init, KEY, X)
  assert paths(variables) == {'X'}
  # As the layer at path ('X',), whoever creates it: seen in Praxis.
  np.testing.assert_allclose(variables['params']['X']['w'], [0.21756, -0.70692], 1e-4)
  same, name, path = in_context(layer.apply, variables, method='same')
  assert (same, name, path) == (True, 'X', ('X',))
  w = variables['params']['X']['w']
  np.testing.assert_allclose(in_context(layer.apply, variables, X), X + w + w)
  again = in_context(layer.init, KEY, X)
  np.testing.assert_array_equal(again['params']['X']['w'], w)


def test_shared_layers_far_apart():
  layer = pair(a=shared(), c=pair(a=shared(), b=shared())).Instantiate()
  assert paths(in_context(layer.init, KEY, X)) == {'X', 'b1'}


def test_shared_layer_inside_a_shared_layer():
  twin = pair(a=shared(), shared_weight_layer_id='Y')
  layer = pair(a=twin, b=twin).Instantiate()
  assert paths(in_context(layer.init, KEY, X)) == {'X', 'Y/b1'}


def test_shared_children_of_create_children():
  tpls = [shared(), Config(Leaf), shared()]
  layer = Owner(name='o', make=lambda o: o.create_children('c', tpls),
                use=lambda o, x: [c(x) for c in o.c])
  assert paths(in_context(layer.init, KEY, X)) == {'X', 'c_1'}


def test_the_root_itself_is_not_shared():
  layer = Leaf(name='leaf', shared_weight_layer_id='X')
  assert paths(layer.init(KEY, X)) == {''}


def test_sharing_needs_a_context():
  with pytest.raises(AssertionError, match='JaxContext'):
    pair(a=shared(), b=shared()).Instantiate().init(KEY, X)
  metadata = pair(a=shared(), b=shared()).Instantiate().abstract_init_with_metadata(X)
  assert set(metadata['params']) == {'X'}, 'which makes one of its own'


def test_shared_layers_must_agree():
  with pytest.raises(AssertionError, match=r"(?s)'pair'.*'X'.*tag=1.*tag=2"):
    in_context(pair(a=shared(tag=1), b=shared(tag=2)).Instantiate().init, KEY, X)
  inner = pair(a=shared(), dtype=jnp.bfloat16)
  with pytest.raises(AssertionError, match='X'):
    in_context(pair(a=shared(), c=inner).Instantiate().init, KEY, X)


def test_shared_layers_may_be_named_and_hold_lists():
  tpls = [shared(tag=[1, [2]]).set(name=name) for name in ('p', 'q')]
  layer = pair(a=tpls[0], b=tpls[1]).Instantiate()
  assert paths(in_context(layer.init, KEY, X)) == {'X'}


def test_shared_id_must_be_free():
  for tpls in (dict(a=shared('b1')), dict(b=shared('a1'))):
    with pytest.raises(base_layer.NameInUseError, match='b1|a1'):
      in_context(pair(**tpls).Instantiate().init, KEY, X)


def test_contexts_share_nothing():
  layer = pair(a=shared(), b=shared()).Instantiate()
  with JaxContext.new_context():
    variables = layer.init(KEY, X)
    with JaxContext.new_context():
      np.testing.assert_array_equal(
        layer.init(KEY, X)['params']['X']['w'], variables['params']['X']['w'])


def test_sharing_inside_a_transform():
  def net(x):
    with JaxContext.new_context():
      return pair(a=shared(), c=pair(a=shared())).Instantiate()(x)

  net = hk.transform(net)
  params = net.init(KEY, X)
  assert set(params) == {'pair/X', 'pair/b1', 'pair/c1/b1'}
  total = X + 2 * params['pair/X']['w'] + sum(
    params[m]['w'] for m in ('pair/b1', 'pair/c1/b1'))
  np.testing.assert_allclose(net.apply(params, None, X), total, rtol=1e-6)


def test_compatible_hparams():
  a, b = Config(Leaf, name='a', tag=1), Config(Leaf, name='b', tag=1)
  assert base_layer.compatible_hparams(a, b)
  assert not base_layer.compatible_hparams(a, b.clone().set(tag=2))
  assert (a.name, b.name) == ('a', 'b')
  with pytest.raises(ValueError):
    base_layer.compatible_hparams(a, Leaf())


def test_instantiate_layer():
  assert base_layer.instantiate_layer(Config(Leaf, tag=4), None).tag == 4


def test_is_sublayer_template_or_instance():
  leaf, cfg = Leaf(), Config(Leaf)
  for yes in (leaf, cfg, [leaf, cfg], (None, leaf), {'a': cfg}, {'a': [leaf]}):
    assert base_layer.is_sublayer_template_or_instance(yes), yes
  for no in (None, [], [None], {}, {1: leaf}, [leaf, 3], Config(dict), 'x', {'a': 1}):
    assert not base_layer.is_sublayer_template_or_instance(no), no
