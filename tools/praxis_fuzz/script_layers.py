"""Composite layers whose setup and call are scripts, in plain Pax idiom.

`Script` is an interpreter of Pax calls: what a random list of operations says, it
does with `create_variable`, `create_child`, `add_summary`, `next_prng_key` and so on.
Written once, for either library; every child maps [..., dims] to [..., dims].
"""

import functools
import importlib
from typing import Any

import jax
import jax.numpy as jnp

SUMMARY_TYPES = ('SCALAR', 'HISTOGRAM', 'AGGREGATE_SCALAR', 'TEXT', 'VIDEO')


def shape_of(kind: str, dims: int) -> list[int]:
  return {'scalar': [], 'vector': [dims], 'matrix': [dims, dims],
          'cube': [2, dims, dims]}[kind]


def mix(x: Any, v: Any) -> Any:
  """`x` changed by a variable of any of the above shapes, in the dtype of `x`."""
  v = v.mean(0) if v.ndim == 3 else v
  if v.ndim == 2:
    return x + 0.5 * jnp.tanh(jnp.einsum('...d,de->...e', x, v.astype(x.dtype)))
  return x + 0.5 * v.astype(x.dtype)


def last_padded(inputs: Any) -> Any:
  """Paddings [B, T]: the last step of the first row."""
  return jnp.zeros(inputs.shape[:2], inputs.dtype).at[0, -1].set(1)


def additive_mask(inputs: Any, is_causal: bool) -> Any:
  """Mask [B or 1, 1, T, T]: of the past, or of the last step of the first row."""
  if is_causal:
    hidden = ~jnp.tri(inputs.shape[1], dtype=bool)[None, None]
  else:
    hidden = (last_padded(inputs) > 0)[:, None, None]
  lowest = -0.7 * float(jnp.finfo(jnp.float32).max)
  return jnp.where(hidden, lowest, 0.0).astype(jnp.float32)


@functools.cache
def define(pkg: str) -> dict[str, type]:
  """Layer classes by name, built on `pkg`'s base layer."""
  base_layer = importlib.import_module(f'{pkg}.base_layer')
  pax_fiddle = importlib.import_module(f'{pkg}.pax_fiddle')
  stochastics = importlib.import_module(f'{pkg}.layers.stochastics')
  py_utils = importlib.import_module(f'{pkg}.py_utils')
  frnn = importlib.import_module(f'{pkg}.layers.frnn')
  embedding_softmax = importlib.import_module(f'{pkg}.layers.embedding_softmax')
  BaseLayer = base_layer.BaseLayer
  WeightHParams = base_layer.WeightHParams
  LayerTpl = pax_fiddle.Config[BaseLayer]
  template_field = base_layer.template_field

  class Script(BaseLayer):
    """Does in `setup` and in a call what its lists of operations say.

    Attributes:
      dims: length of the last axis of inputs and outputs.
      in_setup: operations of `setup`, see `_make`.
      in_call: operations of `__call__`, see `_step`.
      a_tpl, b_tpl, c_tpl: templates that `in_setup` refers to by index.
      inst: a layer as field.
      insts: a list of layers as field.
    """

    dims: int = 0
    in_setup: Any = ()
    in_call: Any = ()
    a_tpl: LayerTpl = template_field(None)
    b_tpl: LayerTpl = template_field(None)
    c_tpl: LayerTpl = template_field(None)
    inst: Any = None
    insts: Any = None

    def _template(self, index: int) -> Any:
      return (self.a_tpl, self.b_tpl, self.c_tpl)[index]

    def setup(self) -> None:
      for operation in self.in_setup:
        self._make(*operation)

    def _make(self, what: str, name: str, *args: Any) -> None:
      if what == 'variable':
        kind, trainable, init, dtype, collections = args
        self.create_variable(name, WeightHParams(
            shape_of(kind, self.dims),
            init=init and getattr(base_layer.WeightInit, init[0])(*init[1:]),
            dtype=dtype and jnp.dtype(dtype),
            collections=collections and list(collections)), trainable=trainable)
      elif what == 'child':
        self.create_child(name, self._template(args[0]))
      elif what == 'children':
        self.create_children(name, [self._template(i) for i in args[0]])
      elif what == 'assign':
        setattr(self, name, self._template(args[0]).Instantiate())
      elif what == 'assign_list':
        setattr(self, name, [self._template(i).Instantiate() for i in args[0]])
      elif what == 'noise':
        setattr(self, name, jax.random.uniform(self.next_prng_key(), [self.dims]))
      else:
        raise NotImplementedError(what)

    def __call__(self, inputs: Any) -> Any:
      return self._follow(inputs, self.in_call)

    def _follow(self, x: Any, operations: Any) -> Any:
      for operation in operations:
        x = self._step(x, *operation)
      return x

    def first_half(self, inputs: Any) -> Any:
      """A method besides `__call__`."""
      return self._follow(inputs, self.in_call[:len(self.in_call) // 2])

    def _step(self, x: Any, what: str, *args: Any) -> Any:
      if what == 'theta':
        return mix(x, getattr(self.theta, args[0]))
      if what == 'theta_item':
        return mix(x, self.theta[args[0]])
      if what == 'get_var':
        return mix(x, self.get_var(args[0]))
      if what == 'update_var':
        old = self.get_var(args[0])
        self.update_var(args[0], 0.75 * old + jnp.mean(x).astype(old.dtype))
        return x
      if what == 'call':
        return getattr(self, args[0])(x)
      if what == 'residual':
        return x + 0.5 * getattr(self, args[0])(x).astype(x.dtype)
      if what == 'each':
        for child in getattr(self, args[0]):
          x = child(x)
        return x
      if what == 'half':
        return getattr(self, args[0]).first_half(x)
      if what == 'peek':
        return mix(x, getattr(getattr(self, args[0]).theta, args[1]))
      if what == 'peek_var':
        return mix(x, getattr(self, args[0]).get_var(args[1]))
      if what == 'draw':
        noise = jax.random.uniform(self.next_prng_key(), x.shape)
        return x + args[0] * noise.astype(x.dtype)
      if what == 'noise':
        return mix(x, getattr(self, args[0]))
      if what == 'aux':
        name, weight = args
        self.add_aux_loss(name, jnp.mean(jnp.square(x)), weight)
        return x
      if what == 'summary':
        name, kind, verbosity, lazy = args
        kind = getattr(base_layer.SummaryType, kind)
        value = (lambda: jnp.mean(x, 0)) if lazy else jnp.mean(x, 0)
        self.add_summary(name, value, kind, verbosity=verbosity)
        return x
      if what == 'count':
        leaves = jax.tree_util.tree_leaves(self.variables.get(args[0], {}))
        return x + 0.125 * len(leaves)
      if what == 'facts':
        facts = [len(self.path), self.name == args[0], bool(self.do_eval),
                 self.fprop_dtype == jnp.bfloat16, self.dtype == jnp.bfloat16]
        return x + sum(bit * 2.0 ** -i for i, bit in enumerate(facts))
      if what == 'has':
        return x + 0.25 * self.has_variable(*args)
      if what == 'if_eval':
        return self._step(x, *args) if self.do_eval else x
      if what == 'if_train':
        return x if self.do_eval else self._step(x, *args)
      if what == 'if_init':
        return self._step(x, *args) if self.is_initializing() else x
      if what == 'cast':
        return self._cast_to_fprop_dtype(x)
      raise NotImplementedError(what)

  class StochasticBranch(BaseLayer):
    """A stochastic residual branch."""

    branch_tpl: LayerTpl = template_field(None)
    residual_tpl: LayerTpl = template_field(stochastics.StochasticResidual)

    def setup(self) -> None:
      self.create_child('branch', self.branch_tpl)
      self.create_child('residual', self.residual_tpl)

    def __call__(self, inputs: Any) -> Any:
      return self.residual(inputs, self.branch(inputs).astype(inputs.dtype))

  class AddPosition(BaseLayer):
    """Adds a positional embedding to [B, T, dims]."""

    position_tpl: LayerTpl = template_field(embedding_softmax.PositionalEmbedding)

    def setup(self) -> None:
      self.create_child('position', self.position_tpl)

    def __call__(self, inputs: Any) -> Any:
      position = self.position(seq_length=inputs.shape[1])
      return inputs + position.astype(inputs.dtype)

  class Tokens(BaseLayer):
    """Ids -> embedding -> body -> logits and loss of the shared or an own softmax."""

    body_tpl: LayerTpl = template_field(None)
    embedding_tpl: LayerTpl = template_field(None)
    ngrammer_tpl: LayerTpl = template_field(None)
    softmax_tpl: LayerTpl = template_field(None)

    def setup(self) -> None:
      if self.embedding_tpl is not None:
        self.create_child('embedding', self.embedding_tpl)
      if self.ngrammer_tpl is not None:
        self.create_child('ngrammer', self.ngrammer_tpl)
      self.create_child('softmax', self.softmax_tpl)
      self.create_child('body', self.body_tpl)

    def __call__(self, inputs: Any) -> Any:
      ids = jnp.floor(jnp.abs(inputs[..., 0].astype(jnp.float32)) * 7) % 5
      ids = ids.astype(jnp.int32)
      own = self.embedding_tpl is not None
      x = self.embedding(ids) if own else self.softmax.emb_lookup(ids)
      if self.ngrammer_tpl is not None:
        x = self.ngrammer(ids, x)
      out = self.softmax(self.body(x), jnp.ones((*ids.shape, 1), x.dtype),
                         class_ids=ids[..., None])
      # argmax of logits that are equal up to rounding is nobody's promise
      return {k: v for k, v in out.items() if k != 'per_example_argmax'}

  class Attend(BaseLayer):
    """Self-attention, with positions."""

    atten_tpl: LayerTpl = template_field(None)
    is_causal: bool = True

    def setup(self) -> None:
      self.create_child('atten', self.atten_tpl)

    def __call__(self, inputs: Any) -> Any:
      batch, length, _ = inputs.shape
      positions = jnp.tile(jnp.arange(length), [batch, 1])
      mask = additive_mask(inputs, self.is_causal)
      keys = {'query_segment_pos': positions}
      if hasattr(self.atten, 'relative_bias_tpl'):
        keys['key_segment_pos'] = positions
      return self.atten(inputs, inputs, inputs, mask, **keys)[0]

  class Padded(BaseLayer):
    """A layer of inputs and paddings; the last step of the first row is padding."""

    body_tpl: LayerTpl = template_field(None)

    def setup(self) -> None:
      self.create_child('body', self.body_tpl)

    def __call__(self, inputs: Any) -> Any:
      return self.body(inputs, last_padded(inputs))

  class Block(Padded):
    """One transformer block, given a mask, too."""

    def __call__(self, inputs: Any) -> Any:
      mask = additive_mask(inputs, True)
      return self.body(inputs, last_padded(inputs), mask)[0]

  class Recurrent(BaseLayer):
    """A cell over time."""

    cell_tpl: LayerTpl = template_field(None)
    reverse: bool = False

    def setup(self) -> None:
      self.create_child('rnn', pax_fiddle.Config(
          frnn.LstmFrnn, cell_tpl=self.cell_tpl, reverse=self.reverse))

    def __call__(self, inputs: Any) -> Any:
      padding = last_padded(inputs)[..., None].astype(inputs.dtype)
      steps = py_utils.NestedMap(act=[inputs], padding=padding)
      return self.rnn(steps)[0]

  found = (Script, StochasticBranch, AddPosition, Tokens, Attend, Padded, Block,
           Recurrent)
  return {cls.__name__: cls for cls in found}
