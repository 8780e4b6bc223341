//! The loop: observe, decide, act, tell. It takes no input. A tick, a changed policy, a report, the end of a process
//! and a signal only make the next pass come earlier, and two passes never run at once.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use eirs_platform::{
    backend::Backend, clock::SharedClock, error::Result, lifecycle::Lifecycle, settings::OnExit,
    settings::Settings,
};
use tokio::{sync::Notify, time::Instant};

use crate::{
    act::act,
    decide::{History, Plan, PoolPlan, check::check, decide},
    fleet::{Instance, PoolSpec, Refusal, SharedFleet},
    observe::{Observation, Observer, Reports, age, reports},
    policy::{
        Store,
        watch::{Look, SETTLE, Watch},
    },
    status::{Decision, Recorder},
};

/// How long a worker may take to be gone after it was killed.
const KILLED_BY: Duration = Duration::from_secs(5);
/// Timers and dates come from two clocks: waiting so much longer, a deadline has surely passed.
const LATE: Duration = Duration::from_millis(50);

/// Everything that the loop needs.
#[derive(Debug)]
pub struct Controller {
    settings: Arc<Settings>,
    store: Store,
    backend: Backend,
    fleet: SharedFleet,
    clock: SharedClock,
    /// Makes the next pass come now.
    poke: Arc<Notify>,
    reports: Arc<Reports>,
    observer: Observer,
    history: History,
    recorder: Recorder,
    /// What the last plan waits for.
    look_again: Option<Duration>,
    told: Told,
}

/// What was logged last: it is not said twice.
#[derive(Debug, Default)]
struct Told {
    pools: BTreeMap<String, PoolPlan>,
    missing: Vec<String>,
    refusals: Vec<String>,
    summary: String,
}

impl Controller {
    /// A controller of this fleet; whoever notifies `poke` has it look at once.
    pub fn new(
        settings: Arc<Settings>,
        store: Store,
        backend: Backend,
        fleet: SharedFleet,
        clock: SharedClock,
        poke: Arc<Notify>,
    ) -> Self {
        let reports = Arc::<Reports>::default();
        let tick = settings.controller.tick;
        Self {
            observer: Observer::new(backend.clone(), clock.clone(), reports.clone()),
            // A pass may be late; a machine that slept has missed several.
            history: History::new(3 * tick + Duration::from_secs(60)),
            recorder: Recorder::new(settings.status_file(), tick, clock.now()),
            look_again: None,
            told: Told::default(),
            settings,
            store,
            backend,
            fleet,
            clock,
            poke,
            reports,
        }
    }

    /// Runs until the process shall drain; then does with the workers what the settings say.
    pub async fn run(&mut self, lifecycle: &Lifecycle) -> Result<()> {
        let events = self.backend.events().await?;
        let receiver = tokio::spawn(reports::receive(events, self.reports.clone(), self.poke.clone()));
        let watch = Watch::new(self.store.folder());
        let mut is_ready = false;
        while !lifecycle.drain().is_cancelled() {
            let look = self.store.look();
            if look != Look::Same {
                watch.arm();
            }
            let summary = self.pass().await;
            if !std::mem::replace(&mut is_ready, true) {
                lifecycle.ready(&summary);
            } else if self.told.summary != summary {
                lifecycle.status(&summary);
            }
            self.told.summary = summary;
            let tick = self.settings.controller.tick;
            let next = if look == Look::Changing {
                SETTLE
            } else {
                self.look_again.map_or(tick, |soon| soon.min(tick))
            };
            tokio::select! {
                () = self.poke.notified() => {}
                () = watch.changed() => {}
                () = tokio::time::sleep(next) => {}
                () = lifecycle.drain().cancelled() => {}
                () = lifecycle.reload_requested() => {
                    self.store.reload();
                    self.recorder.reloads += 1;
                }
            }
        }
        receiver.abort();
        match self.settings.controller.on_exit {
            OnExit::Leave => lifecycle.stopping("leaves the workers running"),
            OnExit::Drain => {
                lifecycle.stopping("drains all workers");
                self.drain_all().await?;
            }
        }
        Ok(())
    }

    /// One pass; answers the state of things in a few words.
    pub async fn pass(&mut self) -> String {
        let seen = self.observer.observe(self.store.policies(), &*self.fleet).await;
        self.tell_missing(&seen);
        let history = std::mem::replace(&mut self.history, History::new(Duration::ZERO)).observe(&seen);
        let plan = decide(self.store.policies(), &seen, &history);
        debug_assert_eq!(check(self.store.policies(), &seen, &history, &plan), Vec::<String>::new());
        self.history = history.remember(&plan);
        self.look_again = plan.look_again();
        self.tell(&plan);
        let refusals = act(&plan, &*self.fleet).await;
        if plan.actions().next().is_some() && refusals.is_empty() {
            // What was done is seen, and shown, in the next pass; that one has nothing left to do.
            self.poke.notify_one();
        }
        self.tell_refusals(&refusals);
        if let Err(error) = self.recorder.write(&self.store, &seen, &plan) {
            tracing::warn!(%error, "the status file cannot be written: {error}");
        }
        summary(&plan)
    }

    /// Logs what changed in a plan, a line for each pool, and keeps it for the status.
    fn tell(&mut self, plan: &Plan) {
        for (pool, now) in &plan.pools {
            let before = self.told.pools.insert(pool.clone(), now.clone());
            if before.is_some_and(|before| is_old_news(&before, now)) {
                continue;
            }
            let decision = Decision::of(plan.at, pool, now);
            let actions = decision.actions.join(", ");
            let then = if actions.is_empty() { "nothing to do" } else { &actions };
            tracing::info!(
                pool,
                backlog = decision.backlog,
                in_flight = now.depth.map(|depth| depth.in_flight),
                desired = decision.desired,
                running = decision.running,
                actions,
                reason = decision.reason,
                "{pool}: {} desired, {} running: {then} ({})",
                decision.desired,
                decision.running,
                decision.reason,
            );
            self.recorder.decided(decision);
        }
        self.told.pools.retain(|pool, _| plan.pools.contains_key(pool));
    }

    fn tell_missing(&mut self, seen: &Observation) {
        for sentence in seen.missing.iter().filter(|sentence| !self.told.missing.contains(sentence)) {
            tracing::warn!("cannot see {sentence}; nothing is drained meanwhile");
        }
        if seen.missing.is_empty() && !self.told.missing.is_empty() {
            tracing::info!("everything can be seen again");
        }
        self.told.missing.clone_from(&seen.missing);
    }

    fn tell_refusals(&mut self, refusals: &[Refusal]) {
        let sentences: Vec<_> =
            refusals.iter().map(|Refusal { id, error }| format!("{id}: {error}")).collect();
        for (refusal, sentence) in refusals.iter().zip(&sentences) {
            if !self.told.refusals.contains(sentence) {
                tracing::warn!(instance = refusal.id, error = %refusal.error, "{sentence}; the next pass tries again");
            }
        }
        self.told.refusals = sentences;
    }

    /// Drains every worker, waits for them as long as their policies allow, and kills the rest.
    async fn drain_all(&self) -> Result<()> {
        for instance in self.alive().await? {
            let policy = self.store.policies().pools.get(&instance.pool);
            let scale_in = policy.map(|policy| policy.scale_in.clone()).unwrap_or_default();
            let drained = self.fleet.drain(&instance.id, scale_in.drain_deadline).await;
            self.tell_failed(&instance.id, drained);
        }
        // Some may have been draining for long.
        let due = self.alive().await?.iter().filter_map(|instance| instance.drain_until).max();
        let longest = due.map_or(Duration::ZERO, |due| age(self.clock.now(), due) + LATE);
        if self.wait_for_all(longest).await? {
            return Ok(());
        }
        for instance in self.alive().await? {
            tracing::warn!(instance = instance.id, "{} is not drained in time and is stopped", instance.id);
            let stopped = self.fleet.stop(&instance.id).await;
            self.tell_failed(&instance.id, stopped);
        }
        self.wait_for_all(KILLED_BY).await?;
        Ok(())
    }

    fn tell_failed(&self, instance: &str, done: Result<()>) {
        if let Err(error) = done {
            tracing::warn!(instance, %error, "{instance}: {error}");
        }
    }

    /// Waits until no instance is alive any more; answers whether that came to be in time.
    async fn wait_for_all(&self, limit: Duration) -> Result<bool> {
        let deadline = Instant::now() + limit;
        loop {
            if self.alive().await?.is_empty() {
                return Ok(true);
            }
            if Instant::now() >= deadline {
                return Ok(false);
            }
            // The end of a process notifies; the tick is for fleets that cannot.
            let next = deadline.min(Instant::now() + self.settings.controller.tick);
            let _changed = tokio::time::timeout_at(next, self.poke.notified()).await;
        }
    }

    async fn alive(&self) -> Result<Vec<Instance>> {
        let specs: Vec<_> = self
            .store
            .policies()
            .pools
            .iter()
            .map(|(name, policy)| PoolSpec::of(name, &policy.pool))
            .collect();
        let mut instances = self.fleet.list(&specs).await?;
        instances.retain(Instance::is_alive);
        Ok(instances)
    }
}

/// Whether a reader of the log knows this already: the same goal, nothing new to do, no new trouble.
fn is_old_news(before: &PoolPlan, now: &PoolPlan) -> bool {
    let trouble =
        |plan: &PoolPlan| plan.holds.iter().filter(|hold| !hold.is_ordinary()).cloned().collect::<Vec<_>>();
    let nothing_new = now.actions.is_empty() || now.actions == before.actions;
    before.desired == now.desired && nothing_new && trouble(before) == trouble(now)
}

/// One line for `systemctl status`.
fn summary(plan: &Plan) -> String {
    let pool = |(name, pool): (&String, &PoolPlan)| {
        let jobs = pool.depth.map_or_else(|| "?".to_owned(), |depth| depth.backlog().to_string());
        format!("{name}: {jobs} jobs, {} of {} running", pool.running(), pool.desired)
    };
    plan.pools.iter().map(pool).collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests;
