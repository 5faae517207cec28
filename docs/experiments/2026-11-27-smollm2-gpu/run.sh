#!/usr/bin/env bash
# Repeats the comparison on one GPU: run.sh WORK, with SmolLM2-135M-Instruct as a Hugging Face folder in WORK/smollm2 and WORK/data made by
#   shearling data prepare --from TEXT --tokenizer smollm2/tokenizer.json --sequence-length 1024 --out data
# SHEARLING names the binary, ROWS picks rows by name. All rows at once share a GPU well: one alone is far from filling it.
set -euo pipefail
configs=$(cd "$(dirname "$0")" && pwd)
shearling=${SHEARLING:-shearling}
cd "$1"

compare() { # NAME CUT-OVERRIDES... -- CONTINUE-OVERRIDES...
  local name=$1 cut=() continued=()
  shift
  [[ " ${ROWS:-$name} " == *" $name "* ]] || return 0
  while [ "$1" != -- ]; do
    cut+=(--set "$1")
    shift
  done
  shift
  for override in "$@"; do continued+=(--set "$override"); done
  {
    "$shearling" prune --config "$configs/cut.toml" --set "run.directory=$name/cut" "${cut[@]}" --threads 2
    "$shearling" pretrain --config "$configs/continue.toml" --set "run.directory=$name/continued" \
      --set "model.source=$name/cut/pruned" "${continued[@]}" --threads 2
  } >"$name.log" 2>&1 &
}

plain=(prune.basis=units prune.norm_gain=false)
taught=(distill.teacher=smollm2 distill.weight=0.5)
compare activations "${plain[@]}" --
compare principal --
compare activations-taught "${plain[@]}" -- "${taught[@]}"
compare principal-taught -- "${taught[@]}"
compare top-k prune.method=learned masks.preset=top-k train.steps=100 train.warmup_steps=5 -- train.steps=800
compare llm-shearing prune.method=learned masks.preset=llm-shearing -- train.steps=600 train.warmup_steps=18
if [[ " ${ROWS:-lte} " == *" lte "* ]]; then
  "$shearling" lte train --config "$configs/lte.toml" --threads 2 >lte.log 2>&1 &
  sed '/^\[lte\]/,/^density/d' "$configs/lte.toml" >dense.toml
  "$shearling" pretrain --config dense.toml --set run.directory=dense --threads 2 >dense.log 2>&1 &
fi
wait
grep -H "validation" ./*.log
