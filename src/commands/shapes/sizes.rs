//! Which sizes a small model may have: multiples that hardware and other tools take, heads that form equal groups and that a
//! hidden size goes with.

use crate::hf::ModelConfig;
use crate::train::setup::{check_loads_elsewhere, loads_in_some_only};
use shearling_masks::Shape;

/// Units that the source's sizes have at least: a hidden size has few that heads divide, the MLP width makes up for it.
const HIDDEN_UNITS: i64 = 8;
const INTERMEDIATE_UNITS: i64 = 16;
/// Products of such sides are fastest on GPUs; quantised formats have blocks of 32 to 128.
const LARGEST_UNIT: i64 = 128;

/// Hidden sizes up to the source's: multiples of its unit, and its own.
pub(super) fn hidden_sizes(source: &Shape) -> Vec<i64> {
    let unit = hidden_unit(source);
    let mut sizes: Vec<i64> = (1..=source.hidden_size / unit).map(|units| units * unit).collect();
    sizes.extend(Some(source.hidden_size).filter(|size| size % unit != 0));
    sizes
}

/// What a hidden size should be a multiple of.
pub(super) fn hidden_unit(source: &Shape) -> i64 {
    unit(source.hidden_size, HIDDEN_UNITS)
}

/// What an MLP width should be a multiple of.
pub(super) fn intermediate_unit(source: &Shape) -> i64 {
    unit(source.intermediate_size, INTERMEDIATE_UNITS)
}

/// 128, or less where the source would have fewer than `least` of them: 64, 32, …
fn unit(size: i64, least: i64) -> i64 {
    let mut unit = LARGEST_UNIT;
    while unit > 1 && unit * least > size {
        unit /= 2;
    }
    unit
}

/// Numbers of query and key/value heads that the source can be pruned to. With `any_kv` also those that do not divide the
/// source's.
pub(super) fn heads(source: &Shape, any_kv: bool) -> Vec<(i64, i64)> {
    let (kv, group) = (source.num_key_value_heads, source.group_size());
    // Without groups any number is as good as another; with them tools want to divide the key/value heads evenly.
    let even = |kept: &i64| any_kv || group == 1 || kv % kept == 0;
    let kept = (1..=kv).filter(even);
    kept.flat_map(|kept| (1..=group).map(move |size| (kept * size, kept))).collect()
}

/// Whether other tools load that hidden size with so many heads, as far as they load the source.
pub(super) fn loads(model: &ModelConfig, hidden_size: i64, heads: i64) -> bool {
    let model_with = |hidden_size, num_attention_heads| ModelConfig {
        hidden_size,
        num_attention_heads,
        sliding_window: Vec::new(),
        eos_token_ids: Vec::new(),
        ..*model
    };
    let everywhere = |model: &ModelConfig| loads_in_some_only(model).is_none();
    let small = model_with(hidden_size, heads);
    check_loads_elsewhere(&small).is_ok() && (everywhere(&small) || !everywhere(model))
}

#[cfg(test)]
mod tests {
    use super::super::test_models::{all, llama2_7b, llama3_8b, qwen2, smollm2};
    use super::*;
    use crate::prune::shape::source_shape;

    #[test]
    fn units_are_large_where_there_is_choice() {
        let units = |model: &ModelConfig| {
            let source = source_shape(model);
            (hidden_unit(&source), intermediate_unit(&source))
        };
        assert_eq!(units(&llama2_7b()), (128, 128));
        assert_eq!(units(&smollm2()), (64, 64), "576 has 9 times 64, 1,536 has 24");
        let mut odd = llama2_7b();
        (odd.hidden_size, odd.intermediate_size) = (2000, 2730);
        assert_eq!(units(&odd), (128, 128), "a source in odd sizes is no reason for odd targets");
        let sizes = hidden_sizes(&source_shape(&odd));
        assert_eq!((sizes[0], sizes[14], sizes[15]), (128, 1920, 2000), "and may keep its own");
        (odd.hidden_size, odd.intermediate_size) = (32, 48);
        assert_eq!(units(&odd), (4, 2));
    }

    #[test]
    fn heads_form_the_groups_that_masks_can_reach() {
        assert_eq!(heads(&source_shape(&llama2_7b()), false).len(), 32);
        let grouped = heads(&source_shape(&llama3_8b()), false);
        assert!(grouped.contains(&(24, 8)) && grouped.contains(&(4, 1)));
        assert!(grouped.iter().all(|(heads, kv)| heads / kv <= 4 && 8 % kv == 0), "{grouped:?}");
        assert!(heads(&source_shape(&llama3_8b()), true).contains(&(24, 6)));
    }

    #[test]
    fn what_a_family_asks_of_heads_is_kept() {
        let (llama, qwen) = (llama2_7b(), qwen2());
        assert!(loads(&llama, 2048, 16) && !loads(&llama, 2048, 17));
        let width = qwen.head_dim;
        assert!(loads(&qwen, 4 * width, 4) && !loads(&qwen, 4 * width, 2), "no head_dim in llama.cpp and vLLM");
        let mut free = qwen2();
        free.hidden_size += width;
        assert!(loads(&free, 4 * width, 2), "what the source does not keep is not asked of the small model");
        for (name, model) in all() {
            assert!(loads(&model, model.hidden_size, model.num_attention_heads), "{name}");
        }
    }
}
