"""What is known of the device: its peak speed, and how much memory was used."""

import jax

# Dense bfloat16 operations per second of one device, by makers' data sheets. The first
# name that the device's kind contains counts.
_PEAKS = (
  ('H200', 989e12),
  ('H100 PCIe', 756e12),
  ('H100', 989e12),
  ('A100', 312e12),
  ('L40S', 362e12),
  ('L4', 121e12),
  ('V100', 125e12),
  ('TPU v6', 918e12),
  ('TPU v5 lite', 197e12),
  ('TPU v5e', 197e12),
  ('TPU v5', 459e12),
  ('TPU v4', 275e12),
  ('TPU v3', 123e12),
)


def peak_flops(device: jax.Device | None = None) -> float | None:
  """Returns the device's peak in bfloat16 operations per second, None if unknown."""
  kind = (device or jax.local_devices()[0]).device_kind
  return next((peak for name, peak in _PEAKS if name.lower() in kind.lower()), None)


def peak_bytes(device: jax.Device | None = None) -> int | None:
  """Returns the most bytes in use so far, None where the device does not say."""
  stats = (device or jax.local_devices()[0]).memory_stats() or {}
  return stats.get('peak_bytes_in_use')
