#!/usr/bin/env bash
# Repeats the longer runs and those with options of masks: longer.sh WORK, with WORK as for run.sh. Every model sees the rows of 400
# steps (masks take 100 or 200 of them), or of 120 with options of masks. A table is printed at the end.
set -euo pipefail
configs=$(cd "$(dirname "$0")" && pwd)
shearling=${SHEARLING:-shearling}
cd "$1"
compare() { # NAME MASK-STEPS STEPS-LEFT TEACHER? OVERRIDES...
  local name=$1 masks=$2 steps=$3 teacher=$4 folder=longer/$1-$seed
  shift 4
  [ ! -d "$folder/continued/model" ] || return 0
  rm -rf "$folder"
  local seeded=(--set "run.seed=$seed") taught=()
  [ "$teacher" = no ] || taught=(--set distill.teacher=source/model --set distill.weight=0.5)
  "$shearling" prune --config "$configs/prune.toml" --set "run.directory=$folder/cut" --set "train.steps=$masks" \
    --set eval.every_steps=20 "${seeded[@]}" "$@" >/dev/null
  "$shearling" pretrain --config "$configs/continue.toml" --set "run.directory=$folder/continued" \
    --set "model.source=$folder/cut/pruned" --set "train.steps=$steps" --set "train.warmup_steps=$((steps / 20))" \
    --set eval.every_steps=100 "${seeded[@]}" "${taught[@]}" >/dev/null
}
for seed in ${SEEDS:-0 1 2}; do
  plain=(--set prune.method=activations --set prune.basis=units --set prune.norm_gain=false)
  compare activations 60 400 no "${plain[@]}"
  compare principal 60 400 no --set prune.method=activations
  compare activations-taught 60 400 yes "${plain[@]}"
  compare principal-taught 60 400 yes --set prune.method=activations
  compare taylor-taught 60 400 yes --set prune.method=taylor
  compare top-k 100 300 no --set masks.preset=top-k
  compare llm-shearing 200 200 no
  compare unbiased 60 60 no --set masks.count=unbiased
  compare anti-windup 60 60 no --set masks.anti_windup=true
  compare anti-windup-unbiased 60 60 no --set masks.anti_windup=true --set masks.count=unbiased
  compare no-noise 60 60 no --set masks.noise=none
  deterministic=(--set masks.preset=deterministic)
  compare deterministic 60 60 no "${deterministic[@]}"
  compare deterministic-1 60 60 no "${deterministic[@]}" --set masks.largest_gate=1
  compare deterministic-principal 60 60 no "${deterministic[@]}" --set prune.basis=principal
  frozen=(--set masks.preset=top-k --set masks.frozen_weights=true)
  compare top-k-frozen 60 60 no "${frozen[@]}"
  compare top-k-frozen-20 20 100 no "${frozen[@]}"
  compare top-k-frozen-380 20 380 no "${frozen[@]}"
done
for folder in longer/*/continued; do
  echo "$(dirname "$folder") $("$shearling" eval --json --data data --rows 64 "$folder/model" 2>/dev/null | python3 -c 'import json,sys; print(json.load(sys.stdin)["models"][0]["mean_loss"])')"
done
