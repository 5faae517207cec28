//! Examples at the end of a command's `--help`.

pub(super) const PREPARE: &str = "\
Examples:
  shearling data prepare --from text --tokenizer models/smollm2/tokenizer.json --sequence-length 2048 --out data/rows
  shearling data prepare --domain wiki=wiki.jsonl --domain code=src,more.parquet --tokenizer tokenizer.json --out data/rows
";

pub(super) const PLAN: &str = "\
Examples:
  shearling plan --config prune.toml
  shearling plan --config prune.toml --set train.steps=200 --tokens-per-second 1500
  shearling plan --config prune.toml --card h100 --nodes 2 --gpus 8 --network 50GB/s
  shearling plan models/llama2-7b --target-params 1.3B --card h100
  shearling plan models/llama2-7b --target-memory 4GiB --context 8192 --pick 3
  shearling plan models/llama2-7b/config.json --target-latency 20ms --bandwidth 45GB/s
  shearling plan models/smollm2 --target-params 51M --rank 3 --data data/smollm2
";

pub(super) const PRUNE: &str = "\
Examples:
  shearling prune --config prune.toml
  shearling prune --config prune.toml --set run.directory=runs/second --set prune.method=taylor
  shearling prune --resume runs/prune
";

pub(super) const PRETRAIN: &str = "\
Examples:
  shearling pretrain --config continue.toml
  shearling pretrain --config continue.toml --set model.source=runs/prune/pruned --tensorboard
  shearling pretrain --resume runs/continue
";

pub(super) const EXPORT: &str = "\
Examples:
  shearling export runs/continue --out models/small
  shearling export runs/prune@400 --out models/early --dtype bf16
";

pub(super) const EVAL: &str = "\
Examples:
  shearling eval models/source runs/prune/pruned runs/continue --data data/rows --out eval.json
  shearling eval models/source --data data/rows --rows 64 --write-reference reference.json
  shearling eval runs/continue --task hellaswag.jsonl --task easy=arc:arc_easy.jsonl --limit 500
";

pub(super) const REPORT: &str = "\
Examples:
  shearling report runs/prune runs/continue -o report.html
  shearling report runs/prune runs/continue --eval eval.json --latency latency.json -o report.html
  shearling report runs/prune --serve
";

pub(super) const GENERATE: &str = "\
Examples:
  shearling generate runs/continue --prompt \"The capital of France is\"
  shearling generate models/small --prompt \"Once\" --temperature 0.8 --top-p 0.95 --seed 3
  shearling generate models/small --prompt-file question.txt --stop \"Question:\" --json
";

pub(super) const BENCH_STEP: &str = "\
Examples:
  shearling bench step --shape small --dtype bf16
  shearling bench step --config prune.toml --steps 3
";

pub(super) const BENCH_LATENCY: &str = "\
Examples:
  shearling bench latency models/source runs/prune/pruned --out latency.json
  shearling bench latency --shape base --shape base:target --threads 1
";

pub(super) const DEMO: &str = "\
Examples:
  shearling demo
  shearling demo --data text --scale 4 --out runs/mine
";
