"""Checkpoint policies: which values they keep, and that numbers stay."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.ad_checkpoint import checkpoint_name

from pax_haiku.layers import checkpoint_policy

Type = checkpoint_policy.AutodiffCheckpointType
NAMES = (
  'combined_qkv_proj query_proj value_proj key_proj context out_proj ffn1 ffn2 '
  'qlhs qrhs lhs_scale rhs_scale iteration_input transformer_layer_out '
  'conv_0 conv_1 conv_out'
).split()
ATTENTION = 'combined_qkv_proj query_proj value_proj key_proj context out_proj'
KEPT = {
  'save_nothing': '',
  'save_qkv_out_proj': 'combined_qkv_proj out_proj',
  'save_qkv_out_proj_separate': 'query_proj value_proj key_proj out_proj',
  'save_context': 'context',
  'save_out_proj': 'out_proj',
  'save_encoded_and_out_proj': 'context out_proj',
  'save_dot_for_mlperf_200b': ATTENTION,
  'save_quantized': 'context out_proj combined_qkv_proj qlhs qrhs lhs_scale rhs_scale',
  'save_iteration_input': 'iteration_input',
  'save_transformer_layer_output': 'transformer_layer_out',
  'save_dot_except_logits_ffn1': f'{ATTENTION} ffn2',
  'save_dot_except_logits': f'{ATTENTION} ffn1 ffn2',
  'save_unet_conv': 'conv_out',
  'save_unet_all_conv': 'conv_0 conv_1 conv_out',
}
UNNAMED = {
  'save_everything': {'name', 'dot_general', 'batched dot_general', 'sin'},
  'save_dot_only': {'dot_general', 'batched dot_general'},
  'save_dot_with_no_batch_dims': {'dot_general'},
}


def saved(policy, function, *args):
  """Names and operations of the values that the backward pass finds saved."""
  policy = checkpoint_policy.custom_policy(policy)
  asked = set()

  def spy(primitive, *operands, **params):
    answer = policy(primitive, *operands, **params)
    assert isinstance(answer, bool)
    if answer:
      name = primitive.name
      if name == 'name':
        asked.add(params['name'])
      elif name == 'dot_general' and params['dimension_numbers'][1] != ((), ()):
        name = 'batched dot_general'
      asked.add(name)
    return answer

  jax.grad(jax.checkpoint(function, policy=spy))(*args)
  return asked


def chain(x):
  for name in NAMES:
    x = checkpoint_name(jnp.sin(x), name)
  return x


@pytest.mark.parametrize('policy', KEPT)
def test_named_values_that_are_kept(policy):
  assert saved(policy, chain, 1.0) - {'name'} == set(KEPT[policy].split())


@pytest.mark.parametrize('policy', UNNAMED)
def test_operations_that_are_kept(policy):
  def function(x):
    x = jnp.sin(x @ x)
    x = checkpoint_name(jnp.einsum('bij,bjk->bik', x[None], x[None]), 'context')
    return jnp.sum(jnp.sin(x))

  kept = saved(policy, function, jnp.ones((2, 2)))
  all_operations = {'name', 'dot_general', 'batched dot_general', 'sin'}
  assert kept & all_operations == UNNAMED[policy]


def test_every_member_has_a_test():
  assert {*KEPT, *UNNAMED} == {member.value for member in Type}


def test_members_equal_their_values():
  assert Type.SAVE_CONTEXT_AND_OUT_PROJ == 'save_encoded_and_out_proj'
  assert Type('save_dot_with_no_batch_dims') is Type.SAVE_DOT_WITH_NO_BATCH_DIM
  assert str(Type.SAVE_NOTHING) == 'AutodiffCheckpointType.SAVE_NOTHING'


@pytest.mark.parametrize(
  'policy', [Type.SAVE_NOTHING, Type.SAVE_DOT_ONLY, 'save_context']
)
def test_gradients_do_not_change(policy):
  def function(x):
    return jnp.sum(checkpoint_name(jnp.sin(x @ x), 'context'))

  x = jnp.arange(4.0).reshape(2, 2)
  kept = jax.checkpoint(function, policy=checkpoint_policy.custom_policy(policy))
  # Recomputing in another order of operations may round differently.
  np.testing.assert_allclose(jax.grad(kept)(x), jax.grad(function)(x), rtol=1e-6)


@pytest.mark.parametrize('policy', ['nope', None, 3])
def test_unknown_policy(policy):
  with pytest.raises(AssertionError, match="Unknown checkpoint policy.*'save_nothing'"):
    checkpoint_policy.custom_policy(policy)
