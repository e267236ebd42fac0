"""The operators where the system refuses threads: the calls end, with the same results."""

from __future__ import annotations

import subprocess
import sys

import pytest

from streamseg.errors import PluginNotFound
from streamseg.plugins.native import load

try:
    load()
except PluginNotFound as reason:
    pytest.skip(str(reason), allow_module_level=True)

# The child computes with one thread, then has the system refuse more, then asks for 64.
CHILD = """
import os, resource, sys, threading
import numpy as np
from streamseg.plugins.native import load

ops = load()
rng = np.random.default_rng(0)
scores = rng.normal(size=(1, 19, 32, 48)).astype(np.float32)
x = rng.normal(size=(1, 144, 32)).astype(np.float32)
conv = (x, *(rng.normal(size=s).astype(np.float32) for s in ((32, 4), (32,), (1, 9, 32, 3))))

def compute(threads):
    y, state = ops.causal_conv(*conv, geometry=(12, 12, 4, 4, 0, 0), threads=threads)
    grads = ops.causal_conv_backward(conv, y, None, geometry=(12, 12, 4, 4, 0, 0), threads=threads)
    return [ops.upsample_argmax(scores, 256, 384, threads=threads), y, state, *grads]

def limit_tasks():
    if os.getuid() == 0:
        os.setuid(65534)  # the superuser is not limited
    resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))

def limit_addresses():
    pages = int(open("/proc/self/statm").read().split()[0])
    size = pages * resource.getpagesize() + (96 << 20)
    resource.setrlimit(resource.RLIMIT_AS, (size, size))

wanted = compute(1)
limit_{what}()
release, threads = threading.Event(), []
try:
    for _ in range(64):
        threads.append(threading.Thread(target=release.wait))
        threads[-1].start()
except RuntimeError:
    threads.pop()
else:
    sys.exit("the limit does not hold")
release.set()
for thread in threads:
    thread.join()
for _ in range(20):
    assert all(np.array_equal(a, b) for a, b in zip(compute(64), wanted))
print("equal")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits as Linux has them")
@pytest.mark.parametrize("what", ["tasks", "addresses"])
def test_operators_run_with_the_threads_they_get(what: str) -> None:
    # With 32 MiB for each stack a few threads start under the limit of addresses, and 64 do not.
    script = CHILD.replace("{what}", what)
    child = ["bash", "-c", 'ulimit -s 32768; exec "$@"', "-", sys.executable, "-c", script]
    ended = subprocess.run(child, capture_output=True, text=True, timeout=120, check=False)
    assert (ended.returncode, ended.stdout) == (0, "equal\n"), ended.stderr
