"""Times how long one side takes to trace and lower a language model's gradient.

Runs under both environments. The model has the size of the 126m of
`pax_haiku.training.lm_shapes`: blocks unrolled, bfloat16. Nothing is compiled or
computed. The seconds are written as a list in JSON.
"""

import argparse
import json
import sys
import time
from typing import Any

import jax
import jax.numpy as jnp

from praxis_compare import side as side_lib
from praxis_compare import spec

ROWS, LENGTH, VOCAB, DIMS = 16, 2048, 50304, 768
PLAIN, SHARED = 'transformers.StackedTransformer', 'shared_trace.SharedTraceStack'


def model(num_layers: int, stack: str) -> spec.Cfg:
  """A `LanguageModel` of `num_layers` blocks in a stack of the class `stack`."""
  block = spec.cfg(
      'transformers.Transformer',
      tr_atten_tpl=spec.cfg('attentions.DotProductAttention', combine_qkv=True),
      tr_fflayer_tpl=spec.cfg('transformers.TransformerFeedForward',
                              activation_tpl=spec.cfg('activations.GELU')))
  return spec.cfg('models.LanguageModel', lm_tpl=spec.cfg(
      'transformer_models.TransformerLm', model_dims=DIMS, vocab_size=VOCAB,
      stacked_transformer_tpl=spec.cfg(
          stack, num_layers=num_layers, num_heads=12, hidden_dims=4 * DIMS,
          transformer_layer_params_tpl=block)))


def measure(side: side_lib.Side, num_layers: int, stack: str,
            repeats: int) -> list[float]:
  """CPU seconds of each of `repeats` times."""
  layer = side.layer(model(num_layers, stack), 'bfloat16')
  ids = jax.ShapeDtypeStruct((ROWS, LENGTH), jnp.int32)
  weights = jax.ShapeDtypeStruct((ROWS, LENGTH), jnp.float32)
  # float32 paddings would make float32 of all that they are multiplied with.
  paddings = jax.ShapeDtypeStruct((ROWS, LENGTH), jnp.bfloat16)
  batch = side.py_utils.NestedMap(
      ids=ids, labels=ids, weights=weights, paddings=paddings)
  key = jax.random.PRNGKey(0)
  with side.context(do_eval=False):
    variables = jax.eval_shape(layer.init, {'params': key, 'random': key}, batch)

    def loss(params: Any, batch: Any) -> Any:
      (metrics, _), written = layer.apply(
          {**variables, 'params': params}, batch, rngs={'random': key},
          mutable=['non_trainable', 'summaries', 'aux_loss'])
      return metrics.total_loss[0], written

    def gradient(params: Any, batch: Any) -> Any:
      return jax.value_and_grad(loss, has_aux=True)(params, batch)

    found = []
    for _ in range(repeats):
      step = jax.jit(lambda *args: gradient(*args))  # new, so that it is traced anew
      start = time.process_time()
      step.lower(variables['params'], batch)
      found.append(time.process_time() - start)
  return found


def main(argv: list[str]) -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--pkg', required=True, choices=('praxis', 'pax_haiku'))
  parser.add_argument('--out', required=True)
  parser.add_argument('--stack', choices=(PLAIN, SHARED), default=PLAIN)
  parser.add_argument('--num_layers', type=int, default=12)
  parser.add_argument('--repeats', type=int, default=3)
  options = parser.parse_args(argv)
  found = measure(side_lib.Side(options.pkg), options.num_layers, options.stack,
                  options.repeats)
  with open(options.out, 'w') as file:
    json.dump(found, file)


if __name__ == '__main__':
  main(sys.argv[1:])
