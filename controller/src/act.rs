//! Does what a plan says: one attempt for each action. What fails never stops the rest, and the next pass is the retry.

use crate::{
    decide::{Action, Plan},
    fleet::{Fleet, Refusal},
};

/// Carries out a plan, the starts first and all in one order; answers what failed.
pub async fn act(plan: &Plan, fleet: &dyn Fleet) -> Vec<Refusal> {
    let is_start = |action: &&Action| matches!(action, Action::Start { .. });
    let starts: Vec<_> = plan.actions().filter(is_start).map(|action| action.id().to_owned()).collect();
    let mut refusals = if starts.is_empty() { Vec::new() } else { fleet.start(&starts).await };
    for action in plan.actions() {
        let done = match action {
            Action::Start { .. } => Ok(()),
            Action::Undrain { id } => fleet.undrain(id).await,
            Action::Drain { id, deadline, .. } => fleet.drain(id, *deadline).await,
            Action::Stop { id } => fleet.stop(id).await,
        };
        refusals.extend(done.err().map(|error| Refusal { id: action.id().to_owned(), error }));
    }
    refusals
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, sync::Arc, time::Duration};

    use eirs_platform::clock::{Clock, SystemClock};

    use super::*;
    use crate::{
        decide::{Cause, PoolPlan},
        fleet::{PoolSpec, State, memory::MemoryFleet},
    };

    #[tokio::test]
    async fn what_fails_never_stops_the_rest() {
        let fleet = MemoryFleet::new(Arc::new(SystemClock));
        let pools = [PoolSpec { name: "p".into(), model: "default".into(), max: 3 }];
        fleet.list(&pools).await.unwrap();
        assert!(fleet.start(&["p-2".into(), "p-3".into()]).await.is_empty());
        let id = |id: &str| id.to_owned();
        let (deadline, cause) = (Duration::from_secs(1), Cause::Idle);
        let actions = vec![
            Action::Start { id: id("nobody") },
            Action::Drain { id: id("no-one"), deadline, cause },
            Action::Drain { id: id("p-2"), deadline, cause },
            Action::Stop { id: id("p-3") },
            Action::Start { id: id("p-1") },
        ];
        let pool = PoolPlan { actions, ..PoolPlan::default() };
        let plan = Plan { at: SystemClock.now(), pools: BTreeMap::from([("p".to_owned(), pool)]) };
        let failed: Vec<_> = act(&plan, &fleet).await.into_iter().map(|refusal| refusal.id).collect();
        assert_eq!(failed, ["nobody", "no-one"]);
        let states: Vec<_> =
            fleet.list(&pools).await.unwrap().into_iter().map(|instance| instance.state).collect();
        assert_eq!(states, [State::Running, State::Draining, State::Stopped]);
    }
}
