"""deploy/cuda/check.sh fails when anything that it tries does, and says what; judge.py tells good figures from bad ones."""

import importlib.util
import os
import pathlib
import subprocess
import sys
import tempfile
import unittest

CUDA = pathlib.Path(__file__).resolve().parents[2] / "deploy" / "cuda"
SCRIPT = CUDA / "check.sh"

# A worker whose every answer is as it should be, unless it is told what to spoil.
STUB = f"""#!{sys.executable}
import json, os, pathlib, sys
words = " ".join(sys.argv[1:])
spoilt = os.environ.get("SPOIL", "")
if spoilt and spoilt in words:
    sys.exit(1)
if "random-bundle" in words:
    pathlib.Path(sys.argv[sys.argv.index("--out") + 1]).mkdir(parents=True)
figures = {{
    "captions_correct": 0.5 if spoilt == "CAPTIONS" else 0.99,
    "device": "cpu",
    "steps": [{{"step": "vision", "rows": 1, "seconds": 0.1, "roofline_share": 0.5}}],
    "items": [{{"pictures_per_second": 2.0, "slots": 8, "most_in_use": (9 if spoilt == "MEMORY" else 7) << 30}}],
    "soak": {{"answered": 40, "memory": [1 << 30] * 20 + [(2 if spoilt == "GROWTH" else 1) << 30] * 10}},
}}
print(json.dumps(figures))
"""


def load_judge():
    spec = importlib.util.spec_from_file_location("judge", CUDA / "judge.py")
    judge = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(judge)
    return judge


class Check(unittest.TestCase):
    def run_with(self, spoilt):
        with tempfile.TemporaryDirectory() as folder:
            worker = pathlib.Path(folder) / "worker"
            worker.write_text(STUB)
            worker.chmod(0o755)
            arguments = ["--device", "cpu", "--small", "--worker", worker, "--out", f"{folder}/out"]
            environment = {**os.environ, "SPOIL": spoilt, "PYTHONDONTWRITEBYTECODE": "1"}
            return subprocess.run(
                [SCRIPT, *arguments], capture_output=True, text=True, env=environment, timeout=120
            )

    def test_passes_when_all_is_well(self):
        ran = self.run_with("")
        self.assertEqual(ran.returncode, 0, ran.stdout + ran.stderr)
        self.assertIn("all as it should be", ran.stdout)

    def test_names_whatever_fails(self):
        for spoilt in [
            "--stage s4",
            "--stage itc",
            "evaluate",
            "random-bundle",
            "--invariance",
            "--steps-only",
            "--slots-list 16,32",
            "--slots-list 16 ",
            "--soak",
        ]:
            with self.subTest(spoilt=spoilt):
                ran = self.run_with(spoilt)
                failures = [line for line in ran.stdout.splitlines() if line.startswith("FAILED: ")]
                self.assertEqual(ran.returncode, 1, ran.stdout + ran.stderr)
                self.assertTrue(any(spoilt in f"{line} " for line in failures), ran.stdout)

    def test_judges_what_was_measured(self):
        for spoilt, judged in [("CAPTIONS", "captions"), ("MEMORY", "memory"), ("GROWTH", "soak")]:
            with self.subTest(spoilt=spoilt):
                ran = self.run_with(spoilt)
                self.assertEqual(ran.returncode, 1, ran.stdout + ran.stderr)
                self.assertIn(f"FAILED: judge {judged}", ran.stdout.replace("python3 deploy/cuda/judge.py", "judge"))


class Peer(unittest.TestCase):
    def test_the_ratio_is_judged_on_a_gpu_alone(self):
        judge = load_judge()
        measured = {"peer": "transformers", "best": 10.0, "best_batch": 64}
        for rates, device, good in [
            ({"f16-f16": 41.0, "q8_0-f16": 12.0}, "cuda", True),
            ({"f16-f16": 39.0}, "cuda", False),
            ({}, "cuda", False),
            ({"f16-f16": 1.0}, "cpu", True),
            ({}, "cpu", False),
        ]:
            with self.subTest(rates=rates, device=device):
                found, line = judge.peer(measured, rates, device)
                self.assertEqual(found, good, line)
                self.assertIn("10.00 captions/s at batch 64", line)

    def test_what_is_not_there_is_an_error(self):
        ran = subprocess.run(
            [sys.executable, "-B", CUDA / "judge.py", "soak", "/nowhere/soak.json"], capture_output=True, text=True
        )
        self.assertEqual(ran.returncode, 1)
        self.assertIn("soak.json", ran.stderr)


if __name__ == "__main__":
    unittest.main()
