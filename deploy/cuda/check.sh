#!/usr/bin/env bash
# Everything worth knowing when a GPU turns up, in under ten minutes:
#
#   deploy/cuda/check.sh [--device cpu|cuda] [--worker PROGRAM] [--goldens FOLDER] [--out FOLDER] [--small] [--peer]
#
#   1. the reference's golden tensors on the device      4. the same caption alone and in company
#   2. the demo model's answers on scenes never seen     5. memory under a budget of 8 GiB, as the device counts it
#   3. load time, steps with and without our kernels,    6. with --peer: Hugging Face on the same work (torch, transformers)
#      pictures per second
#
# Steps 3 to 5 run on full-size bundles with drawn weights, which are made here (one minute, 5.3 GB each); --small takes the
# demo model's dimensions instead. Results are printed and left in --out as JSON. It fails if anything is not as it should be.
set -euo pipefail
cd "$(dirname "$0")/../.."

device=cuda
worker=
goldens=worker/model/tests/golden
out=gpu-check
size=()
peer=no
usage() { sed -n '4p' "$0" | cut -c5- >&2; exit 64; }
while [ $# -gt 0 ]; do
  case $1 in
    --device) device=${2:?} && shift 2 ;;
    --worker) worker=${2:?} && shift 2 ;;
    --goldens) goldens=${2:?} && shift 2 ;;
    --out) out=${2:?} && shift 2 ;;
    --small) size=(--small) && shift ;;
    --peer) peer=yes && shift ;;
    *) usage ;;
  esac
done
for candidate in target/cuda-80/worker target/release/worker; do
  [ -n "$worker" ] || [ ! -x "$candidate" ] || worker=$candidate
done
[ -n "$worker" ] || { echo "error: no worker is built: run deploy/cuda/build.sh, or name one with --worker" >&2; exit 1; }
mkdir -p "$out"
began=$(date +%s)
failed=()
step() { printf '\n== %s (%d s)\n' "$*" $(($(date +%s) - began)); }
try() { "$@" || failed+=("$*"); }

if [ "$device" != cpu ]; then
  step "the GPU"
  nvidia-smi --query-gpu=name,compute_cap,memory.total,driver_version --format=csv | tee "$out/gpu.csv"
fi

step "1. goldens"
for stage in s1 s3 s4; do
  try "$worker" trace "$goldens" --stage $stage --device "$device" --out "$out/$stage.safetensors" \
    --expect "$goldens/golden.safetensors"
done
try "$worker" trace "$goldens" --stage itc --device "$device" --out "$out/itc.safetensors" \
  --expect "$goldens/golden_itc.safetensors"
rm -f "$out"/{s1,s3,s4,itc}.safetensors

step "2. the demo model"
try "$worker" evaluate --device "$device" --json | tee "$out/evaluate.json"

# Different kinds of weights take different ways through the device.
for weights in q8_0:f16 f16:f16 q4_0:q8_0; do
  language=${weights%:*} vision=${weights#*:}
  bundle=$out/bundle-$language-$vision
  step "a bundle with $language and $vision"
  rm -rf "$bundle"
  "$worker" random-bundle "${size[@]}" --weights "$language" --vision-weights "$vision" --out "$bundle"
  step "3. steps and pictures, $language and $vision"
  try "$worker" bench --model "$bundle" --device "$device" --batches 1,8,16,32 --slots-list 1,8,16,32 --json \
    >"$out/bench-$language-$vision.json"
  # What our own kernels gain.
  try "$worker" bench --model "$bundle" --device "$device" --batches 1,8,16,32 --steps-only --stock-kernels --json \
    >"$out/stock-$language-$vision.json"
  if [ $language = q8_0 ]; then
    step "4. alone and in company"
    try "$worker" bench --model "$bundle" --device "$device" --invariance --count 200 | tee "$out/invariance.txt"
    step "5. a budget of 8 GiB"
    try "$worker" bench --model "$bundle" --device "$device" --memory-budget 8GiB --slot-tokens 192 --slots-list 16 \
      --items-only --json >"$out/memory.json"
    try python3 -c '
import json, sys
items = json.load(open(sys.argv[1]))["items"][0]
most, slots, budget = items["most_in_use"], items["slots"], 8 * 2**30
print(f"{most / 2**30:.2f} GiB at the most with {slots} slots")
sys.exit(most > budget)' "$out/memory.json"
    try "$worker" bench --model "$bundle" --device "$device" --memory-budget 8GiB --slot-tokens 192 --slots 16 \
      --soak 30s | tee "$out/soak.txt"
  fi
  rm -rf "$bundle"
done

if [ $peer = yes ]; then
  step "6. the peer"
  try python3 deploy/cuda/peer.py --device "$device" ${size[@]+"${size[@]}"} | tee "$out/peer.json"
fi

step "done"
python3 - "$out" <<'SUMMARY'
import glob, json, os, sys
out = sys.argv[1]
for path in sorted(glob.glob(f"{out}/bench-*.json")):
    try:
        report = json.load(open(path))
    except ValueError:
        continue
    best = max(report["items"], key=lambda items: items["pictures_per_second"])
    shares = {}
    for step in report["steps"]:
        shares[step["step"]] = max(shares.get(step["step"], 0), step["roofline_share"])
    steps = ", ".join(f"{name} {100 * share:.0f} % of the roofline" for name, share in shares.items())
    print(f"{os.path.basename(path)}: {best['pictures_per_second']:.2f} captions/s with {best['slots']} slots; {steps}")
    if report["device"] == "cpu":
        continue
    try:
        stock = json.load(open(path.replace("/bench-", "/stock-")))
    except (OSError, ValueError):
        continue
    own = ", ".join(report["own_kernels"]) or "none"
    seconds = {(step["step"], step["rows"]): step["seconds"] for step in stock["steps"]}
    gains = ", ".join(
        f"{step['step']} of {step['rows']} {seconds[step['step'], step['rows']] / step['seconds']:.2f} x" for step in report["steps"]
        if (step["step"], step["rows"]) in seconds)
    print(f"  own kernels: {own}; against candle's alone {gains}")
try:
    peer = json.load(open(f"{out}/peer.json"))
    print(f"{peer['peer']}: {peer['best']:.2f} captions/s at batch {peer['best_batch']}")
except (OSError, ValueError):
    pass
SUMMARY
if [ ${#failed[@]} -gt 0 ]; then
  printf 'FAILED: %s\n' "${failed[@]}"
  exit 1
fi
echo "all as it should be; JSON in $out"
