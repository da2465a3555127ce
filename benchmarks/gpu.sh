#!/usr/bin/env bash
# Measurements for a machine with one GPU. PyTorch, transformers, pyarrow, pydantic, PyYAML and
# scikit-learn are enough; the project need not be installed. From the root of the tree:
#
#   OUT=results DATA=path/to/instruments benchmarks/gpu.sh [all | speed | instruments | NAME ...]
#
# NAME is one of the functions below. Each has a time limit and its own files under $OUT, and a
# failure ends none of the others. `instruments` resumes when it is run again with the same $WORK.
# MACREC_COMMIT names the commit where there is no .git; MINUTES bounds each step of instruments.
set -uo pipefail
cd "$(dirname "$0")/.."
OUT=${OUT:-gpu-results}
WORK=${WORK:-$OUT/work}
PYTHON=${PYTHON:-python3}
MINUTES=${MINUTES:-9}
export PYTHONPATH="src:.${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
mkdir -p "$OUT" "$WORK"
failed=()

# NAME SECONDS COMMAND...: runs the command; its results go to NAME.jsonl, its log to NAME.log.
measure() {
  local name=$1 seconds=$2
  shift 2
  echo "== $name"
  if ! timeout --signal=TERM --kill-after=60 "$seconds" "$@" >"$OUT/$name.jsonl" 2>"$OUT/$name.log"
  then
    failed+=("$name")
    tail -n 5 "$OUT/$name.log"
  fi
  tail -n 3 "$OUT/$name.jsonl"
}

data() {
  [[ -d ${DATA:-} ]] || { echo "DATA must name the folder with Instruments.inter.json" >&2; exit 2; }
}

train_speed() { # both precisions against stock in the same one, then where our time goes
  local precision
  for precision in float32 bfloat16; do
    measure "train_speed_$precision" 240 "$PYTHON" benchmarks/speed/train_speed.py --data "$DATA" \
      --device cuda --precision "$precision" --seconds 10 --rounds 5
  done
  measure train_speed_large_batch 150 "$PYTHON" benchmarks/speed/train_speed.py --data "$DATA" \
    --device cuda --precision bfloat16 --batch 1024 --seconds 10 --rounds 3
  measure train_profile 90 "$PYTHON" benchmarks/speed/train_speed.py --data "$DATA" --device cuda \
    --precision bfloat16 --seconds 5 --profile
}

decode_speed() {
  local decode=("$PYTHON" benchmarks/speed/decode_speed.py --data "$DATA" --device cuda --batch 512
    --users 4096 --stock-users 128)
  measure decode_speed 300 "${decode[@]}" --stock-batch 16,64,128 --rounds 5 \
    --compared 64 --oracle-users 256
  measure decode_speed_bfloat16 120 "${decode[@]}" --stock-batch 128 --rounds 3 \
    --compared 16 --oracle-users 64 --precision bfloat16
}

quantizer_speed() { # cost of the cross-modal losses, then time by size of the catalogue
  measure quantizer_speed 180 "$PYTHON" benchmarks/speed/quantizer_speed.py --device cuda --rounds 10
  measure quantizer_scale 240 "$PYTHON" benchmarks/scale/quantizer_scale.py --items 10000,100000 \
    --work "$WORK/scale" # the stage takes the GPU by itself
}

# The full run: all six tasks, published codes made unique; then as they are published. A training
# that does not fit into MINUTES saves a checkpoint and goes on at the next call.
instruments() {
  local seconds
  seconds=$(awk "BEGIN { print int($MINUTES * 60) }")
  full instruments "$seconds"
  full instruments_shared_codes "$seconds" --shared-codes
}

full() {
  local name=$1 seconds=$2
  shift 2
  measure "$name" "$seconds" "$PYTHON" benchmarks/quality/instruments.py --data "$DATA" --device cuda \
    --work "$WORK/$name" --results "$OUT/$name.json" --checkpoint-seconds 60 --label "$name" \
    --set validation_users=0 --set-evaluate validation_users=0 published_fusion=true "$@"
  if [[ ! -s $OUT/$name.json ]]; then
    measure "${name}_so_far" 240 "$PYTHON" benchmarks/quality/instruments.py --data "$DATA" --device cuda \
      --work "$WORK/$name" --results "$OUT/${name}_so_far.json" --label "${name}_so_far" \
      --set validation_users=0 --set-evaluate validation_users=0 published_fusion=true \
      --best-so-far "$@"
  fi
}

chosen=("${@:-all}")
case ${chosen[0]} in
  all) chosen=(train_speed decode_speed quantizer_speed instruments) ;;
  speed) chosen=(train_speed decode_speed quantizer_speed) ;;
esac
data
for name in "${chosen[@]}"; do
  case $name in
    train_speed | decode_speed | quantizer_speed | instruments) "$name" ;;
    *) echo "$name is none of train_speed, decode_speed, quantizer_speed, instruments" >&2; exit 2 ;;
  esac
done
if ((${#failed[@]})); then
  echo "failed or cut short: ${failed[*]}" >&2
  exit 1
fi
