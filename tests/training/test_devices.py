"""pax_haiku.training.devices: peaks of known devices."""

import types

import pytest

from pax_haiku.training import devices


@pytest.mark.parametrize(
  'kind, peak',
  [
    ('NVIDIA H100 80GB HBM3', 989e12),
    ('NVIDIA H100 PCIe', 756e12),
    ('NVIDIA A100-SXM4-40GB', 312e12),
    ('TPU v5 lite', 197e12),
    ('TPU v5p', 459e12),
    ('TPU v4', 275e12),
    ('cpu', None),
  ],
)
def test_peak_by_name(kind, peak):
  device = types.SimpleNamespace(device_kind=kind, memory_stats=lambda: None)
  assert devices.peak_flops(device) == peak
  assert devices.peak_bytes(device) is None


def test_this_device():
  assert devices.peak_flops() is None  # a CPU
  used = types.SimpleNamespace(memory_stats=lambda: {'peak_bytes_in_use': 7})
  assert devices.peak_bytes(used) == 7
