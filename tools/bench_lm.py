"""Speed of language models: training and decoding, as one line of JSON.

    python tools/bench_lm.py --config=126m --mode=train
    python tools/bench_lm.py --config=126m --mode=decode --batch_size=32
    python tools/bench_lm.py --config=tiny --plain     # and the same in plain JAX

Numbers of the line, for the Pax model and with --plain, under `plain`, for one written
by hand in plain JAX (plain_lm.py), measured in the same run:

| key | what |
| --- | --- |
| tokens_per_s, step_ms | of the fastest of --rounds rounds of --steps steps each |
| trace_s, lower_s, compile_s | of the step, once |
| temp_bytes | temporaries of the compiled step, by XLA's own account |
| peak_bytes | most device memory in use so far, where the device says so, else null |
| mfu | model FLOPs (PaLM's count) over the device's peak, where that is known |

A step of decoding is one token of each row. Tracing is done twice, of which the faster
counts: the first time JAX fills its own caches. On a machine that does other things as
well, only ratios within one run mean something.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import plain_lm  # noqa: E402

from pax_haiku import decoder_hparams, py_utils  # noqa: E402
from pax_haiku.training import (  # noqa: E402
  cli,
  devices,
  learner,
  lm,
  lm_sample,
  lm_shapes,
  optimizers,
  train_state,
)

flags.DEFINE_enum('config', 'tiny', list(lm_shapes.SHAPES), 'Which model.')
flags.DEFINE_enum('mode', 'train', ['train', 'decode'], 'What is timed.')
flags.DEFINE_integer('batch_size', None, 'Rows of a batch.', lower_bound=1)
for _name in ('num_layers', 'length', 'loss_chunk'):
  flags.DEFINE_integer(_name, None, f'In place of {_name} of the config.', 1)
flags.DEFINE_integer(
  'tokens', 1024, 'Tokens to decode for each row; not those of the prompt.', 1
)
flags.DEFINE_integer('prompt', 8, 'Tokens of the prompts.', lower_bound=1)
flags.DEFINE_integer(
  'cache_block',
  lm_sample.CACHE_BLOCK,
  'Tokens by which decode caches grow; 0: they have their full length at once.',
  lower_bound=0,
)
flags.DEFINE_bool('bfloat16', None, 'Compute in bfloat16; weights stay float32.')
flags.DEFINE_bool('repeat', None, 'Scan over the blocks instead of unrolling them.')
flags.DEFINE_bool('shared_trace', None, 'Trace equal blocks once, not each.')
flags.DEFINE_string('remat', None, 'What of a block to keep for gradients: a policy.')
flags.DEFINE_bool('plain', False, 'Time a hand-written model of plain JAX as well.')
flags.DEFINE_integer('steps', 10, 'Training steps of a round.', lower_bound=1)
flags.DEFINE_integer(
  'rounds', 3, 'Rounds, of which the fastest counts. 0: compile only.', lower_bound=0
)
FLAGS = flags.FLAGS


def seconds(function: Callable, *args) -> tuple[float, Any]:
  """Returns how long a call took until its result was there, and the result."""
  start = time.perf_counter()
  result = jax.block_until_ready(function(*args))
  return time.perf_counter() - start, result


def measure(make_step, make_state, advance, num_steps: int, units: int) -> dict:
  """Builds, compiles and times a step.

  Args:
    make_step: `() -> jitted step`; new, so that nothing is in its cache.
    make_state: `() -> (state, *other arguments)`, arrays.
    advance: `(state, output) -> next state`.
    num_steps: Calls of a round.
    units: Tokens of a call.
  """
  args = jax.eval_shape(make_state)
  trace_s, traced = min(
    (seconds_of(lambda: make_step().trace(*args)) for _ in range(2)),
    key=lambda found: found[0],
  )
  lower_s, lowered = seconds_of(traced.lower)
  compile_s, compiled = seconds_of(lowered.compile)
  memory = compiled.memory_analysis()
  step_s = fastest(compiled, make_state, advance, num_steps) if FLAGS.rounds else None
  return {
    'tokens_per_s': units / step_s if step_s else None,
    'step_ms': 1e3 * step_s if step_s else None,
    'trace_s': trace_s,
    'lower_s': lower_s,
    'compile_s': compile_s,
    'temp_bytes': getattr(memory, 'temp_size_in_bytes', None),
    'peak_bytes': devices.peak_bytes(),
  }


def fastest(compiled, make_state, advance, num_steps: int) -> float:
  """Returns the seconds of a call in the fastest round."""
  state, *others = jax.jit(make_state)()
  state = advance(state, compiled(state, *others))  # warm-up

  def one_round(state):
    for _ in range(num_steps):
      state = advance(state, compiled(state, *others))
    return state

  times = []
  for _ in range(FLAGS.rounds):
    jax.block_until_ready(state)
    elapsed, state = seconds(one_round, state)
    times.append(elapsed / num_steps)
  return min(times)


def seconds_of(function: Callable[[], Any]) -> tuple[float, Any]:
  """Returns how long a call took on the host, and its result."""
  start = time.perf_counter()
  result = function()
  return time.perf_counter() - start, result


def random_batch(shape: lm_shapes.LmShape) -> py_utils.NestedMap:
  """Returns rows without padding: `ids`, `labels` [B, T] and `weights`."""
  rng = np.random.default_rng(0)
  tokens = rng.integers(1, shape.vocab_size, (shape.batch_size, shape.length + 1))
  return py_utils.NestedMap(
    ids=jnp.int32(tokens[:, :-1]),
    labels=jnp.int32(tokens[:, 1:]),
    weights=jnp.ones([shape.batch_size, shape.length], jnp.float32),
  )


def train(shape: lm_shapes.LmShape) -> dict:
  """Times an update with AdamW of the Pax model."""
  model = lm.language_model(shape, packed=False, remat=FLAGS.remat)
  forward = hk.transform_with_state(lm.weighted_scalars(model))
  batch = random_batch(shape)
  mask = optimizers.decay_mask(model, batch)
  optimizer = optimizers.adamw(1e-4, decay_mask=mask)

  def make_state():
    with learner.pax_context(do_eval=False):
      return train_state.init(forward, optimizer, 0, batch), batch

  return measure(
    lambda: learner.make_train_step(forward, optimizer),
    make_state,
    lambda state, output: output[0],
    FLAGS.steps,
    shape.batch_size * shape.length,
  )


def train_plain(shape: lm_shapes.LmShape) -> dict:
  """Times an update with AdamW of the plain model."""
  batch, optimizer = dict(random_batch(shape)), optimizers.adamw(1e-4)

  def make_state():
    weights = plain_lm.init(shape, jax.random.PRNGKey(0))
    return (weights, optimizer.init(weights)), batch

  return measure(
    lambda: plain_lm.train_step(shape, optimizer, bool(FLAGS.remat)),
    make_state,
    lambda state, output: output[0],
    FLAGS.steps,
    shape.batch_size * shape.length,
  )


def decode(shape: lm_shapes.LmShape) -> dict:
  """Times greedy decoding of the Pax model, one jitted loop."""
  model = lm.language_model(shape, packed=False)
  model.decoder_tpl = decoder_hparams.GreedyDecoderHParams(
    fprop_for_prefix=True,
    max_decode_steps=lm_sample.growing_cache(FLAGS.tokens, FLAGS.cache_block),
    seqlen=FLAGS.prompt + FLAGS.tokens,
    eos_id=None,  # all rows take all steps
  )
  ids = random_batch(shape).ids[:, : FLAGS.prompt]
  prompts = py_utils.NestedMap(ids=ids, paddings=jnp.zeros(ids.shape, jnp.float32))
  init = hk.transform_with_state(lm.weighted_scalars(model)).init

  def make_state():
    with learner.pax_context(do_eval=True):
      params, _ = init(jax.random.PRNGKey(0), random_batch(shape))
    if shape.bfloat16:
      params = jax.tree.map(lambda x: x.astype(jnp.bfloat16), params)
    return params, prompts, jax.random.PRNGKey(0)

  run = lm_sample.make_decode(model)
  result = measure(
    lambda: jax.jit(lambda params, prompts, key: run(params, {}, prompts, key)),
    make_state,
    lambda params, output: _after(params, output),
    1,
    shape.batch_size * FLAGS.tokens,
  )
  if result['step_ms']:
    result['step_ms'] /= FLAGS.tokens  # of one token of each row
  return result


def _after(params, output):
  """Returns the parameters once the output is there."""
  jax.block_until_ready(output)
  return params


def main() -> None:
  names = (
    'batch_size', 'num_layers', 'length', 'loss_chunk', 'bfloat16', 'repeat',
    'shared_trace',
  )
  changes = {name: FLAGS[name].value for name in names}
  if FLAGS.mode == 'decode' and changes['batch_size'] is None:
    changes['batch_size'] = 32
  shape = lm_shapes.shape(FLAGS.config, **changes)
  if FLAGS.plain and FLAGS.mode == 'decode':
    raise cli.UserError('--plain is for --mode=train; there is no plain decoder')
  result = (train if FLAGS.mode == 'train' else decode)(shape)
  plain = train_plain(shape) if FLAGS.plain else None
  training = FLAGS.mode == 'train'
  flops = shape.flops_per_token() if training else 2 * shape.num_weights()
  for each in filter(None, (result, plain)):
    peak = devices.peak_flops()
    speed = each['tokens_per_s']
    each['mfu'] = speed * flops / peak if peak and speed else None
  line = {
    'config': FLAGS.config,
    'mode': FLAGS.mode,
    'device': jax.local_devices()[0].device_kind,
    'jax': jax.__version__,
    'batch_size': shape.batch_size,
    'length': shape.length if training else FLAGS.prompt + FLAGS.tokens,
    'num_layers': shape.num_layers,
    'bfloat16': shape.bfloat16,
    'repeat': shape.repeat,
    'shared_trace': shape.shared_trace,
    'remat': FLAGS.remat,
    **result,
  }
  if plain:
    line['plain'] = plain
    if FLAGS.rounds:
      line['speed_over_plain'] = result['tokens_per_s'] / plain['tokens_per_s']
  print(json.dumps(line))


if __name__ == '__main__':
  cli.run(main)
