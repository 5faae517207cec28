#!/usr/bin/env bash
# Repeats the comparison on the small source: run.sh WORK, with WORK/data and WORK/source/model as
# ../2026-11-21-redpajama-sample/run.sh makes them. SHEARLING names the binary, SEEDS the seeds. Every model sees the rows of
# 120 steps: learned masks take 60 of them. A table is printed at the end.
set -euo pipefail
configs=$(cd "$(dirname "$0")" && pwd)
shearling=${SHEARLING:-shearling}
cd "$1"
for seed in ${SEEDS:-0 1 2}; do
  compare() { # NAME STEPS-LEFT OVERRIDES...
    local name=$1 steps=$2 folder=methods/$1-$seed
    shift 2
    [ ! -d "$folder/continued/model" ] || return 0
    rm -rf "$folder"
    local seeded=(--set "run.seed=$seed")
    "$shearling" prune --config "$configs/prune.toml" --set "run.directory=$folder/cut" "${seeded[@]}" "$@" >/dev/null
    "$shearling" pretrain --config "$configs/continue.toml" --set "run.directory=$folder/continued" \
      --set "model.source=$folder/cut/pruned" --set "train.steps=$steps" "${seeded[@]}" >/dev/null
  }
  compare magnitude 120 --set prune.method=magnitude --set prune.norm_gain=false
  compare activations 120 --set prune.method=activations --set prune.basis=units --set prune.norm_gain=false
  compare activations-gain 120 --set prune.method=activations --set prune.basis=units
  compare activations-principal 120 --set prune.method=activations --set prune.basis=principal
  compare taylor-principal 120 --set prune.method=taylor --set prune.basis=principal
  compare llm-shearing 60
  compare top-k-principal 60 --set masks.preset=top-k --set prune.basis=principal
done
for folder in methods/*/continued; do
  echo "$(dirname "$folder") $("$shearling" eval --json --data data --rows 64 "$folder/model" 2>/dev/null | python3 -c 'import json,sys; print(json.load(sys.stdin)["models"][0]["mean_loss"])')"
done
