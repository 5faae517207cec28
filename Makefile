# Everything on a fresh machine with Rust, a C++ compiler and python3 + pip.
#   make demo   the whole job on generated text, in minutes
#   make test   all tests

CARGO ?= cargo

.PHONY: demo test lint libtorch

demo: libtorch
	$(CARGO) build --release --bin shearling
	rm -rf runs/make-demo
	./target/release/shearling demo --out runs/make-demo

test: libtorch
	$(CARGO) test --workspace

lint: libtorch
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets -- -D warnings

# Downloads libtorch 2.11.0 unless LIBTORCH or a Python torch of that version is there, and links it as .libtorch.
libtorch:
	@python3 .cargo/libtorch.py
