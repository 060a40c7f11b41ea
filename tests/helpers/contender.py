"""Wants a results root again and again, and looks whether it has it alone: `python contender.py ROOT SEED`.

Ends with 0, or with 3 where another live process held the root at the same time. Dies now and then, while it holds the root, but
not before it has held it three times.
"""

import os
import random
import sys
import time

from raysp.store import lock
from raysp.store.location import locate

ROUNDS = 30

if __name__ == "__main__":
    root, chance = locate(sys.argv[1]), random.Random(sys.argv[2])
    lock.RENEW_S, lock.DEAD_AFTER_S = 0.05, 5.0
    inside = locate(sys.argv[1]).with_name(f"{root.name}-inside")
    held = 0
    for _ in range(ROUNDS):
        try:
            with lock.hold(root):
                me = inside / str(os.getpid())
                me.touch()
                for _ in range(3):
                    others = [p.name for p in inside.iterdir() if p.name != me.name]
                    if alive := [pid for pid in others if not lock._start(int(pid)).endswith("/0")]:
                        print(f"held by {alive} too, the lock file says {lock.holder(root)}", flush=True)
                        os._exit(3)
                    time.sleep(chance.uniform(0, 0.01))
                if held >= 3 and chance.random() < 0.1:
                    print("dies", flush=True)
                    os._exit(0)
                me.unlink()
            held += 1
            print("held", flush=True)
        except lock.StoreBusy:
            time.sleep(chance.uniform(0, 0.02))
