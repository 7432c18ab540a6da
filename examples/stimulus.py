"""A rig in Python: shows a stimulus, and says how many trials there were."""

import logging
import threading

from rigsync import Rig

logging.basicConfig(level="INFO")
rig = Rig("stimulus", "udp://127.0.0.1:11103", lease=5)
stopping = threading.Event()
contrast = 1.0


def show_trials():
    trials = 0
    while not stopping.wait(0.1):
        trials += 1
        rig.progress("trials", trials)


@rig.on("EXPSTART")
def start(exp_ref, data=None):
    stopping.clear()
    threading.Thread(target=show_trials, daemon=True).start()


@rig.on("EXPEND", "EXPINTERRUPT")
def stop(data=None):
    stopping.set()
    print("stopped", data, flush=True)


@rig.command("set_contrast")
def set_contrast(value):
    global contrast
    before, contrast = contrast, value
    return {"before": before, "now": contrast}


rig.run()
