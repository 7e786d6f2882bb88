"""Backends for tests: small programs for ``python -I -S -c``, each doing one thing that real servers do to a supervisor.

They print ``up`` once they are as a test wants them. ``TREE`` makes the four kinds of children that a group kill or a token sweep
alone would miss, and writes their pids to the file named by its first argument.
"""

from __future__ import annotations

SERVES = """
import time
print("up", flush=True)
time.sleep(600)
"""

IGNORES_STOP = """
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("up", flush=True)
time.sleep(600)
"""

CLEAN_STOP = """
import signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
print("up", flush=True)
time.sleep(600)
"""

EXITS_7 = """
import sys
print("cannot load the model", flush=True)
sys.exit(7)
"""

TREE = """
import os, signal, sys, time

def stay(name):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    with open(sys.argv[1], "a") as out:
        out.write(f"{name} {os.getpid()}\\n")
    time.sleep(600)
    os._exit(0)

def child(name, session=False, double=False, cleared=False):
    if os.fork():
        return
    if session:
        os.setsid()
    if double and os.fork():
        os._exit(0)
    if cleared:
        code = f"import os,signal,time;signal.signal(signal.SIGTERM,signal.SIG_IGN);"
        code += f"open({sys.argv[1]!r},'a').write(f'{name} {{os.getpid()}}\\\\n');time.sleep(600)"
        os.execve(sys.executable, [sys.executable, "-I", "-S", "-c", code], {})
    stay(name)

child("plain")
child("setsid", session=True)
child("double", session=True, double=True)
if "no-cleared" not in sys.argv:
    child("cleared", session=True, double=True, cleared=True)
wanted = 3 if "no-cleared" in sys.argv else 4
while True:
    try:
        with open(sys.argv[1]) as seen:
            if len(seen.readlines()) >= wanted:
                break
    except OSError:
        pass
    time.sleep(0.005)
print("up", flush=True)
if "and-exit" in sys.argv:
    sys.exit(0)
time.sleep(600)
"""

DESCRIPTORS = """
import os, sys
print("up " + " ".join(sorted(os.listdir("/proc/self/fd"), key=int)), flush=True)
for name in os.listdir("/proc/self/fd"):
    try:
        print(name, os.readlink("/proc/self/fd/" + name), flush=True)
    except OSError:
        pass
"""

NOISE_WITHOUT_NEWLINE = """
import os
block = b"x" * (1 << 20)
for _ in range(50):
    view = memoryview(block)
    while view:
        view = view[os.write(1, view):]
os.write(1, b"\\nlast words\\n")
"""

ENVIRONMENT = """
import json, os, time
print(json.dumps(dict(os.environ)), flush=True)
print("up", flush=True)
time.sleep(600)
"""
