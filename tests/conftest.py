"""What every test needs before it imports anything: JAX on the CPU, quick to compile.

Set here and not in the shell, so that a bare `pytest tests/...` behaves as the whole
suite does. What is set in the environment already wins.
"""

import gc
import os
import shutil
import tempfile

os.environ.setdefault('JAX_PLATFORMS', 'cpu')
# The suite compiles thousands of tiny programs and runs each once, so the time goes
# into compiling: leave the expensive optimizations out. Level 0 would round otherwise.
os.environ.setdefault(
  'XLA_FLAGS',
  '--xla_backend_optimization_level=1 --xla_llvm_disable_expensive_passes=true '
  '--xla_cpu_use_fusion_emitters=false',
)

# JAX keeps what it compiled, millions of objects that garbage collection goes through
# again and again: a twelfth of the suite's time unless it does so less often.
gc.set_threshold(100_000, 20, 100)


def pytest_configure(config):
  """What one worker of the suite, or a command that it runs, compiled, all may use."""
  if 'JAX_COMPILATION_CACHE_DIR' in os.environ:  # the user's, or that of all workers
    return
  folder = tempfile.mkdtemp(prefix='pax_haiku_compiled_')
  config.add_cleanup(lambda: shutil.rmtree(folder, ignore_errors=True))
  os.environ['JAX_COMPILATION_CACHE_DIR'] = folder
  os.environ['JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS'] = '0'
  os.environ['JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES'] = '-1'
