"""What every test needs before it imports anything: JAX on the CPU.

Set here and not in the shell, so that a bare `pytest tests/...` behaves as the whole
suite does. An explicit JAX_PLATFORMS in the environment wins.
"""

import os

os.environ.setdefault('JAX_PLATFORMS', 'cpu')
