# Everything on a fresh machine with Rust, a C++ compiler and python3 + pip.
#   make demo   the whole job on generated text, in minutes
#   make test   all tests
#   make test-network   ranks on two machines (network namespaces) with a slow and a cut network; skips without root, ip and tc
#   make test-browser   reports in a real headless Chromium; says so and skips where there is none
#   make bench-peer   our training step against PyTorch's, in turn; about an hour (ARGS="--only small,bf16,prune" for less)
#   make gpu-binary   the stripped binary that tests/bench/gpu.sh runs on a machine with a GPU

CARGO ?= cargo

.PHONY: demo test test-browser test-network lint libtorch nvrtc bench-peer gpu-binary

demo: libtorch
	$(CARGO) build --release --bin shearling
	rm -rf runs/make-demo
	./target/release/shearling demo --out runs/make-demo

test: libtorch nvrtc
	$(CARGO) test --workspace

test-browser: libtorch
	CARGO="$(CARGO)" python3 tests/browser/run.py

test-network: libtorch
	$(CARGO) build --bin shearling
	python3 tests/network/run.py

lint: libtorch
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets -- -D warnings

bench-peer: libtorch
	$(CARGO) build --release --bin shearling
	python3 tests/bench/peer/compare.py $(ARGS)

gpu-binary: libtorch
	CARGO="$(CARGO)" tests/bench/gpu_pack.sh

# Downloads libtorch 2.11.0 unless LIBTORCH or a Python torch of that version is there, and links it as .libtorch.
libtorch:
	@python3 .cargo/libtorch.py

# Downloads NVRTC, with which the tests compile the kernels of a GPU; says so and goes on where it cannot be had.
nvrtc:
	@python3 .cargo/nvrtc.py
