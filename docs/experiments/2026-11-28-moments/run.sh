#!/usr/bin/env bash
# Repeats the experiment: run.sh SAMPLE MODEL TEXT WORK, with the RedPajama sample in SAMPLE, SmolLM2-135M in MODEL and one folder of
# text per domain in TEXT; everything is written to WORK. SHEARLING names the binary, SEEDS the seeds of the small model. Two
# tables of model and mean held-out loss are printed at the end.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
configs=$here/../../../configs
shearling=${SHEARLING:-shearling}
sample=$(cd "$1" && pwd)
model=$(cd "$2" && pwd)
text=$(cd "$3" && pwd)
mkdir -p "$4"
cd "$4"

train() { # FOLDER ARGUMENTS...
  [ ! -d "$1/model" ] || return 0
  rm -rf "$1"
  "$shearling" pretrain --set "run.directory=$1" --set eval.every_steps=1000 --set run.dtype=fp32 "${@:2}"
}

# From scratch: the model of ../2026-11-21-redpajama-sample, 150 of its 1,000 steps.
[ -d sample ] || "$shearling" data prepare --from "$sample" --out sample --sequence-length 256 --train-tokenizer 4096
small=()
for seed in ${SEEDS:-0 1 2}; do
  for moments in fp32 bf16 8bit; do
    train "small/$moments-$seed" --config "$here/../2026-11-21-redpajama-sample/source.toml" --set data.path=sample \
      --set train.steps=150 --set "train.moments=$moments" --set "run.seed=$seed"
    small+=("small/$moments-$seed/model")
  done
done

# A real model, cut and trained on.
[ -d data ] || "$shearling" data prepare --from "$text" --out data --sequence-length 256 --tokenizer "$model"
[ -d cut/pruned ] || "$shearling" prune --config "$configs/smollm2-135m-to-51m.toml" --set run.directory=cut \
  --set "model.source=$model" --set data.path=data
real=()
for moments in fp32 bf16 8bit; do
  train "real/$moments" --config "$configs/smollm2-135m-to-51m-continue.toml" --set data.path=data --set model.source=cut/pruned \
    --set train.steps=60 --set checkpoint.every_steps=1000 --set "train.moments=$moments"
  real+=("real/$moments/model")
done

"$shearling" eval --data sample --rows 64 "${small[@]}"
"$shearling" eval --data data --rows 8 "${real[@]}"
