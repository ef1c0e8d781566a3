"""Small layers in plain Pax idiom that the cases need and no library has.

Written once; `define(pkg)` makes them for either library, so each is also a piece of
unmodified Pax code that both must run alike.
"""

import importlib
from typing import Any

import jax
import jax.numpy as jnp


def define(pkg: str) -> dict[str, type]:
  """Layer classes by name, built on `pkg`'s base layer."""
  base_layer = importlib.import_module(f'{pkg}.base_layer')
  pax_fiddle = importlib.import_module(f'{pkg}.pax_fiddle')
  py_utils = importlib.import_module(f'{pkg}.py_utils')
  linears = importlib.import_module(f'{pkg}.layers.linears')
  normalizations = importlib.import_module(f'{pkg}.layers.normalizations')
  stochastics = importlib.import_module(f'{pkg}.layers.stochastics')
  repeats = importlib.import_module(f'{pkg}.layers.repeats')
  rnn_cell = importlib.import_module(f'{pkg}.layers.rnn_cell')
  embedding_softmax = importlib.import_module(f'{pkg}.layers.embedding_softmax')
  BaseLayer = base_layer.BaseLayer
  WeightHParams, WeightInit = base_layer.WeightHParams, base_layer.WeightInit
  LayerTpl = pax_fiddle.Config[BaseLayer]
  template_field = base_layer.template_field

  class ToMap(BaseLayer):
    """Wraps its input in a NestedMap."""

    def __call__(self, inputs: Any) -> Any:
      return py_utils.NestedMap(doubled=2 * inputs, kept=inputs)

  class FromMap(BaseLayer):
    """Takes the entries of ToMap by keyword."""

    def __call__(self, doubled: Any, kept: Any) -> Any:
      return doubled - 0.5 * kept

  class SwapPair(BaseLayer):
    """(a, b) -> (b, a + b)."""

    def __call__(self, a: Any, b: Any) -> Any:
      return b, a + b

  class AddArgument(BaseLayer):
    """A projection plus a second argument."""

    dims: int = 0

    def setup(self) -> None:
      self.create_variable('w', WeightHParams([self.dims, self.dims]))

    def __call__(self, inputs: Any, extra: Any = None) -> Any:
      return jnp.tanh(inputs @ self.theta.w) + (0 if extra is None else extra)

  class Counting(BaseLayer):
    """Weights, a child, a counter, two kinds of summaries and an aux loss."""

    dims: int = 0

    def setup(self) -> None:
      self.create_variable('w', WeightHParams([self.dims, self.dims]))
      self.create_variable(
          'count', WeightHParams([], init=WeightInit.Constant(0.0)), trainable=False)
      self.create_child('ln', pax_fiddle.Config(
          normalizations.LayerNorm, dim=self.dims))

    def scale_only(self, inputs: Any) -> Any:
      return inputs * self.theta.w[0]

    def __call__(self, inputs: Any) -> Any:
      count = self.get_var('count')
      self.update_var('count', count + 1)
      out = jnp.tanh(self.ln(inputs) @ self.theta.w)
      self.add_summary('mean', jnp.mean(out))
      self.add_summary('rows', out[0], base_layer.SummaryType.HISTOGRAM)
      self.add_summary('seen', self.get_var('count'), verbosity=3)
      self.add_summary('quiet', count, verbosity=4)
      self.add_aux_loss('square', jnp.mean(jnp.square(out)), 0.5)
      self.add_aux_loss('square', jnp.mean(jnp.abs(out)))
      return out

  class Block(BaseLayer):
    """The worked example of random keys: three variables, two draws."""

    dims: int = 2

    def setup(self) -> None:
      normal = WeightInit.Gaussian(1.0)
      self.create_variable('w', WeightHParams([self.dims], init=normal))
      self.create_variable('b', WeightHParams([self.dims], init=normal))
      self.create_variable(
          'm', WeightHParams([self.dims], init=normal), trainable=False)

    def __call__(self, inputs: Any) -> Any:
      first = jax.random.uniform(self.next_prng_key(), inputs.shape)
      second = jax.random.normal(self.next_prng_key(), inputs.shape)
      out = inputs * self.theta.w + self.theta.b + self.get_var('m') + first * second
      return out.astype(inputs.dtype)

  class Net(BaseLayer):
    """Own variable and draw, one child called twice, a list of children."""

    dims: int = 2

    def setup(self) -> None:
      self.create_variable(
          'g', WeightHParams([self.dims], init=WeightInit.Gaussian(1.0)))
      block = pax_fiddle.Config(Block, dims=self.dims)
      self.create_child('ffn', block)
      self.create_children('blk', [block, block.clone()])

    def __call__(self, inputs: Any) -> Any:
      noise = jax.random.uniform(self.next_prng_key(), inputs.shape)
      out = (inputs + noise.astype(inputs.dtype)) * self.theta.g
      out = self.ffn(self.ffn(out))
      for block in self.blk:
        out = block(out)
      return out

  class Shared(BaseLayer):
    """Two children with one id, a third without; one more level of the same id."""

    dims: int = 2
    inner: bool = False

    def setup(self) -> None:
      tpl = pax_fiddle.Config(Block, dims=self.dims, shared_weight_layer_id='one')
      self.create_child('a', tpl)
      self.create_child('b', tpl)
      self.create_child('c', pax_fiddle.Config(Block, dims=self.dims))
      if self.inner:
        self.create_child('d', pax_fiddle.Config(Shared, dims=self.dims))

    def __call__(self, inputs: Any) -> Any:
      out = self.c(self.b(self.a(inputs)))
      return self.d(out) if self.inner else out

  class Variable(BaseLayer):
    """One variable of a given shape; the output is the variable."""

    shape: tuple[int, ...] = (3, 4)
    trainable: bool = True
    fan_in_axes: Any = None
    fan_out_axes: Any = None
    labels: Any = None
    split: Any = None

    def setup(self) -> None:
      self.create_variable('v', WeightHParams(
          list(self.shape), fan_in_axes=self.fan_in_axes,
          fan_out_axes=self.fan_out_axes,
          collections=None if self.labels is None else list(self.labels),
          mesh_shape=self.mesh_shape, tensor_split_dims_mapping=self.split),
          trainable=self.trainable)

    def __call__(self) -> Any:
      return self.theta.v if self.trainable else self.get_var('v')

  class Lazy(BaseLayer):
    """A child that only runs where `deep`: unused, it leaves no variable."""

    deep: bool = False
    child_tpl: LayerTpl = template_field(linears.FeedForward)

    def setup(self) -> None:
      self.create_child('near', self.child_tpl)
      self.create_child('far', self.child_tpl)

    def __call__(self, inputs: Any) -> Any:
      out = self.near(inputs)
      return self.far(out) if self.deep else out

  class Accumulate(BaseLayer):
    """Decoding by a running sum: `extend_step` after `init_states` or a call."""

    dims: int = 0

    def setup(self) -> None:
      self.create_variable('w', WeightHParams([self.dims]))

    def __call__(self, inputs: Any) -> Any:
      total = inputs * self.theta.w
      self.update_decode_state('total', total)
      self.update_decode_state('steps', jnp.ones((), jnp.int32))
      return total

    def init_states(self, shape: Any) -> None:
      self.update_decode_state('total', jnp.zeros(shape, self.fprop_dtype))
      self.update_decode_state('steps', jnp.zeros((), jnp.int32))

    def extend_step(self, inputs: Any) -> Any:
      total = self.get_decode_state('total') + inputs * self.theta.w
      self.update_decode_state('total', total)
      self.update_decode_state('steps', self.get_decode_state('steps') + 1)
      return total

  class CountingCell(rnn_cell.BaseRnnCell):
    """A recurrent cell around Counting and Block: state, keys, losses, summaries."""

    dims: int = 0

    def setup(self) -> None:
      self.create_child('sub', pax_fiddle.Config(Counting, dims=self.dims))
      self.create_child('noise', pax_fiddle.Config(Block, dims=self.dims))

    def init_states(self, batch_size: int) -> Any:
      return py_utils.NestedMap(
          m=jnp.zeros([batch_size, self.dims], self.fprop_dtype))

    def get_output(self, state: Any) -> Any:
      return state.m

    def __call__(self, state0: Any, inputs: Any) -> Any:
      x = inputs.act[0] if isinstance(inputs.act, list | tuple) else inputs.act
      m = self.noise(self.sub(x + state0.m)) + self.sub.get_var('count')
      return py_utils.NestedMap(m=m.astype(self.fprop_dtype))

  class Tower(BaseLayer):
    """Dropout, BatchNorm and projections in nested children."""

    dims: int = 4
    depth: int = 2
    keep_prob: float = 0.8

    def setup(self) -> None:
      self.create_children('proj', [
          pax_fiddle.Config(linears.FeedForward, input_dims=self.dims,
                            output_dims=self.dims) for _ in range(self.depth)])
      self.create_child('norm', pax_fiddle.Config(
          normalizations.BatchNorm, dim=self.dims, decay=0.9))
      self.create_children('drop', [
          pax_fiddle.Config(stochastics.Dropout, keep_prob=self.keep_prob)
          for _ in range(self.depth)])

    def __call__(self, inputs: Any) -> Any:
      out = self.norm(inputs)
      for proj, drop in zip(self.proj, self.drop, strict=True):
        out = out + drop(proj(out))
      return out

  class Classifier(BaseLayer):
    """BatchNorm and dropout in a tower, in a Repeat, and a softmax on top."""

    input_dims: int = 8
    model_dims: int = 16
    num_classes: int = 5

    def setup(self) -> None:
      dims = self.model_dims
      self.create_child('stem', pax_fiddle.Config(
          linears.FeedForward, input_dims=self.input_dims, output_dims=dims))
      tower = pax_fiddle.Config(Tower, dims=dims)
      self.create_child('tower', tower)
      self.create_child('blocks', pax_fiddle.Config(
          repeats.Repeat, sub_tpl=tower.clone(), x_times=2))
      self.create_child('head', pax_fiddle.Config(
          embedding_softmax.FullSoftmax, input_dims=dims,
          num_classes=self.num_classes))

    def __call__(self, inputs: Any, labels: Any) -> Any:
      out = self.blocks(self.tower(self.stem(inputs)))
      weights = jnp.ones((*labels.shape, 1), out.dtype)
      return self.head(out, weights, class_ids=labels[:, None])

  found = (ToMap, FromMap, SwapPair, AddArgument, Counting, Block, Net, Shared,
           Variable, Lazy, Accumulate, CountingCell, Tower, Classifier)
  return {cls.__name__: cls for cls in found}
