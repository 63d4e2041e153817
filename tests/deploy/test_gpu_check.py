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


# A machine with a large GPU and a small one.
NVIDIA_SMI = """#!/bin/sh
case "$*" in
  *--id=1*) echo 1024 ;;
  *--id=*) echo 81920 ;;
esac
"""


def load_judge():
    spec = importlib.util.spec_from_file_location("judge", CUDA / "judge.py")
    judge = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(judge)
    return judge


class Check(unittest.TestCase):
    def run_with(self, spoilt, device="cpu"):
        with tempfile.TemporaryDirectory() as folder:
            worker = self.install(folder, "worker", STUB)
            self.install(folder, "nvidia-smi", NVIDIA_SMI)
            arguments = ["--device", device, "--small", "--worker", worker, "--out", f"{folder}/out"]
            path = f"{folder}{os.pathsep}{os.environ['PATH']}"
            environment = {**os.environ, "SPOIL": spoilt, "PYTHONDONTWRITEBYTECODE": "1", "PATH": path}
            return subprocess.run(
                [SCRIPT, *arguments], capture_output=True, text=True, env=environment, timeout=120
            )

    def install(self, folder, name, text):
        program = pathlib.Path(folder) / name
        program.write_text(text)
        program.chmod(0o755)
        return program

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
            "--batch-invariant",
            "--steps-only",
            "--slots-list 16,32,64,128",
            "--slots-list 16 ",
            "--soak",
        ]:
            with self.subTest(spoilt=spoilt):
                ran = self.run_with(spoilt)
                failures = [line for line in ran.stdout.splitlines() if line.startswith("FAILED: ")]
                self.assertEqual(ran.returncode, 1, ran.stdout + ran.stderr)
                self.assertTrue(any(spoilt in f"{line} " for line in failures), ran.stdout)

    def test_paths_are_the_callers(self):
        with tempfile.TemporaryDirectory() as folder:
            self.install(folder, "worker", STUB)
            script = os.path.relpath(SCRIPT, folder)
            arguments = ["--device", "cpu", "--small", "--worker", "./worker", "--out", "results"]
            ran = subprocess.run([script, *arguments], cwd=folder, capture_output=True, text=True, timeout=120)
            self.assertEqual(ran.returncode, 0, ran.stdout + ran.stderr)
            self.assertTrue((pathlib.Path(folder) / "results" / "evaluate.json").exists())
            for wrong in [["--nonsense"], ["--device", "tpu"]]:
                ran = subprocess.run([script, *wrong], cwd=folder, capture_output=True, text=True, timeout=120)
                self.assertEqual(ran.returncode, 64, ran.stdout + ran.stderr)
                self.assertIn("--device cpu|cuda", ran.stderr)

    def test_a_gpu_is_asked_for_its_own_memory_and_about_enough_pictures(self):
        for device, is_small in [("cuda", False), ("cuda:0", False), ("cuda:1", True)]:
            with self.subTest(device=device):
                ran = self.run_with("--batch-invariant --count 600", device)
                self.assertEqual("left out: weights" in ran.stdout, is_small, ran.stdout + ran.stderr)
                failures = [line for line in ran.stdout.splitlines() if line.startswith("FAILED: ")]
                self.assertEqual(len(failures), 1, ran.stdout + ran.stderr)

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
