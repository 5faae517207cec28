//! The one integration test binary: what a user sees, from the command line and through the library.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod integration {
    pub mod advice;
    pub mod architecture;
    pub mod bench_step;
    pub mod cli;
    pub mod configs;
    pub mod decoding;
    pub mod deep_gradients;
    pub mod distillation;
    pub mod divergence;
    pub mod domain_mix;
    pub mod evaluation;
    pub mod formats;
    pub mod frozen_weights;
    pub mod generate;
    pub mod golden;
    pub mod gpu_kernels;
    pub mod init;
    pub mod inspect;
    pub mod interrupts;
    pub mod loss_curves;
    pub mod lte_group;
    pub mod lte_pack;
    pub mod lte_seen;
    pub mod lte_train;
    pub mod many_ranks;
    pub mod model_folders;
    pub mod parity;
    pub mod plan;
    pub mod planted_faults;
    pub mod planted_run;
    pub mod prune_round_trip;
    pub mod report;
    pub mod report_compare;
    pub mod resume;
    pub mod run_life;
    pub mod scores;
    pub mod support;
    pub mod targets;
    pub mod tensorboard;
    pub mod threads;
    pub mod training;
    pub mod via;
    pub mod watch;
    pub mod wrong_input;
}
