#!/usr/bin/env python3
"""Judges what deploy/cuda/check.sh measured: one line for each thing, and exit code 1 if it is not as it should be.

    judge.py captions evaluate.json      the demo model's captions of scenes never seen
    judge.py memory memory.json          the most memory in use under a budget of 8 GiB
    judge.py soak soak.json              memory in random company
    judge.py peer FOLDER DEVICE          captions a second beside the peer's, from the rate-*.json of a folder
"""

import json
import pathlib
import sys

LEAST_CAPTIONS = 0.95
BUDGET = 8 << 30
# A leak of one slot's keys and values for every request would be larger.
MOST_GROWTH = 48 << 20
# How many times the peer's rate is wanted on a GPU.
LEAST_RATIO = 4.0


def captions(evaluation):
    share = evaluation["captions_correct"]
    return share >= LEAST_CAPTIONS, f"{100 * share:.1f} % of the captions are right, {100 * LEAST_CAPTIONS:.0f} % wanted"


def memory(report):
    items = report["items"][0]
    most = items["most_in_use"]
    return most <= BUDGET, f"{most / 2**30:.2f} GiB at the most with {items['slots']} slots"


def soak(report):
    samples = report["soak"]["memory"]
    growth = samples[-1] - samples[len(samples) // 2]
    answered = report["soak"]["answered"]
    line = f"{answered} answers; memory grew by {growth / 2**20:.1f} MiB in the second half"
    return answered > 0 and growth <= MOST_GROWTH, line


def best_rate(report):
    return max((items["pictures_per_second"] for items in report["items"]), default=0.0)


def peer(measured, rates, device):
    """`rates` are ours by bundle. On a CPU the ratio is told and not judged: the peer's way there is another one."""
    best = measured["best"]
    ratios = {name: rate / best for name, rate in rates.items()}
    told = ", ".join(f"{name} {ratio:.2f} x" for name, ratio in sorted(ratios.items()))
    line = f"{measured['peer']}: {best:.2f} captions/s at batch {measured['best_batch']}; ours {told or 'were not measured'}"
    if device == "cpu":
        return bool(ratios), line
    return max(ratios.values(), default=0.0) >= LEAST_RATIO, f"{line}; {LEAST_RATIO:.0f} x wanted"


def load(path):
    return json.loads(pathlib.Path(path).read_text())


def main(what, path, device=None):
    if what == "peer":
        rates = {
            file.stem.removeprefix("rate-"): best_rate(load(file)) for file in pathlib.Path(path).glob("rate-*.json")
        }
        good, line = peer(load(pathlib.Path(path) / "peer.json"), rates, device)
    else:
        good, line = {"captions": captions, "memory": memory, "soak": soak}[what](load(path))
    print(line)
    return 0 if good else 1


if __name__ == "__main__":
    try:
        sys.exit(main(*sys.argv[1:]))
    except (OSError, ValueError, KeyError, IndexError, TypeError) as error:
        sys.exit(f"error: {' '.join(sys.argv[1:])}: {error!r}: what was to be judged is not there")
