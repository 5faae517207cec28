#!/usr/bin/env bash
# What a machine with a GPU can tell, part by part: correctness of the CUDA paths, speed and memory of the real sizes
# beside the PyTorch peer. Needs a Python with torch 2.11 and transformers, and the binary of `make gpu-binary`; no
# compiler, no network. A part ends within eight minutes.
#
#   tests/bench/gpu.sh PART...      results in $OUT: PART.jsonl (one line per measurement), PART.log
#
#   doctor          the machine, the versions, whether the binary starts and sees the GPU
#   check           every fast kernel and three steps of pruning, CUDA against CPU
#   ceilings        rate of a large matrix product and bandwidth of a copy: what no step can exceed
#   prune-7b        ours: a prune step of the 7B shape, 32 rows of 4,096 tokens by accumulation
#   peer-7b         the same in PyTorch
#   versus-7b       both in turn, twice
#   pretrain-2.7b   a plain step of the pruned sizes, ours and transformers' (eager, compiled)
#   pretrain-1.3b
#   latency         prompt and answer of 7B, 2.7B and 1.3B, ours and transformers' forward with its cache
#   profile         time by phase of prune steps, and by kernel of one step of the 1.3B shape where ncu is there
#
# Environment: SHEARLING (./shearling-gpu), PYTHON (python3), OUT (runs/gpu), ROWS (32), STEPS (3), WARMUP (1),
# BUDGET_SECONDS (470) of one part, SHAPES (7b 2.7b 1.3b) of the latency part;
# SHEARLING_ARGS, PEER_ARGS: more arguments for `shearling bench step` and for peer/step.py.
#
# A failure inside a part does not end the script (`set -e` does not reach there): parts look at what they run.
set -euo pipefail

FOLDER=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
SHEARLING=${SHEARLING:-./shearling-gpu}
PYTHON=${PYTHON:-python3}
OUT=${OUT:-runs/gpu}
ROWS=${ROWS:-32}
STEPS=${STEPS:-3}
WARMUP=${WARMUP:-1}
read -ra MORE_OURS <<<"${SHEARLING_ARGS:-}"
read -ra MORE_PEER <<<"${PEER_ARGS:-}"
BUDGET_SECONDS=${BUDGET_SECONDS:-470} # of one part

# Both sides use the same allocator of libtorch; whole 7B states fit only without fragmentation.
export PYTORCH_CUDA_ALLOC_CONF=${PYTORCH_CUDA_ALLOC_CONF:-expandable_segments:True}

say() { printf '[%4d s] %s\n' "$((SECONDS - PART_START))" "$*"; }

# Stops a command that would outlast the part.
limited() {
    local left=$((BUDGET_SECONDS - (SECONDS - PART_START)))
    if ((left < 20)); then
        say "no time left in this part for: $*" >&2
        return 124
    fi
    timeout --kill-after=10 "$left" "$@"
}

ours() { LD_LIBRARY_PATH="$TORCH_LIB${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}" limited "$SHEARLING" "$@"; }

peer() { limited "$PYTHON" "$FOLDER/peer/step.py" "$@"; }

# record NAME COMMAND...: runs it and keeps the JSON that it prints, also that of a check that fails or of a command that
# has said its result and does not end (compiled models are slow to tear down).
record() {
    local name=$1 status=0
    shift
    say "$name: $*"
    "$@" >"$OUT/.stdout" || status=$?
    if ((status == 0)) || [[ -s $OUT/.stdout ]]; then
        ((status != 124)) || status=0
        "$PYTHON" "$FOLDER/gpu_record.py" add "$OUT/$PART.jsonl" "$name" "$*" <"$OUT/.stdout" || status=1
    fi
    rm -f "$OUT/.stdout"
    ((status == 0)) || say "$name: exit code $status"
    return "$status"
}

# first_that_fits NAME "OPTIONS" "OPTIONS"... -- COMMAND...: the command with the first options that it survives.
first_that_fits() {
    local name=$1 candidates=() options words
    shift
    while [[ $1 != -- ]]; do
        candidates+=("$1")
        shift
    done
    shift
    for options in "${candidates[@]}"; do
        read -ra words <<<"$options"
        if record "$name" "$@" "${words[@]}"; then
            FITTING=$options
            return 0
        fi
        if ((BUDGET_SECONDS - (SECONDS - PART_START) < 20)); then
            say "$name: the time of this part is over"
            return 124
        fi
        say "$name does not run with: $options"
    done
    say "$name: nothing fits"
    return 1
}

OURS_7B=("--activation-checkpointing 1 --micro-rows 1" "--activation-checkpointing 1 --micro-rows 1 --moments-bf16"
    "--activation-checkpointing 1 --micro-rows 1 --moments-on-host")
# The peer may take more rows at a time: it then casts its fp32 weights less often.
PEER_7B=("--checkpointing --micro-rows 4" "--checkpointing --micro-rows 2" "--checkpointing --micro-rows 1"
    "--checkpointing --micro-rows 1 --pure-bf16")

ours_step() {
    ours bench step --device cuda --json --dtype bf16 --tokens 4096 --rows "$ROWS" --steps "$STEPS" \
        --warmup "$WARMUP" "${MORE_OURS[@]}" "$@"
}

peer_step() {
    peer --device cuda --json --dtype bf16 --tokens 4096 --rows "$ROWS" --steps "$STEPS" --warmup "$WARMUP" \
        "${MORE_PEER[@]}" "$@"
}

part_doctor() {
    nvidia-smi || say "nvidia-smi does not run"
    "$PYTHON" -c \
        'import sys, torch; print("python", sys.version.split()[0], "torch", torch.__version__, "CUDA", torch.cuda.is_available())'
    "$PYTHON" -c 'import transformers; print("transformers", transformers.__version__)' ||
        say "no transformers: its measurements will be missing"
    ls -l "$SHEARLING"
    say "libraries that the binary misses (none is right):"
    LD_LIBRARY_PATH="$TORCH_LIB" ldd "$SHEARLING" | grep 'not found' || true
    ours doctor --device cuda
}

part_check() { record "check" ours bench check --device cuda --json; }

part_ceilings() { record "ceilings" limited "$PYTHON" "$FOLDER/ceilings.py"; }

part_prune-7b() {
    first_that_fits "shearling 7b masked" "${OURS_7B[@]}" -- ours_step --shape 7b --masks on
}

part_peer-7b() {
    first_that_fits "peer 7b masked" "${PEER_7B[@]}" -- peer_step --shape 7b --model masked
}

part_versus-7b() {
    local STEPS=2 ours_options peer_options
    part_prune-7b || return 1
    ours_options=$FITTING
    part_peer-7b || return 1
    peer_options=$FITTING
    first_that_fits "shearling 7b masked" "$ours_options" -- ours_step --shape 7b --masks on &&
        first_that_fits "peer 7b masked" "$peer_options" -- peer_step --shape 7b --model masked
}

# pretrain SHAPE MICRO_ROWS: nothing is recomputed where it fits, as for a user with one GPU of this size.
pretrain() {
    local shape=$1 rows=$2 status=0
    first_that_fits "shearling $shape plain" "--micro-rows $rows" "--micro-rows 1" \
        "--micro-rows $rows --activation-checkpointing 1" -- ours_step --shape "$shape" --masks off || status=$?
    for model in hf hf-compiled; do
        first_that_fits "peer $shape $model" "--micro-rows $rows" "--micro-rows 1" \
            "--micro-rows $rows --checkpointing" -- peer_step --shape "$shape" --model "$model" || status=$?
    done
    return "$status"
}

part_pretrain-2.7b() { pretrain 2.7b 2; }

part_pretrain-1.3b() { pretrain 1.3b 4; }

part_latency() {
    local lengths=(--dtype bf16 --prompt-tokens 2048 --new-tokens 128 --rounds 3) shapes=() shape status=0
    for shape in ${SHAPES:-7b 2.7b 1.3b}; do
        shapes+=(--shape "$shape")
    done
    record "shearling" ours bench latency --device cuda --json "${lengths[@]}" "${shapes[@]}" || status=$?
    for cache in static dynamic; do
        record "peer, $cache cache" limited "$PYTHON" "$FOLDER/peer/decode.py" --device cuda --json --cache "$cache" \
            "${lengths[@]}" "${shapes[@]}" || status=$?
    done
    return "$status"
}

part_profile() {
    local ROWS=4
    first_that_fits "shearling 7b masked, 4 rows" "${OURS_7B[@]}" -- ours_step --shape 7b --masks on || return 1
    if ! command -v ncu >/dev/null; then
        say "ncu is not here: no times by kernel"
        return 0
    fi
    # One metric, read in one pass; kernels run one after the other, so gaps between them do not show.
    say "times by kernel of one step: 1.3b, masked, 1 row"
    LD_LIBRARY_PATH="$TORCH_LIB" limited ncu --metrics gpu__time_duration.sum --clock-control none --csv --page raw \
        --print-units base "$SHEARLING" bench step --shape 1.3b --masks on --dtype bf16 --tokens 4096 --rows 1 \
        --steps 1 --warmup 0 --device cuda --json "${MORE_OURS[@]}" >"$OUT/.kernels.csv" || say "ncu: exit code $?"
    "$PYTHON" "$FOLDER/kernel_times.py" <"$OUT/.kernels.csv" || say "no kernel times in ncu's output"
    rm -f "$OUT/.kernels.csv"
}

run_part() {
    PART=$1
    PART_START=$SECONDS
    local status=0
    rm -f "$OUT/$PART.jsonl"
    say "part $PART begins"
    "part_$PART" || status=$?
    if [[ -s $OUT/$PART.jsonl ]]; then
        "$PYTHON" "$FOLDER/gpu_record.py" table "$OUT/$PART.jsonl"
    fi
    say "part $PART ends with exit code $status"
    return "$status"
}

main() {
    if (($# == 0)); then
        sed -n '2,/^# SHEARLING_ARGS/p' "${BASH_SOURCE[0]}" | sed 's/^# \{0,1\}//'
        exit 2
    fi
    if [[ ! -x $SHEARLING ]]; then
        echo "error: $SHEARLING is not there: make it with \`make gpu-binary\` and bring it along, or set SHEARLING" >&2
        exit 2
    fi
    TORCH_LIB=$("$PYTHON" -c 'import os, torch; print(os.path.join(os.path.dirname(torch.__file__), "lib"))')
    mkdir -p "$OUT"
    local part failed=0
    for part in "$@"; do
        if ! declare -F "part_$part" >/dev/null; then
            echo "error: there is no part $part" >&2
            exit 2
        fi
        (run_part "$part") 2>&1 | tee "$OUT/$part.log" || failed=1
    done
    exit "$failed"
}

main "$@"
