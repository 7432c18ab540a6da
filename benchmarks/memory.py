"""Push many times to one rig, and print the resident memory: `python -m benchmarks.memory PORT PUSHES`."""

from __future__ import annotations

import json
import sys

import psutil

from rigsync import Auxiliaries


def main(port: str, pushes: str) -> None:
    process = psutil.Process()
    with Auxiliaries({"rig": f"127.0.0.1:{port}"}) as aux:
        sizes = []
        for number in range(int(pushes)):
            aux.push("EXPSTATUS", wait=True)
            # Past the log's limit of 10,000, and past what the allocator takes to settle.
            if number in (20_000, int(pushes) - 1):
                sizes.append(process.memory_info().rss / 2**20)
    print(json.dumps(sizes))


if __name__ == "__main__":
    main(*sys.argv[1:])
