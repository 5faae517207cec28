#!/usr/bin/env bash
# What a machine with a GPU can tell, part by part: correctness of the CUDA paths, speed and memory of the real sizes
# beside the PyTorch peer. Needs a Python with torch 2.11 and transformers, and the binary of `make gpu-binary`; no
# compiler, no network.
#
#   tests/bench/gpu.sh all          every part in the order below, each with its own limit; 15 minutes in all
#   tests/bench/gpu.sh PART...      these, with eight minutes for each
#
# Results are in $OUT as soon as they are there: PART.jsonl (a line per measurement), PART.log. A part that hangs is killed
# at its limit and costs no other part anything.
#
#   check       45 s  every kernel and three steps of pruning, CUDA against CPU; kernels are compiled here, once
#   masked-1.3b 40 s  1.3B, 4 rows per micro-batch: masked and plain with kernels, masked without: what kernels and masks cost
#   decode      60 s  prompt and answer of a 7B and a 1.3B, with launches that overlap and without
#   experts     25 s  feed-forward of experts that are skipped, at several densities (LTE), and a whole 7B of them
#   profile     90 s  by kernel, where ncu is there: one step of the 1.3B shape, tokens of a 1.3B
#   versus-7b  150 s  a prune step of the 7B shape in turn with the PyTorch peer, first with nothing recomputed
#   small-7b    90 s  a 7B step in less memory: selective recomputation or all of it, moments in 8 bits, on the host
#   memory      60 s  ten configurations: predicted, allocated and reserved
#   peer-decode       transformers' forward with a static cache
#             100 s
#   pretrain-1.3b     a plain step beside transformers' (eager, compiled)
#             170 s
#   doctor      15 s  the machine, the versions, which path each operation takes
#   ceilings    30 s  rate of a large matrix product and bandwidth of a copy: what no step can exceed
#   pretrain-2.7b     a plain step beside transformers'; not in `all`
#   prune-7b, peer-7b the halves of versus-7b by themselves; not in `all`
#
# Environment: SHEARLING (./shearling-gpu), PYTHON (python3), OUT (runs/gpu), ROWS (16), STEPS (3), WARMUP (1),
# BUDGET_SECONDS (470) of one part, TOTAL_SECONDS (890) of `all`, SHAPES (7b 1.3b) of the decode parts;
# SHEARLING_ARGS, PEER_ARGS: more arguments for `shearling bench step` and for peer/step.py.
#
# A failure inside a part does not end the script (`set -e` does not reach there): parts look at what they run.
set -euo pipefail

FOLDER=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
SHEARLING=${SHEARLING:-./shearling-gpu}
PYTHON=${PYTHON:-python3}
OUT=${OUT:-runs/gpu}
ROWS=${ROWS:-16}
STEPS=${STEPS:-3}
WARMUP=${WARMUP:-1}
read -ra MORE_OURS <<<"${SHEARLING_ARGS:-}"
read -ra MORE_PEER <<<"${PEER_ARGS:-}"
BUDGET_SECONDS=${BUDGET_SECONDS:-470} # of one part
TOTAL_SECONDS=${TOTAL_SECONDS:-890}   # of all of them
# What is worth most comes first: a machine may be taken away.
ORDER=(check:45 masked-1.3b:40 decode:60 experts:25 profile:90 versus-7b:150 small-7b:90 memory:60 peer-decode:100
    pretrain-1.3b:170 doctor:15 ceilings:30)

# Both sides use the same allocator of libtorch; whole 7B states fit only without fragmentation.
export PYTORCH_CUDA_ALLOC_CONF=${PYTORCH_CUDA_ALLOC_CONF:-expandable_segments:True}

say() { printf '[%4d s] %s\n' "$((SECONDS - PART_START))" "$*"; }

# Stops a command that would outlast the part.
limited() {
    local left=$((BUDGET_SECONDS - (SECONDS - PART_START)))
    if ((left < 5)); then
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
        if ((BUDGET_SECONDS - (SECONDS - PART_START) < 5)); then
            say "$name: the time of this part is over"
            return 124
        fi
        say "$name does not run with: $options"
    done
    say "$name: nothing fits"
    return 1
}

# What plan says fits, dearest in memory first: nothing recomputed, moments in bf16 instead, every block recomputed.
OURS_7B=("--micro-rows 1" "--micro-rows 1 --moments bf16" "--activation-checkpointing 1 --micro-rows 1"
    "--activation-checkpointing 1 --micro-rows 1 --moments bf16")
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

part_masked-1.3b() {
    local status=0 masks ROWS=8
    for masks in on off; do
        record "shearling 1.3b masks $masks" ours_step --shape 1.3b --micro-rows 4 --masks "$masks" || status=$?
    done
    record "shearling 1.3b masks on, no kernels" ours_step --shape 1.3b --micro-rows 4 --masks on --no-kernels ||
        status=$?
    return "$status"
}

# Predicted against taken; the largest of them are measured by the other parts.
part_memory() {
    local status=0 masks options words ROWS=8 STEPS=1 WARMUP=1
    for masks in on off; do
        for options in "--micro-rows 4" "--micro-rows 2" "--micro-rows 4 --moments bf16" "--micro-rows 4 --moments 8bit" \
            "--micro-rows 8 --activation-checkpointing 1"; do
            read -ra words <<<"$options"
            record "1.3b masks $masks $options" ours_step --shape 1.3b --masks "$masks" "${words[@]}" || status=$?
        done
    done
    return "$status"
}

part_experts() {
    record "experts 7b, feed-forward" ours bench experts --shape 7b --device cuda --json
    record "experts 7b, whole" ours bench experts --shape 7b --device cuda --whole --rounds 32 --density 0.5,0.3 --json
}

part_prune-7b() {
    first_that_fits "shearling 7b masked" "${OURS_7B[@]}" -- ours_step --shape 7b --masks on
}

part_peer-7b() {
    first_that_fits "peer 7b masked" "${PEER_7B[@]}" -- peer_step --shape 7b --model masked || return 1
    FITTING_PEER=$FITTING
}

part_versus-7b() {
    local STEPS=2 ours_options
    part_prune-7b || return 1
    ours_options=$FITTING
    part_peer-7b || return 1
    # The ratio must not hang on one run; the peer's again where there is time.
    first_that_fits "shearling 7b masked, again" "$ours_options" -- ours_step --shape 7b --masks on || return 1
    first_that_fits "peer 7b masked, again" "$FITTING_PEER" -- peer_step --shape 7b --model masked || true
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

lengths_and_shapes() {
    local shape
    LENGTHS=(--dtype bf16 --prompt-tokens 2048 --new-tokens 128 --rounds 3)
    for shape in ${SHAPES:-7b 1.3b}; do
        LENGTHS+=(--shape "$shape")
    done
}

part_decode() {
    lengths_and_shapes
    local status=0
    record "shearling" ours bench latency --device cuda --json "${LENGTHS[@]}" || status=$?
    SHEARLING_NO_OVERLAP=1 record "shearling, launches one after the other" \
        ours bench latency --device cuda --json "${LENGTHS[@]}" || status=$?
    return "$status"
}

part_peer-decode() {
    lengths_and_shapes
    record "peer, static cache" limited "$PYTHON" "$FOLDER/peer/decode.py" --device cuda --json --cache static \
        "${LENGTHS[@]}"
}

part_small-7b() {
    local status=0 ROWS=16 STEPS=1 WARMUP=1 options words
    for options in "--selective-recomputation --moments 8bit" "--activation-checkpointing 1 --moments 8bit" \
        "--selective-recomputation" "--activation-checkpointing 1 --moments-on-host"; do
        read -ra words <<<"--micro-rows 1 $options"
        record "shearling 7b plain $options" ours_step --shape 7b --masks off "${words[@]}" || status=$?
    done
    return "$status"
}

# by_kernel NAME COMMAND...: the command's kernels under ncu. One metric, read in one pass; kernels run one after the other, so
# gaps between them do not show.
by_kernel() {
    local name=$1
    shift
    say "times by kernel: $name"
    LD_LIBRARY_PATH="$TORCH_LIB" limited ncu --metrics gpu__time_duration.sum --clock-control none --csv --page raw \
        --print-units base "$SHEARLING" "$@" --device cuda --json >"$OUT/.kernels.csv" || say "ncu: exit code $?"
    "$PYTHON" "$FOLDER/kernel_times.py" <"$OUT/.kernels.csv" || say "no kernel times in ncu's output"
    rm -f "$OUT/.kernels.csv"
}

part_profile() {
    if ! command -v ncu >/dev/null; then
        say "ncu is not here: no times by kernel"
        return 0
    fi
    by_kernel "one step, 1.3b, masked, 1 row" bench step --shape 1.3b --masks on --dtype bf16 --tokens 4096 --rows 1 \
        --steps 1 --warmup 0 "${MORE_OURS[@]}"
    by_kernel "a few tokens, 1.3b" bench latency --shape 1.3b --dtype bf16 --prompt-tokens 512 --new-tokens 4 --rounds 1
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

# Every part in a process of its own, which is killed at the part's limit whatever it does.
run_all() {
    local entry part limit left failed=0
    for entry in "${ORDER[@]}"; do
        part=${entry%:*} limit=${entry#*:} left=$((TOTAL_SECONDS - SECONDS))
        ((limit <= left)) || limit=$left
        if ((limit < 15)); then
            echo "no time left for $part" >&2
            failed=1
            continue
        fi
        BUDGET_SECONDS=$limit timeout --kill-after=5 $((limit + 5)) "${BASH_SOURCE[0]}" "$part" || failed=1
    done
    return "$failed"
}

main() {
    if (($# == 0)); then
        sed -n '2,/^# SHEARLING_ARGS/p' "${BASH_SOURCE[0]}" | sed 's/^# \{0,1\}//'
        exit 2
    fi
    if [[ $1 == all ]]; then
        run_all
        exit
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
