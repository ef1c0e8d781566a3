"""Boxes: pytrees with metadata, and the metadata of stacked variables."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pax_haiku.core import boxes
from pax_haiku.core.weights import WeightHParams

STACK = {
  'is_initializing': True,
  'x_times': 3,
  'sub_weight_split_dims_mapping': ['a'],
  'optimizer_dims_mapping': ['b'],
}


def make_box(value=None):
  meta = WeightHParams([2, 3, 4], fan_in_axes=[0], fan_out_axes=[-2, -1])
  return boxes.BoxedParam(jnp.ones((2, 3, 4)) if value is None else value, meta)


def test_value_is_the_only_child_and_keeps_its_path():
  box = make_box()
  leaves, _ = jax.tree_util.tree_flatten_with_path({'w': box})
  assert len(leaves) == 1 and leaves[0][1] is box.value
  assert jax.tree_util.keystr(leaves[0][0]) == "['w'].value"


def test_box_passes_through_jit_and_grad():
  box = make_box()
  doubled = jax.jit(lambda b: jax.tree.map(lambda x: 2 * x, b))(box)
  assert doubled.meta == box.meta
  np.testing.assert_array_equal(doubled.value, 2 * box.value)
  gradient = jax.grad(lambda b: (3 * b.value).sum())(box)
  assert isinstance(gradient, boxes.BoxedParam)
  np.testing.assert_array_equal(gradient.value, 3 * box.value)


def test_boxes_of_equal_meta_have_equal_structure():
  same = make_box().replace_boxed(jnp.zeros(1))
  assert jax.tree.structure(make_box()) == jax.tree.structure(same)
  other = boxes.BoxedParam(jnp.zeros(1), WeightHParams([1]))
  assert jax.tree.structure(make_box()) != jax.tree.structure(other)


def test_boxing_a_box():
  with pytest.raises(AssertionError, match='boxed already'):
    boxes.BoxedParam(make_box(), WeightHParams([1]))


def test_unbox():
  box = make_box()
  assert box.unbox() is box.value
  tree = {'w': box, 'x': [jnp.ones(5, jnp.bfloat16), box]}
  values = boxes.maybe_unbox_value(tree)
  assert values['w'] is box.value and values['x'][1] is box.value
  assert values['x'][0] is tree['x'][0]
  metas = boxes.unbox_meta(tree)
  assert metas['w'] is box.meta
  assert metas['x'][0] == WeightHParams((5,), dtype=jnp.dtype(jnp.bfloat16))


def test_add_axis():
  box = make_box()
  meta = box.add_axis(0, STACK).meta
  assert meta.repeat_prefix == [3]
  assert meta.repeat_prefix_split_dims_mapping == ('a',)
  assert meta.repeat_optimizer_dims_mapping == ('b',)
  assert meta.fan_in_axes == [1]
  assert meta.fan_out_axes == [-2, -1]
  assert meta.shape == [2, 3, 4]
  assert box.meta == make_box().meta, 'the original must not change'


def test_nested_stacks():
  outer = dict(
    STACK, x_times=5, sub_weight_split_dims_mapping=None, optimizer_dims_mapping=None
  )
  meta = make_box().add_axis(0, STACK).add_axis(0, outer).meta
  assert meta.repeat_prefix == [5, 3]
  assert meta.repeat_prefix_split_dims_mapping == (-1, 'a')
  assert meta.repeat_optimizer_dims_mapping == (-1, 'b')
  assert meta.fan_in_axes == [2]
  assert meta.full_shape == (5, 3, 2, 3, 4)


def test_remove_axis_undoes_add_axis():
  box = make_box(1.0)
  once = box.add_axis(0, STACK)
  twice = once.add_axis(0, dict(STACK, x_times=5))
  assert twice.remove_axis(0, dict(STACK, x_times=5)) == once
  assert once.remove_axis(0, STACK) == box
  with pytest.raises(AssertionError, match=r'size 7.*repeat_prefix=\[3\]'):
    once.remove_axis(0, dict(STACK, x_times=7))


def test_axes_change_only_while_initializing_and_only_in_front():
  box = make_box()
  later = dict(STACK, is_initializing=False)
  assert box.add_axis(0, later) is box
  assert box.remove_axis(0, later) is box
  for method in (box.add_axis, box.remove_axis):
    with pytest.raises(ValueError, match='axis 0 only, got axis 1'):
      method(1, STACK)
  with pytest.raises(AssertionError, match='sub_weight_split_dims_mapping.*one entry'):
    box.add_axis(0, dict(STACK, sub_weight_split_dims_mapping=['a', 'b']))


@pytest.mark.parametrize('cls', [boxes.WrappedHParams, boxes.BoxedPartitionSpec])
def test_metadata_alone_has_no_leaves(cls):
  box = cls(WeightHParams([1]))
  assert jax.tree.leaves(box) == []
  assert jax.jit(lambda x: x)(box) == box
  assert cls(meta=1) != cls(meta=2)


def test_aux_loss_is_two_leaves():
  loss = boxes.AuxLossStruct(jnp.float32(2.0), jnp.float32(3.0))
  leaves, _ = jax.tree_util.tree_flatten_with_path(loss)
  assert [jax.tree_util.keystr(path) for path, _ in leaves] == ['.value', '.weight']
  assert jax.tree.map(lambda x: float(2 * x), loss) == boxes.AuxLossStruct(4.0, 6.0)
  assert loss.replace(weight=1.0).weight == 1.0
  with pytest.raises(AttributeError):
    loss.value = 1.0


def test_boxes_are_replaced_field_by_field():
  box = boxes.BoxedParam(1, WeightHParams([2]))
  assert box.replace(value=3) == boxes.BoxedParam(3, box.meta)
  for cls in (boxes.WrappedHParams, boxes.BoxedPartitionSpec):
    assert cls(1).replace(meta=2) == cls(2)
  loss = boxes.AuxLossStruct(1, 2)
  assert loss.replace(weight=3) == boxes.AuxLossStruct(1, 3)
