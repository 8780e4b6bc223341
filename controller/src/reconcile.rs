//! The loop: observe, decide, act, tell. It takes no input. A tick, a changed policy, an operator's
//! order, a report, the end of a process and a signal only make the next pass come earlier, and two
//! passes never run at once.

mod claim;
mod remembered;
mod said;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use eirs_platform::{
    backend::{Backend, Claim},
    backoff::persist,
    clock::SharedClock,
    error::{Error, Result},
    lifecycle::Lifecycle,
    settings::OnExit,
    settings::Settings,
    state_folder::{Look, Wake},
    trace::TARGET,
    version::watch::{Current, Versions},
};
use tokio::{sync::Notify, task::JoinHandle};
use tracing::{Instrument, debug_span};

use self::{
    claim::keep_control,
    remembered::{Remembered, recall_use},
    said::Said,
};
use crate::{
    act::act,
    alerts::{Alerts, Sender},
    decide::{History, Plan, PoolPlan, check::check, decide},
    drain,
    fleet::SharedFleet,
    memory_file::MemoryFile,
    observe::{InForce, Observation, Observer, Reports, reports},
    operator::{self, Operator, Orders},
    policy::{Policy, Store, watch::SETTLE},
    preview,
    record::Recording,
    refusals::Refusals,
    status::Recorder,
};

/// A queue that cannot be asked at the start may be there soon.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Everything that the loop needs.
#[derive(Debug)]
pub struct Controller {
    settings: Arc<Settings>,
    store: Store,
    backend: Backend,
    /// By which one of several controllers acts; none where there can be no other.
    claim: Option<Arc<Claim>>,
    fleet: SharedFleet,
    clock: SharedClock,
    /// Makes the next pass come now.
    poke: Arc<Notify>,
    reports: Arc<Reports>,
    observer: Observer,
    orders: Orders,
    history: History,
    refusals: Refusals,
    memory: MemoryFile,
    recorder: Recorder,
    /// What the last plan waits for.
    look_again: Option<Duration>,
    recording: Recording,
    /// Where workers read the files of this machine.
    versions: Option<Versions>,
    said: Said,
    alerts: Alerts,
}

impl Controller {
    /// A controller of this fleet; a notification of `poke` makes it look at once.
    pub fn new(
        settings: Arc<Settings>,
        store: Store,
        backend: Backend,
        fleet: SharedFleet,
        clock: SharedClock,
        poke: Arc<Notify>,
    ) -> Self {
        let reports = Arc::<Reports>::default();
        let memory = MemoryFile::of(&settings.local.state);
        let Remembered { refused, mut learnt, alerts } = memory.load();
        if learnt.is_empty() {
            learnt.recall_launches();
            recall_use(&mut learnt, &settings, clock.now());
        }
        let recorder = Recorder::new(settings.clone(), clock.now());
        Self {
            observer: Observer::new(backend.clone(), clock.clone(), reports.clone()),
            orders: Orders::open(&settings.local.state, recorder.last_operator()),
            history: History::first(settings.controller.tick).with_learnt(learnt),
            refusals: refused,
            memory,
            recorder,
            look_again: None,
            recording: Recording::of(&settings),
            versions: None,
            said: Said::default(),
            alerts: Alerts::knowing(alerts),
            settings,
            store,
            backend,
            claim: None,
            fleet,
            clock,
            poke,
            reports,
        }
    }

    /// The same, with workers that read model files of this machine: they are replaced when the
    /// version changes.
    #[must_use]
    pub fn with_versions(self, versions: Versions) -> Self {
        Self { versions: Some(versions), ..self }
    }

    /// The same, but it acts only as long as it has this claim.
    #[must_use]
    pub fn with_claim(mut self, claim: Option<Arc<Claim>>) -> Self {
        self.claim = claim;
        self
    }

    /// The same, but it sends alerts.
    #[must_use]
    pub fn with_alerts(mut self, sender: Option<Sender>) -> Self {
        self.alerts.send_by(sender);
        self
    }

    /// What it has heard of workers and web hosts, for those who run [`pass`](Self::pass) without
    /// [`run`](Self::run).
    pub fn reports(&self) -> &Arc<Reports> {
        &self.reports
    }

    /// Runs until the process shall drain; then does with the workers what the settings say.
    pub async fn run(&mut self, lifecycle: &Lifecycle) -> Result<()> {
        let events = persist(PATIENCE, async || self.backend.events().await).await?;
        let receiver = tokio::spawn(reports::receive(
            events,
            self.reports.clone(),
            self.clock.clone(),
            self.poke.clone(),
        ));
        let host = self.settings.web_host();
        let keeping = keep_control(self.backend.clone(), self.claim.clone(), host, self.clock.clone());
        let mut control = tokio::spawn(keeping);
        let watch = Wake::new(self.store.folder());
        let orders = Wake::of_file(self.orders.folder(), operator::FILE);
        // A loop that waits is alive too, and says so often enough.
        let longest = lifecycle.watchdog().unwrap_or(Duration::MAX).min(self.settings.controller.tick);
        let versions = self.versions.clone().map(|versions| {
            let (poke, stop) = (self.poke.clone(), lifecycle.drain().clone());
            tokio::spawn(async move { versions.keep(&stop, || poke.notify_one()).await })
        });
        let mut is_ready = false;
        self.reports.catch_up().await;
        while !lifecycle.drain().is_cancelled() {
            lifecycle.goes_on();
            let look = self.store.look();
            if look != Look::Same {
                watch.arm();
            }
            let summary = self.pass().instrument(debug_span!(target: TARGET, parent: None, "pass")).await;
            lifecycle.goes_on();
            if !std::mem::replace(&mut is_ready, true) {
                lifecycle.ready(&summary);
            } else if self.said.summary != summary {
                lifecycle.status(&summary);
            }
            self.said.summary = summary;
            let longest = self.look_again.map_or(longest, |soon| soon.min(longest));
            let next = if look == Look::Changing { SETTLE } else { longest };
            tokio::select! {
                    () = self.poke.notified() => {}
                    () = watch.changed() => {}
                    () = orders.changed() => {}
                    () = tokio::time::sleep(next) => {}
                    () = lifecycle.drain().cancelled() => {}
                    Ok(other) = &mut control => {
                        receiver.abort();
            versions.inspect(JoinHandle::abort);
                        let why = format!("the controller of this installation now runs on {}; one \
                            is enough", other.host);
                        return Err(Error::broken("going on", why));
                    }
                    () = lifecycle.reload_requested() => {
                        self.recorder.reloads(self.clock.now());
                        self.store.reload();
                    }
                }
        }
        receiver.abort();
        versions.inspect(JoinHandle::abort);
        self.memory.save(&self.remembered(), self.clock.now());
        if let Some(claim) = &self.claim
            && !matches!(claim.renew().await, Ok(None))
        {
            // Another one may have come since, and the workers are its own then.
            lifecycle.stopping("leaving the workers to another controller");
            control.abort();
            return Ok(());
        }
        match self.settings.controller.on_exit {
            OnExit::Leave => lifecycle.stopping("leaving the workers running"),
            OnExit::Drain => {
                lifecycle.stopping("draining all workers");
                let (policies, fleet) = (self.store.policies(), &*self.fleet);
                drain::all(policies, fleet, &self.clock, &self.poke, lifecycle).await?;
            }
        }
        control.abort();
        let told = self.backend.tell_control(None, self.clock.now()).await;
        let left = match &self.claim {
            Some(claim) => claim.leave().await,
            None => Ok(()),
        };
        if let Err(error) = told.and(left) {
            tracing::warn!(%error, "could not release control; the claim will expire");
        }
        Ok(())
    }

    fn versions_in_force(&self) -> BTreeMap<String, InForce> {
        let in_force = |policy: &Policy| {
            let Current { version, since } = self.versions.as_ref()?.made_here(&policy.pool.model)?;
            Some((policy.pool.model.clone(), InForce { version: version.to_string(), since }))
        };
        self.store.policies().pools.values().filter_map(in_force).collect()
    }

    fn remembered(&self) -> Remembered {
        let (refused, learnt) = (self.refusals.clone(), self.history.learnt().clone());
        Remembered { refused, learnt, alerts: self.alerts.ledger().clone() }
    }

    /// One pass; answers the state of things in a few words.
    pub async fn pass(&mut self) -> String {
        self.orders.look();
        let observing = debug_span!(target: TARGET, "observe");
        let observed = self.observer.observe(self.store.policies(), &*self.fleet).instrument(observing);
        let mut seen = observed.await;
        seen.operator = self.orders.operator().clone();
        seen.refused = self.refusals.now(seen.at);
        seen.versions = self.versions_in_force();
        self.said.missing(&seen.missing);
        let history = std::mem::replace(&mut self.history, History::new(Duration::ZERO)).observe(&seen);
        let plan = decide(self.store.policies(), &seen, &history);
        let mut allowed = plan.allowed(&seen.operator);
        let broken = check(self.store.policies(), &seen, &history, &plan);
        debug_assert_eq!(broken, Vec::<String>::new());
        if !broken.is_empty() {
            let rules = broken.join("; ");
            // A plan that breaks a rule is a mistake of this program: what is there is better than
            // what it would do.
            tracing::error!(rules, "the plan breaks a rule and is not carried out: {rules}");
            allowed.pools.values_mut().for_each(|pool| pool.actions.clear());
        }
        // One that could not say for a while that it is there does not act: another one may, then.
        let is_cut_off = self.claim.as_ref().is_some_and(|claim| !claim.may_act());
        self.said.cut_off(is_cut_off);
        if is_cut_off {
            allowed.pools.values_mut().for_each(|pool| pool.actions.clear());
        }
        self.history = history.remember(&allowed);
        self.look_again = plan.look_again(|pool| seen.operator.paused(pool).is_some());
        self.said.plan(&seen, &plan, &self.history, &mut self.recorder);
        self.said.budgets(self.store.policies(), &plan, &self.history);
        self.said.trials(&self.store, &seen, &self.history);
        self.alerts.tend(self.store.policies(), &seen, &plan, &self.history).await;
        let acting = debug_span!(target: TARGET, "act", actions = allowed.actions().count());
        let refusals = act(&allowed, &*self.fleet).instrument(acting).await;
        if allowed.actions().next().is_some() && refusals.is_empty() {
            // What was done is seen, and shown, in the next pass; that one has nothing left to do.
            self.poke.notify_one();
        }
        self.said.refusals(&refusals);
        self.refusals.note(&allowed.verbs(), &refusals, seen.at);
        self.write_down(&seen, &plan);
        summary(&plan, &seen.operator)
    }

    /// Writes what others read: the status, the recording, what a preview needs, what the next
    /// controller shall know.
    fn write_down(&mut self, seen: &Observation, plan: &Plan) {
        let written = self.recorder.write(&self.store, &self.orders, seen, &self.history, plan);
        if let Err(error) = written.and_then(|()| preview::write(&self.settings, seen, &self.history)) {
            tracing::warn!(%error, "the status file cannot be written: {error}");
        }
        let (history, policies) = (&self.history, self.store.policies());
        self.recording.note(
            seen,
            plan,
            |pool| {
                let guess = policies.pools.get(pool).map(|policy| policy.pool.start_delay.as_secs_f64());
                (seen.service_s(pool), history.start_delay_s(pool, 0.5).or(guess))
            },
            policies.instance_limit,
        );
        let remembered = self.remembered();
        self.memory.save_now_and_then(&remembered, seen.at);
    }
}

/// One line for `systemctl status`.
fn summary(plan: &Plan, operator: &Operator) -> String {
    let pool = |(name, pool): (&String, &PoolPlan)| {
        let jobs = pool.depth.map_or_else(|| "?".to_owned(), |depth| depth.backlog().to_string());
        let paused = if operator.paused(name).is_some() { " (paused)" } else { "" };
        format!("{name}: {jobs} jobs, {} of {} running{paused}", pool.running(), pool.desired)
    };
    plan.pools.iter().map(pool).collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests;
