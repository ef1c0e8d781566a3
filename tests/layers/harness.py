"""Builds one layer and runs it in training or evaluation, with everything it writes."""

import dataclasses

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np

from pax_haiku import base_layer, pax_fiddle

MUTABLE = ['non_trainable', 'summaries', 'aux_loss']
KEYS = {'params': jax.random.PRNGKey(0), 'random': jax.random.PRNGKey(1)}


def build(cls, **fields):
  """An unbound layer called `layer`."""
  return pax_fiddle.Config(cls, name='layer', **fields).Instantiate()


def context(do_eval=False):
  """A context in training or evaluation."""
  hparams = base_layer.JaxContext.HParams(do_eval=do_eval, summary_verbosity=4)
  return base_layer.JaxContext.new_context(hparams=hparams)


def init(layer, *args, do_eval=False, **kwargs):
  """The variables that `layer.init` makes."""
  with context(do_eval):
    return layer.init(KEYS, *args, **kwargs)


def apply(layer, variables, *args, do_eval=False, **kwargs):
  """`(result, what was written)`, with all collections mutable that layers write."""
  kwargs = {'mutable': MUTABLE, 'rngs': KEYS, **kwargs}
  with context(do_eval):
    return layer.apply(variables, *args, **kwargs)


def run(cls, *args, do_eval=False, call=None, **fields):
  """The result of a fresh layer, its call given `args` and the keywords `call`."""
  layer, call = build(cls, **fields), call or {}
  variables = init(layer, *args, do_eval=do_eval, **call)
  return apply(layer, variables, *args, do_eval=do_eval, **call)[0]


def _fields(cls):
  """`{name: default}` of a layer class, less the fields of BaseLayer."""
  config, result = pax_fiddle.Config(cls), {}
  base = {field.name for field in dataclasses.fields(base_layer.BaseLayer)}
  for field in dataclasses.fields(cls):
    if field.name not in base:
      try:
        value = getattr(config, field.name)
      except ValueError:  # A factory of something that configs don't expand.
        value = field.default_factory()
      if isinstance(value, pax_fiddle.Config):
        value = value.cls.__name__
      elif isinstance(value, base_layer.WeightInit):
        value = f'{value.method} {value.scale}'
      result[field.name] = value
  return result


def added_fields(cls, base_name):
  """What `cls` adds to its base class of that name, as text like `'dim=0, a=None'`."""
  (base,) = (c for c in cls.__mro__ if c.__name__ == base_name)
  inherited = {} if base is base_layer.BaseLayer else _fields(base)
  ours = _fields(cls)
  assert inherited.items() <= ours.items()
  added = [f'{k}={v!r}' for k, v in ours.items() if k not in inherited]
  for kind in ('WeightSharding', 'ActivationSharding'):
    old = [f.name for f in dataclasses.fields(getattr(base, kind))]
    new = [f.name for f in dataclasses.fields(getattr(cls, kind))]
    if new != old:
      assert new[: len(old)] == old
      added.append(f'{kind}={"/".join(new[len(old) :])}')
  return ', '.join(added)


def noise(*shape, seed=0):
  """Float32 normal numbers."""
  return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def randomize(variables, seed=0):
  """Variables whose floating leaves are replaced by normal numbers, scaled by 1/2."""
  rng = np.random.default_rng(seed)
  return jax.tree.map(
    lambda v: jnp.asarray(rng.normal(size=v.shape) * 0.5, v.dtype), variables
  )


def shapes(tree):
  """`tree` with shapes for arrays."""
  return jax.tree.map(lambda x: tuple(x.shape), tree)


def gradients(layer, variables, *args, do_eval=False, loss=None, **kwargs):
  """Gradients of a scalar of the result, for the parameters and the first argument.

  Args:
    layer: the layer.
    variables: its variables.
    *args: its arguments.
    do_eval: run in evaluation mode.
    loss: result -> scalar; None: the sum of the result times fixed normal numbers.
    **kwargs: keyword arguments of the call.
  """
  if loss is None:
    def loss(out):
      return jnp.sum(out * noise(*out.shape, seed=99))

  def scalar(params, x):
    given = {**variables, 'params': params}
    return loss(apply(layer, given, x, *args[1:], do_eval=do_eval, **kwargs)[0])

  return jax.grad(scalar, argnums=(0, 1))(variables.get('params', {}), args[0])


def haiku_result(make, params, x):
  """Result of a Haiku module, and its gradients as `gradients` takes them.

  Args:
    make: makes the module.
    params: its own parameters.
    x: its input.
  """
  net = hk.without_apply_rng(hk.transform(lambda x: make()(x)))
  (module,) = net.init(KEYS['params'], x)

  def scalar(params, x):
    out = net.apply({module: params}, x)
    return jnp.sum(out * noise(*out.shape, seed=99))

  out = net.apply({module: params}, x)
  return out, jax.grad(scalar, argnums=(0, 1))(params, x)
