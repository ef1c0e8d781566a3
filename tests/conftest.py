"""What every test needs before it imports anything: JAX on the CPU, quick to compile.

Set here and not in the shell, so that a bare `pytest tests/...` behaves as the whole
suite does. What is set in the environment already wins.
"""

import os

os.environ.setdefault('JAX_PLATFORMS', 'cpu')
# The suite compiles thousands of tiny programs and runs each once, so the time goes
# into compiling: leave the expensive optimizations out. Level 0 would round otherwise.
os.environ.setdefault(
  'XLA_FLAGS',
  '--xla_backend_optimization_level=1 --xla_llvm_disable_expensive_passes=true',
)
