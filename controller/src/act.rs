//! Carries out a plan, with one attempt per action. A failure does not stop the other actions, and
//! the next pass tries again.

use std::time::Duration;

use eirs_platform::error::{Error, Result};
use futures::future::join_all;

use crate::{
    decide::{Action, Plan},
    fleet::{Fleet, Refusal},
};

/// Timeout of an order to a fleet. After it the order counts as refused; the next pass shows
/// whether it was carried out after all.
const ACT_TIMEOUT: Duration = Duration::from_secs(10);

/// Carries out a plan: all starts in one order, and all actions at the same time. Returns the
/// failures.
pub async fn act(plan: &Plan, fleet: &dyn Fleet) -> Vec<Refusal> {
    let is_start = |action: &&Action| matches!(action, Action::Start { .. });
    let starts: Vec<_> = plan.actions().filter(is_start).map(|action| action.id().to_owned()).collect();
    let others = plan.actions().filter(|action| !is_start(action));
    let others = others.map(|action| async move {
        let (id, done) = match action {
            Action::Start { .. } => return None,
            Action::Drain { id, deadline, .. } => {
                (id, in_time(format!("draining {id}"), fleet.drain(id, *deadline)).await)
            }
            Action::Stop { id } => (id, in_time(format!("stopping {id}"), fleet.stop(id)).await),
        };
        Some(Refusal { id: id.clone(), error: done.err()? })
    });
    let (mut refusals, others) = tokio::join!(start(&starts, fleet), join_all(others));
    refusals.extend(others.into_iter().flatten());
    refusals
}

async fn start(ids: &[String], fleet: &dyn Fleet) -> Vec<Refusal> {
    if ids.is_empty() {
        return Vec::new();
    }
    match tokio::time::timeout(ACT_TIMEOUT, fleet.start(ids)).await {
        Ok(refusals) => refusals,
        Err(_late) => {
            ids.iter().map(|id| Refusal { id: id.clone(), error: late(format!("starting {id}")) }).collect()
        }
    }
}

async fn in_time(what: String, order: impl Future<Output = Result<()>>) -> Result<()> {
    tokio::time::timeout(ACT_TIMEOUT, order).await.unwrap_or_else(|_late| Err(late(what)))
}

fn late(what: String) -> Error {
    Error::unavailable(what, format_args!("no response within {}", humantime::format_duration(ACT_TIMEOUT)))
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, sync::Arc};

    use async_trait::async_trait;
    use eirs_platform::clock::{Clock, SystemClock};

    use super::*;
    use crate::{
        decide::{Cause, PoolPlan},
        fleet::{Instance, PoolSpec, State, memory::MemoryFleet},
        policy::Launch,
    };

    fn pools() -> [PoolSpec; 1] {
        [PoolSpec { name: "p".into(), model: "default".into(), max: 3, launch: Launch::default() }]
    }

    /// A fleet in which p-2 and p-3 run.
    async fn fleet() -> MemoryFleet {
        let fleet = MemoryFleet::new(Arc::new(SystemClock));
        fleet.list(&pools()).await.unwrap();
        assert!(fleet.start(&["p-2".into(), "p-3".into()]).await.is_empty());
        fleet
    }

    async fn states(fleet: &dyn Fleet) -> Vec<State> {
        fleet.list(&pools()).await.unwrap().into_iter().map(|instance| instance.state).collect()
    }

    fn plan(actions: Vec<Action>) -> Plan {
        let pool = PoolPlan { actions, ..PoolPlan::default() };
        Plan { at: SystemClock.now(), pools: BTreeMap::from([("p".to_owned(), pool)]) }
    }

    /// A fleet that never answers orders to some instances.
    #[derive(Debug)]
    struct Hangs(MemoryFleet, &'static [&'static str]);

    impl Hangs {
        async fn hang_at(&self, id: &str) {
            if self.1.contains(&id) {
                std::future::pending().await
            }
        }
    }

    #[async_trait]
    impl Fleet for Hangs {
        async fn list(&self, pools: &[PoolSpec]) -> Result<Vec<Instance>> {
            self.0.list(pools).await
        }

        async fn start(&self, ids: &[String]) -> Vec<Refusal> {
            for id in ids {
                self.hang_at(id).await;
            }
            self.0.start(ids).await
        }

        async fn drain(&self, id: &str, deadline: Duration) -> Result<()> {
            self.hang_at(id).await;
            self.0.drain(id, deadline).await
        }

        async fn stop(&self, id: &str) -> Result<()> {
            self.hang_at(id).await;
            self.0.stop(id).await
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_order_without_an_answer_times_out_and_does_not_delay_the_others() {
        let fleet = Hangs(fleet().await, &["p-1", "p-2"]);
        let (deadline, cause) = (Duration::from_secs(1), Cause::Idle);
        let orders = plan(vec![
            Action::Start { id: "p-1".into() },
            Action::Drain { id: "p-2".into(), deadline, cause },
            Action::Stop { id: "p-3".into() },
        ]);
        let start = tokio::time::Instant::now();
        let refusals = act(&orders, &fleet).await;
        assert_eq!(start.elapsed(), ACT_TIMEOUT, "all at the same time");
        let errors: Vec<_> = refusals.iter().map(|refusal| refusal.error.to_string()).collect();
        assert_eq!(
            errors,
            [
                "starting p-1: no response within 10s",
                "draining p-2: no response within \
            10s"
            ]
        );
        assert_eq!(states(&fleet).await, [State::Stopped, State::Running, State::Stopped]);
    }

    #[tokio::test]
    async fn a_failed_action_does_not_stop_the_others() {
        let fleet = fleet().await;
        let id = |id: &str| id.to_owned();
        let (deadline, cause) = (Duration::from_secs(1), Cause::Idle);
        let actions = vec![
            Action::Start { id: id("nobody") },
            Action::Drain { id: id("no-one"), deadline, cause },
            Action::Drain { id: id("p-2"), deadline, cause },
            Action::Stop { id: id("p-3") },
            Action::Start { id: id("p-1") },
        ];
        let failed: Vec<_> =
            act(&plan(actions), &fleet).await.into_iter().map(|refusal| refusal.id).collect();
        assert_eq!(failed, ["nobody", "no-one"]);
        assert_eq!(states(&fleet).await, [State::Running, State::Draining, State::Stopped]);
    }
}
