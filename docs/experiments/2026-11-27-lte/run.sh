#!/usr/bin/env bash
# Repeats the comparison on the small source: run.sh WORK, with WORK/data and WORK/source/model as
# ../2026-11-21-redpajama-sample/run.sh makes them. SHEARLING names the binary, SEEDS the seeds; ROUTES picks rows by name.
# Every model sees the same rows. A table of name, mean held-out loss over the dense source's and density is printed at the end.
set -euo pipefail
configs=$(cd "$(dirname "$0")" && pwd)
shearling=${SHEARLING:-shearling}
cd "$1"
mkdir -p lte
for seed in ${SEEDS:-0 1 2}; do
  teach() { # NAME OVERRIDES...
    local name=$1 folder=lte/$1-$seed
    shift
    [[ " ${ROUTES:-$name} " == *" $name "* ]] || return 0
    [ ! -d "$folder/model" ] || return 0
    rm -rf "$folder"
    "$shearling" lte train --config "$configs/lte.toml" --set "run.directory=$folder" --set "run.seed=$seed" "$@" >/dev/null
  }
  if [[ " ${ROUTES:-dense} " == *" dense "* && ! -d lte/dense-$seed/model ]]; then
    rm -rf "lte/dense-$seed"
    sed '/^\[lte\]/,/^expert_size/d' "$configs/lte.toml" > lte/dense.toml
    "$shearling" pretrain --config lte/dense.toml --set "run.directory=lte/dense-$seed" --set "run.seed=$seed" >/dev/null
  fi
  teach half
  teach half-frozen --set lte.router_steps=0
  teach half-at-once --set lte.density_steps=0
  teach half-fast --set lte.router_learning_rate=5e-3
  teach half-slow --set lte.router_learning_rate=5e-4
  teach half-random --set lte.grouping=random
  teach paper --set lte.mode=paper
  teach 70 --set lte.density=0.7
  teach 30 --set lte.density=0.3
  teach 20 --set lte.density=0.2
done
for folder in lte/*/model; do
  rows=(--data data --rows 64 --json)
  if [ -f "$folder/lte.safetensors" ]; then
    "$shearling" lte eval "$folder" --dense source/model "${rows[@]}" 2>/dev/null |
      python3 -c 'import json,sys; r=json.load(sys.stdin); print(sys.argv[1], round(r["mean"]["loss"],4), round(100*r["density"],1))' "$folder"
  else
    "$shearling" eval "${rows[@]}" "$folder" 2>/dev/null |
      python3 -c 'import json,sys; r=json.load(sys.stdin); print(sys.argv[1], round(r["models"][0]["mean_loss"],4), 100)' "$folder"
  fi
done
