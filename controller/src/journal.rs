//! A plan as fields of a log entry: short texts that can be searched and counted.

use crate::decide::PoolPlan;

/// The number of instances that each rule wants: `backlog=3 latency=5`.
pub(crate) fn wishes(plan: &PoolPlan) -> String {
    let wishes: Vec<_> = plan.wishes.iter().map(|wish| format!("{}={}", wish.rule, wish.instances)).collect();
    wishes.join(" ")
}

/// The stages that changed the number: `spare,min,max=10 budget=6 limit=4`; empty if none did.
pub(crate) fn clamps(plan: &PoolPlan) -> String {
    let granted = plan.granted();
    let stages = [
        ("spare,min,max", plan.wished, plan.clamped),
        ("budget", plan.clamped, granted),
        ("limit", granted, plan.share),
    ];
    let changed = stages.iter().filter(|(_, before, after)| before != after);
    changed.map(|(stage, _, after)| format!("{stage}={after}")).collect::<Vec<_>>().join(" ")
}

/// The holds, one sentence after the other.
pub(crate) fn holds(plan: &PoolPlan) -> String {
    plan.holds.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

/// The actions: `start default-1, drain default-2: idle and not needed`.
pub(crate) fn actions(plan: &PoolPlan) -> String {
    plan.actions.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decide::{Action, Hold, Wish};

    #[test]
    fn a_plan_is_formatted_as_short_texts() {
        let wish =
            |rule, instances| Wish { rule, instances, steady: instances, because: "so".to_owned().into() };
        let plan = PoolPlan {
            wishes: vec![wish("backlog", 3), wish("latency", 15)],
            wished: 15,
            clamped: 10,
            share: 4,
            holds: vec![Hold::MaxStep, Hold::NoPlace],
            actions: vec![Action::Start { id: "p-1".into() }, Action::Stop { id: "p-2".into() }],
            ..PoolPlan::default()
        };
        assert_eq!(wishes(&plan), "backlog=3 latency=15");
        assert_eq!(clamps(&plan), "spare,min,max=10 limit=4");
        assert!(
            holds(&plan).starts_with("held: scale_in.max_step instances are draining already; waiting for")
        );
        assert_eq!(actions(&plan), "start p-1, stop p-2");
        assert_eq!(clamps(&PoolPlan { wished: 2, clamped: 2, share: 2, ..PoolPlan::default() }), "");
    }
}
