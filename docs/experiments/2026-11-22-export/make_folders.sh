#!/bin/sh
# Prunes every model of make_sources.py with learned masks: the folders that the other scripts try.
#
#   make_folders.sh SHEARLING SOURCES TEXT WORK        TEXT: a folder with one folder of text per domain
set -eu
shearling=$1 sources=$2 text=$3 work=$4
here=$(dirname "$0")
for source in "$sources"/*/; do
    name=$(basename "$source")
    kind=byte-level
    [ "$name" = llama2 ] && kind=llama2
    if [ ! -d "$work/data-$kind" ]; then
        "$shearling" data prepare --from "$text" --tokenizer "$source/tokenizer.json" --sequence-length 64 \
            --out "$work/data-$kind"
    fi
    # llama2 has a KV head for every head; the others keep two queries per KV head.
    kv=1
    [ "$name" = llama2 ] && kv=2
    hidden=40 heads=2
    if [ "$name" = qwen2-square ]; then
        hidden=32 heads=4 kv=2
    fi
    "$shearling" prune --config "$here/prune.toml" --device cpu --set "run.directory=$work/$name" \
        --set "model.source=$source" --set "data.path=$work/data-$kind" --set "target.hidden_size=$hidden" \
        --set "target.num_attention_heads=$heads" --set "target.num_key_value_heads=$kv"
done
"$shearling" export "$work/llama2" --out "$work/llama2-bf16" --dtype bf16
