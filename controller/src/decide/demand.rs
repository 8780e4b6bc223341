//! How many instances there should be: what the rules wish, within what the policy and the limit allow.

use eirs_platform::queue::Depth;

use super::plan::Wish;
use crate::policy::{Policy, Rule};

/// What each rule of a policy wishes for this backlog.
pub(super) fn wishes(policy: &Policy, depth: Depth) -> Vec<Wish> {
    let wish = |rule: &Rule| match rule {
        Rule::Backlog { per_instance } => Wish {
            rule: rule.kind(),
            instances: u32::try_from(depth.backlog().div_ceil(*per_instance)).unwrap_or(u32::MAX),
            because: format!("{per_instance} for each instance"),
        },
    };
    policy.rules.iter().map(wish).collect()
}

/// The largest wish wins. Without a rule nobody wishes anything, and `min` and `spare` make the pool.
pub(super) fn largest(wishes: &[Wish]) -> u32 {
    wishes.iter().map(|wish| wish.instances).max().unwrap_or(0)
}

/// A wish and the spare instances, within `min` and `max`.
pub(super) fn clamp(policy: &Policy, wished: u32) -> u32 {
    let pool = &policy.pool;
    wished.saturating_add(pool.spare).min(pool.max).max(pool.min)
}

/// What a backlog as high as this one comes to.
pub(super) fn for_backlog(policy: &Policy, backlog: u64) -> u32 {
    clamp(policy, largest(&wishes(policy, Depth { visible: backlog, in_flight: 0 })))
}

/// Shares the limit among pools that keep `min` and want `want` each: first what they keep, then the rest, always one more
/// to whoever has the fewest. So a small pool gets all it wants and a large one cannot starve it.
pub(super) fn shares(limit: Option<u32>, pools: &[(u32, u32)]) -> Vec<u32> {
    let Some(limit) = limit else { return pools.iter().map(|(_, want)| *want).collect() };
    let mut shares = vec![0; pools.len()];
    let mut left = limit;
    for kept_only in [true, false] {
        let goal = |index: usize| if kept_only { pools[index].0.min(pools[index].1) } else { pools[index].1 };
        while left > 0 {
            let poorest = (0..pools.len())
                .filter(|index| shares[*index] < goal(*index))
                .min_by_key(|index| shares[*index]);
            let Some(poorest) = poorest else { break };
            shares[poorest] += 1;
            left -= 1;
        }
    }
    shares
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::policy::parse;

    #[track_caller]
    fn check(text: &str, expected: &[(u64, u32)]) {
        let policy = parse(Path::new("p.toml"), text).unwrap();
        for (backlog, instances) in expected {
            assert_eq!(for_backlog(&policy, *backlog), *instances, "backlog {backlog}");
        }
    }

    #[test]
    fn one_job_is_enough_for_one_instance() {
        check(
            "[[rule]]\nkind = 'backlog'\nper_instance = 10",
            &[(0, 0), (1, 1), (10, 1), (11, 2), (1_000_000, 10)],
        );
    }

    #[test]
    fn the_largest_wish_wins() {
        let rules =
            "[[rule]]\nkind = 'backlog'\nper_instance = 10\n[[rule]]\nkind = 'backlog'\nper_instance = 4";
        check(rules, &[(0, 0), (4, 1), (5, 2), (20, 5)]);
    }

    #[test]
    fn spare_instances_are_added_within_min_and_max() {
        check(
            "[pool]\nmin = 1\nmax = 4\nspare = 2\n[[rule]]\nkind = 'backlog'",
            &[(0, 2), (1, 3), (25, 4), (u64::MAX, 4)],
        );
        check("[pool]\nmin = 2", &[(0, 2), (1000, 2)]);
        check("[pool]\nmax = 0\n[[rule]]\nkind = 'backlog'", &[(1000, 0)]);
    }

    #[test]
    fn the_limit_is_shared_by_who_has_fewest_and_what_is_kept_comes_first() {
        assert_eq!(shares(None, &[(0, 7), (2, 9)]), [7, 9]);
        assert_eq!(shares(Some(10), &[(0, 2), (0, 50)]), [2, 8]);
        assert_eq!(shares(Some(10), &[(0, 50), (0, 50), (0, 0)]), [5, 5, 0]);
        assert_eq!(shares(Some(3), &[(0, 5), (3, 5)]), [0, 3]);
        assert_eq!(shares(Some(100), &[(1, 5), (0, 6)]), [5, 6]);
    }
}
