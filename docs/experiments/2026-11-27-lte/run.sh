#!/usr/bin/env bash
# Repeats the comparison on the small source: run.sh WORK, with WORK/data and WORK/source/model as
# ../2026-11-21-redpajama-sample/run.sh makes them. SHEARLING names the binary, SEEDS the seeds; ROUTES picks rows by name.
# Every model sees the same rows. A table of name, mean held-out loss and density is printed at the end. The rows of a threshold
# without training need PYTHON with torch, transformers and pyarrow; without it they are left out.
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
  train_dense() { # NAME SOURCE
    local folder=lte/$1-$seed
    [[ " ${ROUTES:-$1} " == *" $1 "* && ! -d $folder/model ]] || return 0
    rm -rf "$folder"
    sed '/^\[lte\]/,/^expert_size/d' "$configs/lte.toml" > lte/dense-$seed.toml
    "$shearling" pretrain --config lte/dense-$seed.toml --set "run.directory=$folder" --set "run.seed=$seed" \
      --set "model.source=$2" >/dev/null
  }
  narrower() { # DENSITY INTERMEDIATE: reads as many bytes a token as experts at that density and their routers do
    [[ " ${ROUTES:-static-$1} " == *" static-$1 "* && ! -d lte/static-$1-$seed/model ]] || return 0
    rm -rf "lte/cut-$1-$seed"
    "$shearling" prune --config "$configs/narrower.toml" --set "run.directory=lte/cut-$1-$seed" --set "run.seed=$seed" \
      --set "target.intermediate_size=$2" >/dev/null
    train_dense "static-$1" "lte/cut-$1-$seed/pruned"
  }
  taught_pruned() { # NAME DENSITY: a source with half of its intermediate units, of which a part runs
    [[ " ${ROUTES:-$1} " == *" $1 "* && ! -d lte/$1-$seed/model ]] || return 0
    if [ ! -d "lte/cut-half-$seed/pruned" ]; then
      "$shearling" prune --config "$configs/narrower.toml" --set "run.directory=lte/cut-half-$seed" --set "run.seed=$seed" \
        --set target.intermediate_size=176 >/dev/null
    fi
    teach "$1" --set "model.source=lte/cut-half-$seed/pruned" --set "lte.density=$2"
  }
  train_dense dense source/model
  teach half-random --set lte.grouping=random
  teach half-co-activation --set lte.grouping=co-activation
  teach paper --set lte.mode=paper
  for density in 75 50 40 30 20 10; do
    teach "$density" --set "lte.density=0.$density"
    teach "$density-frozen" --set "lte.density=0.$density" --set lte.router_steps=0
    teach "$density-falling" --set "lte.density=0.$density" --set lte.density_steps=20
  done
  few=(--set lte.density=0.2)
  teach 20-frozen-falling "${few[@]}" --set lte.router_steps=0 --set lte.density_steps=20
  for rows in 16 256; do
    teach "20-frozen-rows-$rows" "${few[@]}" --set lte.router_steps=0 --set "lte.calibration_rows=$rows"
  done
  teach 20-to-the-end "${few[@]}" --set lte.router_steps=80
  teach 20-soft "${few[@]}" --set lte.forward=soft
  for rate in 5e-5 1e-3 5e-3; do
    teach "20-rate-$rate" "${few[@]}" --set "lte.router_learning_rate=$rate"
  done
  narrower 75 271
  narrower 50 183
  narrower 40 148
  narrower 30 113
  narrower 20 78
  narrower 10 42
  taught_pruned pruned-30 0.6
  taught_pruned pruned-20 0.4
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
if [ -n "${PYTHON:-}" ]; then
  for seed in ${SEEDS:-0 1 2}; do
    "$PYTHON" "$configs/threshold.py" "lte/dense-$seed/model" data 64 0.75 0.5 0.4 0.3 0.2 0.1 | sed "s/^/lte\/threshold-$seed /"
  done
fi
