"""How much convolutions pad."""


def effective_kernel_size(kernel_size: int, dilation: int) -> int:
  """Span of a kernel whose taps lie `dilation` apart."""
  return dilation * (kernel_size - 1) + 1


def causal_padding(kernel_size: int, dilation: int) -> int:
  """Left padding with which an output sees no later input."""
  return effective_kernel_size(kernel_size, dilation) - 1


def symmetric_padding(kernel_size: int, dilation: int) -> tuple[int, int]:
  """Padding `(begin, end)` that keeps the size at stride 1; the end gets the odd one.

  Unlike XLA's and TensorFlow's 'SAME' it depends neither on stride nor on input size.
  """
  total = causal_padding(kernel_size, dilation)
  return total // 2, total - total // 2
