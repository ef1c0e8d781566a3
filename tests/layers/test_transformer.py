"""One transformer block: what it shares with its parts, decoding, errors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pax_haiku import pax_fiddle
from pax_haiku.layers import attentions, normalizations, transformers
from tests.layers import harness

X = harness.noise(2, 6, 4)
PAD = np.zeros((2, 6), np.float32)
CAUSAL = attentions.causal_mask(jnp.zeros([1, 6]))


def build(**fields):
  fields = {'input_dims': 4, 'hidden_dims': 5, 'num_heads': 2, **fields}
  return harness.build(transformers.Transformer, **fields)


def test_variables():
  layer = build(
    use_cross_attention=True,
    norm_policy='primer_hybrid',
    ln_tpl=pax_fiddle.Config(normalizations.RmsNorm),
  )
  cross = {'cross_inputs': X, 'cross_attention_mask': CAUSAL}
  params = harness.init(layer, X, PAD, CAUSAL, **cross)['params']
  assert sorted(params) == [
    'cross_attention',
    'ff_layer',
    'post_cross_layer_norm',
    'post_layer_norm',
    'pre_cross_layer_norm',
    'pre_layer_norm',
    'self_attention',
  ]
  assert sorted(params['pre_layer_norm']) == ['scale']
  # The feed-forward layer has a template of its own.
  assert sorted(params['ff_layer']['pre_layer_norm']) == ['bias', 'scale']


def test_parts_are_the_layers_themselves():
  layer = build()
  variables = harness.randomize(harness.init(layer, X, PAD, CAUSAL))
  (out, probs), _ = harness.apply(layer, variables, X, PAD, CAUSAL)
  params = variables['params']

  def part(cls, name, *args, **fields):
    own = {'params': params[name]}
    return harness.apply(harness.build(cls, **fields), own, *args)[0]

  normed = part(normalizations.LayerNorm, 'layer_norm', X, dim=4)
  attended, expected = part(
    attentions.DotProductAttention,
    'self_attention',
    *(normed, normed, normed, CAUSAL),
    input_dim=4,
    hidden_dim=4,
    num_heads=2,
  )
  final = part(
    transformers.TransformerFeedForward,
    'ff_layer',
    *(X + attended, PAD),
    input_dims=4,
    hidden_dims=5,
  )
  np.testing.assert_array_equal(out, final)
  np.testing.assert_array_equal(probs.self_atten, expected)


@pytest.mark.parametrize('policy', ['pre', 'primer_hybrid', 'post', 'post_skip'])
def test_steps_equal_the_whole(policy):
  layer = build(norm_policy=policy, residual_droppath_prob=0.5)
  variables = harness.randomize(harness.init(layer, X, PAD, CAUSAL, do_eval=True))
  with harness.context(do_eval=True):
    (whole, _), cache = layer.apply(
      variables, X, PAD, CAUSAL, mutable=['decoder_cache']
    )

    @jax.jit
    def step(cache, x, t):
      return layer.apply(
        {**variables, **cache},
        x,
        time_step=t,
        attention_mask=jax.lax.dynamic_slice_in_dim(CAUSAL[0], t, 1, axis=1),
        method=transformers.Transformer.extend_step,
        mutable=['decoder_cache'],
      )

    cache = jax.tree.map(jnp.zeros_like, cache)
    for t in range(6):
      out, cache = step(cache, X[:, t], t)
      # The same sums, of other lengths.
      np.testing.assert_allclose(out, whole[:, t], atol=2e-6)


def test_errors():
  with pytest.raises(ValueError, match="layer.*'none', expected one of"):
    harness.init(build(norm_policy='none'), X, PAD, CAUSAL)
  with pytest.raises(AssertionError, match='set allow_skip_cross_attention'):
    harness.init(build(use_cross_attention=True), X, PAD, CAUSAL)
  with pytest.raises(NotImplementedError, match='transform_decode_state'):
    harness.init(build(), 2, 6, method=transformers.Transformer.init_states)
