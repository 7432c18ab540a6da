"""A rig that reports progress, and what that costs: `python -m benchmarks.progress SECONDS`.

It prints its port, waits for a line, reports 20 items 1,000 times a second each, and prints its share of one core.
"""

from __future__ import annotations

import sys
import time

from rigsync import Rig

ITEMS = [f"item {i}" for i in range(20)]


def main(seconds: float) -> None:
    with Rig("rig", "udp://127.0.0.1:0") as rig:
        print(rig.uri.rpartition(":")[2], flush=True)
        sys.stdin.readline()
        frames = 0
        begun, used = time.perf_counter(), time.process_time()
        while (now := time.perf_counter() - begun) < seconds:
            while frames < 1000 * now:
                frames += 1
                for item in ITEMS:
                    rig.progress(item, frames, 1_000_000, "frames")
            time.sleep(0.001)
        share = (time.process_time() - used) / (time.perf_counter() - begun)
        time.sleep(1)  # in which the last values are sent once more
    print(share)


if __name__ == "__main__":
    main(float(sys.argv[1]))
