#!/usr/bin/env bash
# Everything worth knowing when a GPU turns up, in under ten minutes:
#
#   deploy/cuda/check.sh [--device cpu|cuda|cuda:N] [--worker PROGRAM] [--goldens FOLDER] [--out FOLDER] [--small] [--peer]
#
#   1. the reference's golden tensors on the device      4. the same caption alone and in company
#   2. the demo model's answers on scenes never seen     5. memory under a budget of 8 GiB, as the device counts it
#   3. load time, steps with and without our kernels,    6. with --peer: Hugging Face on the same work (torch, transformers)
#      pictures per second
#
# Steps 3 to 5 run on full-size bundles with drawn weights, which are made here (one minute, 5.3 GB each); --small takes the
# demo model's dimensions instead. What does not fit a small GPU is named and left out. Results are printed and left in --out
# as JSON. It fails if anything is not as it should be (judge.py says what that is), and names what.
set -euo pipefail
here=$PWD
cd "$(dirname "$0")/../.."

device=cuda
worker=
goldens=worker/model/tests/golden
out=gpu-check
size=()
peer=no
usage() { sed -n '4p' deploy/cuda/check.sh | cut -c5- >&2; exit 64; }
# What the caller names lies where he is.
named() { case $1 in /*) printf '%s' "$1" ;; *) printf '%s' "$here/$1" ;; esac; }
while [ $# -gt 0 ]; do
  case $1 in
    --device) device=${2:?} && shift 2 ;;
    --worker) worker=$(named "${2:?}") && shift 2 ;;
    --goldens) goldens=$(named "${2:?}") && shift 2 ;;
    --out) out=$(named "${2:?}") && shift 2 ;;
    --small) size=(--small) && shift ;;
    --peer) peer=yes && shift ;;
    *) usage ;;
  esac
done
[[ $device =~ ^(cpu|cuda(:[0-9]+)?)$ ]] || usage
for candidate in target/cuda-80/worker target/release/worker; do
  [ -n "$worker" ] || [ ! -x "$candidate" ] || worker=$candidate
done
[ -n "$worker" ] || { echo "error: no worker is built: run deploy/cuda/build.sh, or name one with --worker" >&2; exit 1; }
mkdir -p "$out"
began=$(date +%s)
failed=()
# What slots and steps need at the least beside the weights, in MiB.
readonly ROOM=1536
step() { printf '\n== %s (%d s)\n' "$*" $(($(date +%s) - began)); }
# Neither may run in a pipe: a subshell's failures are lost.
try() { "$@" || failed+=("$*"); }
keep() { # FILE COMMAND…: what it prints is kept, and shown
  local file=$1
  shift
  try "$@" >"$file"
  cat "$file"
}
judge() { try python3 deploy/cuda/judge.py "$@"; }

memory=  # of the GPU, in MiB
many=()
company=200
if [ "$device" != cpu ]; then
  step "the GPU"
  keep "$out/gpu.csv" nvidia-smi --query-gpu=name,compute_cap,memory.total,driver_version --format=csv
  # CUDA counts GPUs by their speed otherwise.
  export CUDA_DEVICE_ORDER=PCI_BUS_ID
  index=${device#cuda}
  index=${index#:}
  memory=$(nvidia-smi --query-gpu=memory.total --format=csv,noheader,nounits --id="${index:-0}")
  # More than one wave of the slots, as the peer's batches are full, too.
  many=(--count 256)
  company=600
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
keep "$out/evaluate.json" "$worker" evaluate --device "$device" --json
judge captions "$out/evaluate.json"
keep "$out/invariance-demo.json" "$worker" bench --device "$device" --invariance --batch-invariant --count "$company" --json
# How many without that is worth knowing, whatever it is.
"$worker" bench --device "$device" --invariance --count "$company" --json | tee "$out/company-demo.json" || true

# Different kinds of weights take different ways through the device.
for weights in q8_0:f16 f16:f16 q4_0:q8_0; do
  language=${weights%:*} vision=${weights#*:}
  bundle=$out/bundle-$language-$vision
  step "a bundle with $language and $vision"
  rm -rf "$bundle"
  try "$worker" random-bundle ${size[@]+"${size[@]}"} --weights "$language" --vision-weights "$vision" --out "$bundle"
  [ -d "$bundle" ] || continue
  stored=$(du -sm "$bundle" | cut -f 1)
  if [ -n "$memory" ] && [ $((stored + ROOM)) -gt "$memory" ]; then
    echo "left out: weights of $stored MiB and $ROOM MiB beside them do not fit the GPU's $memory MiB"
    rm -rf "$bundle"
    continue
  fi
  step "3. steps and pictures, $language and $vision"
  try "$worker" bench --model "$bundle" --device "$device" --batches 1,8,16,32 --slots-list 1,8 --json \
    >"$out/bench-$language-$vision.json"
  try "$worker" bench --model "$bundle" --device "$device" ${many[@]+"${many[@]}"} --slots-list 16,32,64,128 --items-only \
    --json >"$out/rate-$language-$vision.json"
  # What our own kernels gain.
  try "$worker" bench --model "$bundle" --device "$device" --batches 1,8,16,32 --steps-only --stock-kernels --json \
    >"$out/stock-$language-$vision.json"
  if [ $language = q8_0 ]; then
    step "4. alone and in company"
    keep "$out/invariance.json" "$worker" bench --model "$bundle" --device "$device" --invariance --count 200 --json
    step "5. a budget of 8 GiB"
    try "$worker" bench --model "$bundle" --device "$device" --memory-budget 8GiB --slot-tokens 192 --slots-list 16 \
      --items-only --json >"$out/memory.json"
    judge memory "$out/memory.json"
    try "$worker" bench --model "$bundle" --device "$device" --memory-budget 8GiB --slot-tokens 192 --slots 16 \
      --soak 30s --json >"$out/soak.json"
    judge soak "$out/soak.json"
  fi
  rm -rf "$bundle"
done

if [ $peer = yes ]; then
  step "6. the peer"
  keep "$out/peer.json" python3 deploy/cuda/peer.py --device "$device" ${size[@]+"${size[@]}"}
  judge peer "$out" "$device"
fi

step "done"
python3 - "$out" <<'SUMMARY'
import glob, json, os, sys
out = sys.argv[1]
for path in sorted(glob.glob(f"{out}/bench-*.json")):
    try:
        report, rate = json.load(open(path)), json.load(open(path.replace("/bench-", "/rate-")))
        best = max(report["items"] + rate["items"], key=lambda items: items["pictures_per_second"])
    except (OSError, ValueError):
        continue
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
SUMMARY
if [ ${#failed[@]} -gt 0 ]; then
  printf 'FAILED: %s\n' "${failed[@]}"
  exit 1
fi
echo "all as it should be; JSON in $out"
