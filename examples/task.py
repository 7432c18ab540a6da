"""The task: has all rigs record while it runs. python task.py REFERENCE [SECONDS]."""

import logging
import sys
import time

from rigsync import Auxiliaries

logging.basicConfig(level="WARNING")
reference = sys.argv[1]
seconds = float(sys.argv[2]) if len(sys.argv) > 2 else 3.0

with Auxiliaries.from_file("rigs.yaml") as aux:
    aux.wait_for(timeout=30)
    with aux.experiment(reference) as session:
        print("recording", session.exp_ref, flush=True)
        print(aux.call("stimulus", "set_contrast", 0.5), flush=True)
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            session.check()  # raises if a rig has stopped, or does not record any more
            time.sleep(0.1)
        for rig, remote in aux.services.items():
            print(rig, {item: progress.value for item, progress in remote.progress.items()}, flush=True)
print("done", flush=True)
