"""How a language model's training step grows with depth, repeated and unrolled.

    python tools/bench_depth.py [--depths=4,16,64] [--batch_size=2 --length=32]

Prints a line for each depth: seconds to trace and to compile the step, equations of its
program and the size of that as text, and XLA's temporaries. With Repeat the program is
that of one block, so that all but the temporaries (activations that the backward pass
needs) stay flat. Sizes are tiny: the time is the program's, not that of arithmetic.
"""

import json
import time

import haiku as hk
import jax
from absl import flags

from pax_haiku import py_utils
from pax_haiku.training import (
  cli,
  learner,
  lm,
  lm_shapes,
  optimizers,
  packing,
  train_state,
)

flags.DEFINE_list('depths', ['4', '16', '64'], 'Numbers of transformer blocks.')
flags.DEFINE_integer('batch_size', 2, 'Rows of a batch.', lower_bound=1)
flags.DEFINE_integer('length', 32, 'Tokens of a row.', lower_bound=2)
flags.DEFINE_bool('compile', True, 'Compile; else only trace.')
flags.DEFINE_bool('json', False, 'Print lines of JSON instead of a table.')
FLAGS = flags.FLAGS

COLUMNS = (
  'layers', 'kind', 'trace_s', 'equations', 'program_kb', 'compile_s', 'temp_kb'
)


def equations(jaxpr) -> int:
  """Returns the number of equations of a program, those inside loops included."""
  count = 0
  for equation in jaxpr.eqns:
    count += 1
    for inner in jax.tree.leaves(
      list(equation.params.values()), is_leaf=lambda x: hasattr(x, 'eqns')
    ):
      inner = getattr(inner, 'jaxpr', inner)
      count += equations(inner) if hasattr(inner, 'eqns') else 0
  return count


def measure(num_layers: int, repeat: bool) -> dict:
  """Returns the numbers of one training step of so many blocks."""
  shape = lm_shapes.shape(
    'tiny',
    num_layers=num_layers,
    model_dims=32,
    num_heads=2,
    hidden_dims=64,
    vocab_size=64,
    length=FLAGS.length,
    batch_size=FLAGS.batch_size,
    repeat=repeat,
  )
  forward = hk.transform_with_state(lm.weighted_scalars(lm.language_model(shape)))
  optimizer = optimizers.adamw(1e-3)
  row = packing.blank(shape.length)
  batch = py_utils.NestedMap(
    {k: v.repeat(shape.batch_size, axis=0) for k, v in row.items()}
  )

  def init():
    with learner.pax_context(do_eval=False):
      return train_state.init(forward, optimizer, 0, batch)

  state = jax.eval_shape(init)
  result = {'layers': num_layers, 'kind': 'repeated' if repeat else 'unrolled'}
  start = time.perf_counter()
  traced = learner.make_train_step(forward, optimizer).trace(state, batch)
  result['trace_s'] = time.perf_counter() - start
  result['equations'] = equations(traced.jaxpr.jaxpr)
  if FLAGS.compile:
    lowered = traced.lower()
    result['program_kb'] = len(lowered.as_text()) / 1e3
    start = time.perf_counter()
    compiled = lowered.compile()
    result['compile_s'] = time.perf_counter() - start
    result['temp_kb'] = compiled.memory_analysis().temp_size_in_bytes / 1e3
  return result


def _cell(value) -> str:
  return f'{value:.2f}' if isinstance(value, float) else str(value)


def main() -> None:
  try:
    depths = [int(depth) for depth in FLAGS.depths]
  except ValueError as error:
    found = ','.join(FLAGS.depths)
    raise cli.UserError(f'--depths={found}: expected numbers') from error
  if not depths or min(depths) < 1:
    raise cli.UserError('--depths: expected numbers from 1 on, such as 4,16,64')
  measure(1, True)  # JAX's own caches fill up
  if not FLAGS.json:
    print(' '.join(f'{name:>10}' for name in COLUMNS))
  for repeat in (True, False):
    for depth in depths:
      result = measure(depth, repeat)
      if FLAGS.json:
        print(json.dumps(result), flush=True)
      else:
        cells = (_cell(result.get(name, '-')) for name in COLUMNS)
        print(' '.join(f'{cell:>10}' for cell in cells), flush=True)


if __name__ == '__main__':
  cli.run(main)
