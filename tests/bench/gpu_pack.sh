#!/usr/bin/env bash
# Builds the binary that gpu.sh takes to a machine with a GPU: release, stripped, under 40 MiB, at ./shearling-gpu.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/../.."
LIMIT_BYTES=$((40 * 1024 * 1024))

"${CARGO:-cargo}" build --release --bin shearling
strip -o shearling-gpu "${CARGO_TARGET_DIR:-target}/release/shearling"
size=$(wc -c <shearling-gpu)
if ((size > LIMIT_BYTES)); then
    rm shearling-gpu
    echo "error: the stripped binary has $size bytes, the limit is $LIMIT_BYTES" >&2
    exit 1
fi
./shearling-gpu --version
# The other machine's system libraries must be at least as new.
newest=$(objdump -T shearling-gpu | grep -oE 'GLIBC(XX)?_[0-9.]+' | sort -Vu |
    awk -F_ '{ last[$1] = $2 } END { for (name in last) printf " %s %s", name, last[name] }')
echo "shearling-gpu: $size bytes; needs at least$newest"
