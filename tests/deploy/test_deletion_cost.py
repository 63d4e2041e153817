"""The script that marks busy workers, with programs in the place of kubectl and curl that say what a cluster would."""

import os
import pathlib
import subprocess
import tempfile
import unittest

from sources import DEPLOY

SCRIPT = DEPLOY / "kubernetes/components/deletion-cost/deletion-cost.sh"

KUBECTL = """#!/bin/sh
case $1 in
  get) printf 'idle 10.0.0.1 \\nbusy 10.0.0.2 \\nsame 10.0.0.3 3\\ndone 10.0.0.4 2\\nsilent 10.0.0.5 2\\n' ;;
  annotate) echo "$3 $4" >>"$CHANGES"; [ "$3" != busy ] ;;
esac
"""
CURL = """#!/bin/sh
for address; do :; done
case $address in
  http://10.0.0.2:9464/metrics) jobs=2 ;;
  http://10.0.0.3:9464/metrics) jobs=3 ;;
  http://10.0.0.5:9464/metrics) exit 28 ;;
  *) jobs=0 ;;
esac
printf '# TYPE captionfleet_worker_jobs_in_flight gauge\\ncaptionfleet_worker_jobs_in_flight %s\\n' "$jobs"
"""


class DeletionCost(unittest.TestCase):
    def test_only_what_has_changed_is_written(self):
        with tempfile.TemporaryDirectory() as folder:
            folder = pathlib.Path(folder)
            for name, text in (("kubectl", KUBECTL), ("curl", CURL)):
                (folder / name).write_text(text)
                (folder / name).chmod(0o755)
            changes = folder / "changes"
            environment = os.environ | {"PATH": f"{folder}:{os.environ['PATH']}", "CHANGES": str(changes)}
            subprocess.run([SCRIPT], env=environment, check=True, timeout=30)
            cost = "controller.kubernetes.io/pod-deletion-cost"
            # `busy` was gone when it was to be marked: the next ones are marked all the same.
            self.assertEqual(changes.read_text().splitlines(), [f"busy {cost}=2", f"done {cost}=0"])
