//! How the work of a run is dealt to its ranks: by micro-batch, since noise belongs to micro-batches.

use super::Error;
use crate::config::{RunConfig, Stage};
use crate::words::counted;

/// Refuses a run that has no micro-batch for some rank.
///
/// # Errors
/// Fewer micro-batches than ranks; says how there would be enough.
pub fn check_deal(config: &RunConfig, ranks: usize) -> Result<(), Error> {
    let (rows, micro) = (config.train.batch_rows, config.train.micro_batch());
    let micro_batches = rows.checked_div(micro).unwrap_or(0);
    if ranks == 1 || config.cuts_at_once() {
        return Ok(());
    }
    if micro_batches >= ranks {
        return check_even(config, ranks, micro_batches);
    }
    let fewer = if rows >= ranks {
        let fits = (1..=rows / ranks).rev().find(|micro| rows.is_multiple_of(*micro)).unwrap_or(1);
        format!("set train.micro_batch_rows = {fits} or less, or start fewer ranks")
    } else {
        format!("a step of {} can be dealt to {} at most", counted(rows as u64, "row"), counted(rows as u64, "rank"))
    };
    Err(Error::Mismatch(format!(
        "{ranks} ranks share the micro-batches of a step, and there {} {} (train.batch_rows = {rows}, \
         train.micro_batch_rows = {micro}): {fewer}",
        if micro_batches == 1 { "is" } else { "are" },
        counted(micro_batches as u64, "micro-batch"),
    )))
}

/// Ranks with sharded weights go through the layers together: each has as many micro-batches.
fn check_even(config: &RunConfig, ranks: usize, micro_batches: usize) -> Result<(), Error> {
    let strategy = config.dist.strategy;
    if !strategy.shards() || micro_batches.is_multiple_of(ranks) {
        return Ok(());
    }
    let (rows, micro) = (config.train.batch_rows, config.train.micro_batch());
    let fits = (1..=rows / ranks).rev().find(|micro| rows.is_multiple_of(micro * ranks));
    let remedy = match fits {
        Some(fits) => format!("set train.micro_batch_rows = {fits}"),
        None => format!("set train.batch_rows to a multiple of {ranks}"),
    };
    Err(Error::Mismatch(format!(
        "under dist.strategy = \"{}\" every rank does as many micro-batches, and {micro_batches} of them cannot be dealt \
         evenly to {ranks} ranks (train.batch_rows = {rows}, train.micro_batch_rows = {micro}): {remedy}",
        strategy.name()
    )))
}

/// What a rank of a run that is cut at once has to do: rank 0 cuts alone.
pub fn has_work(config: &RunConfig, stage: Stage, rank: usize) -> bool {
    rank == 0 || !(stage == Stage::Prune && config.cuts_at_once())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;

    #[test]
    fn every_rank_needs_a_micro_batch() {
        let text = "[run]\ndirectory = 'a'\n[model]\nsource = 'm'\n[data]\npath = 'd'\n\
                    [train]\nsteps = 4\nbatch_rows = 12\nlearning_rate = 0.1\n";
        let check = |sets: &[&str], ranks: usize| {
            let sets: Vec<String> = sets.iter().map(|set| set.to_string()).collect();
            check_deal(&config::parse(text, "test", &sets).unwrap(), ranks).map_err(|error| error.to_string())
        };
        check(&[], 1).unwrap();
        check(&["train.micro_batch_rows=4"], 3).unwrap();
        check(&["train.micro_batch_rows=4"], 2).unwrap();
        let one = check(&[], 2).unwrap_err();
        assert!(
            one.contains("there is 1 micro-batch ") && one.contains("set train.micro_batch_rows = 6 or less"),
            "{one}"
        );
        let few = check(&["train.micro_batch_rows=4"], 5).unwrap_err();
        assert!(few.contains("there are 3 micro-batches") && few.contains("micro_batch_rows = 2 or less"), "{few}");
        let many = check(&["train.micro_batch_rows=1"], 13).unwrap_err();
        assert!(many.contains("a step of 12 rows can be dealt to 12 ranks at most"), "{many}");
        let uneven = check(&["train.micro_batch_rows=4", "dist.strategy=fsdp"], 2).unwrap_err();
        assert!(
            uneven.contains("3 of them cannot be dealt evenly") && uneven.ends_with("micro_batch_rows = 6"),
            "{uneven}"
        );
        let never = check(&["train.micro_batch_rows=1", "dist.strategy=hybrid"], 5).unwrap_err();
        assert!(never.ends_with("set train.batch_rows to a multiple of 5"), "{never}");
        check(&["train.micro_batch_rows=2", "dist.strategy=fsdp"], 3).unwrap();
    }
}
