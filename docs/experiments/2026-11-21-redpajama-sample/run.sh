#!/usr/bin/env bash
# Repeats the experiment: run.sh TEXT WORK, with one folder of JSONL per domain in TEXT; everything is written to WORK.
# TOKENIZER=FILE uses that tokenizer.json instead of a BPE of 4,096 trained on the text; SEEDS="0 1 2"; ROWS validation
# rows per domain are evaluated at the end. Overrides ("--set a.b=c ..."): SET for every run, SOURCE_SET, PRUNE_SET,
# RECOVER_SET, and BOTH_SET for the two baselines. SHEARLING names the binary.
set -euo pipefail
configs=$(cd "$(dirname "$0")" && pwd)
shearling=${SHEARLING:-shearling}
text=$(cd "$1" && pwd)
mkdir -p "$2"
cd "$2"
tokenizer=(--train-tokenizer 4096)
[ -z "${TOKENIZER:-}" ] || tokenizer=(--tokenizer "$TOKENIZER")
read -ra set <<<"${SET:-}"
read -ra source_set <<<"${SOURCE_SET:-}"
read -ra prune_set <<<"${PRUNE_SET:-}"
read -ra recover_set <<<"${RECOVER_SET:-}"
read -ra both_set <<<"${BOTH_SET:-}"

[ -d data ] || "$shearling" data prepare --from "$text" --out data --sequence-length 256 "${tokenizer[@]}"
if [ ! -d source/model ]; then
  "$shearling" pretrain --config "$configs/source.toml" "${set[@]}" "${source_set[@]}"
fi
[ -f references.json ] || "$shearling" eval source/model --data data --write-reference references.json

for seed in ${SEEDS:-0 1 2}; do
  mkdir -p "seed-$seed"
  at() { echo "--set run.directory=seed-$seed/$1 --set run.seed=$seed"; }
  "$shearling" prune --config "$configs/prune.toml" $(at prune) "${set[@]}" "${prune_set[@]}"
  "$shearling" pretrain --config "$configs/continue.toml" $(at recover) \
    --set "model.source=seed-$seed/prune/pruned" "${set[@]}" "${recover_set[@]}"
  "$shearling" pretrain --config "$configs/scratch.toml" $(at scratch) "${set[@]}" "${both_set[@]}"
  "$shearling" prune --config "$configs/prune.toml" $(at one-shot) --set prune.method=magnitude "${set[@]}"
  "$shearling" pretrain --config "$configs/continue.toml" $(at one-shot-continued) \
    --set "model.source=seed-$seed/one-shot/pruned" --set train.steps=400 "${set[@]}" "${both_set[@]}"
  "$shearling" eval --json --data data --rows "${ROWS:-1000}" source/model "seed-$seed/prune/pruned" "seed-$seed/recover/model" \
    "seed-$seed/scratch/model" "seed-$seed/one-shot-continued/model" >"seed-$seed/losses.json"
done
