//! The control loop: observe, decide, act, write the status. A tick, a changed policy, an
//! operator's order, a report, the end of a process and a signal only start the next pass earlier;
//! two passes never run at the same time.

mod claim;
mod logged;
mod remembered;

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
    logged::Logged,
    remembered::{Remembered, recall_last_pass, recall_use},
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

/// Maximum time to wait for a queue that cannot be opened at the start.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// The control loop and its state.
#[derive(Debug)]
pub struct Controller {
    settings: Arc<Settings>,
    store: Store,
    backend: Backend,
    /// Ensures that only one of several controllers acts; `None` if there can be no other.
    claim: Option<Arc<Claim>>,
    fleet: SharedFleet,
    clock: SharedClock,
    /// Starts the next pass now.
    poke: Arc<Notify>,
    reports: Arc<Reports>,
    observer: Observer,
    orders: Orders,
    history: History,
    refusals: Refusals,
    memory: MemoryFile,
    recorder: Recorder,
    /// Time until the next pass if it should come before the tick.
    look_again: Option<Duration>,
    recording: Recording,
    /// Versions of the models, if workers read the files of this machine.
    versions: Option<Versions>,
    logged: Logged,
    alerts: Alerts,
}

impl Controller {
    /// Makes a controller of this fleet. A notification of `poke` starts a pass.
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
        } else {
            recall_last_pass(&mut learnt, &settings, clock.now());
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
            logged: Logged::default(),
            alerts: Alerts::with_ledger(alerts),
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

    /// Adds the versions of model files that workers read from this machine: instances are replaced
    /// when the version changes.
    #[must_use]
    pub fn with_versions(self, versions: Versions) -> Self {
        Self { versions: Some(versions), ..self }
    }

    /// Adds a claim: the controller acts only while it holds it.
    #[must_use]
    pub fn with_claim(mut self, claim: Option<Arc<Claim>>) -> Self {
        self.claim = claim;
        self
    }

    /// Adds a sender of alerts.
    #[must_use]
    pub fn with_alerts(mut self, sender: Option<Sender>) -> Self {
        self.alerts.send_by(sender);
        self
    }

    /// The received reports, for callers of [`pass`](Self::pass) without [`run`](Self::run).
    pub fn reports(&self) -> &Arc<Reports> {
        &self.reports
    }

    /// Runs until the process is asked to drain, and then leaves or drains the workers as set in
    /// `controller.on_exit`.
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
        // Passes are frequent enough for the watchdog, even if nothing happens.
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
            } else if self.logged.summary != summary {
                lifecycle.status(&summary);
            }
            self.logged.summary = summary;
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
            // Another controller may have taken over, and the workers are its own now.
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
        let released = self.backend.announce_control(None, self.clock.now()).await;
        let left = match &self.claim {
            Some(claim) => claim.leave().await,
            None => Ok(()),
        };
        if let Err(error) = released.and(left) {
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

    /// Makes one pass and returns a summary of the pools.
    pub async fn pass(&mut self) -> String {
        self.orders.look();
        let observing = debug_span!(target: TARGET, "observe");
        let observed = self.observer.observe(self.store.policies(), &*self.fleet).instrument(observing);
        let mut seen = observed.await;
        seen.operator = self.orders.operator().clone();
        seen.refused = self.refusals.now(seen.at);
        seen.versions = self.versions_in_force();
        self.logged.missing(&seen.missing);
        let history = std::mem::replace(&mut self.history, History::new(Duration::ZERO)).observe(&seen);
        let plan = decide(self.store.policies(), &seen, &history);
        let mut allowed = plan.allowed(&seen.operator);
        let broken = check(self.store.policies(), &seen, &history, &plan);
        debug_assert_eq!(broken, Vec::<String>::new());
        if !broken.is_empty() {
            let rules = broken.join("; ");
            // A plan that breaks a rule is a bug: keeping the current state is safer.
            tracing::error!(rules, "the plan breaks a rule and is not carried out: {rules}");
            allowed.pools.values_mut().for_each(|pool| pool.actions.clear());
        }
        // A controller that could not renew its claim for a while does not act, as another one may.
        let is_cut_off = self.claim.as_ref().is_some_and(|claim| !claim.may_act());
        self.logged.cut_off(is_cut_off);
        if is_cut_off {
            allowed.pools.values_mut().for_each(|pool| pool.actions.clear());
        }
        self.history = history.remember(&allowed);
        self.look_again = plan.look_again(|pool| seen.operator.paused(pool).is_some());
        self.logged.plan(&seen, &plan, &self.history, &mut self.recorder);
        self.logged.budgets(self.store.policies(), &plan, &self.history);
        self.logged.trials(&self.store, &seen, &self.history);
        self.alerts.update(self.store.policies(), &seen, &plan, &self.history).await;
        let acting = debug_span!(target: TARGET, "act", actions = allowed.actions().count());
        let refusals = act(&allowed, &*self.fleet).instrument(acting).await;
        if allowed.actions().next().is_some() && refusals.is_empty() {
            // The next pass shows the effect of these actions.
            self.poke.notify_one();
        }
        self.logged.refusals(&refusals);
        self.refusals.note(&allowed.verbs(), &refusals, seen.at);
        self.write_files(&seen, &plan);
        summary(&plan, &seen.operator)
    }

    /// Writes the files for others: the status, the recording, the input of a preview, and the
    /// memory for the next controller.
    fn write_files(&mut self, seen: &Observation, plan: &Plan) {
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
        self.memory.save_if_due(&remembered, seen.at);
    }
}

/// The summary for `systemctl status`, in one line.
fn summary(plan: &Plan, operator: &Operator) -> String {
    let pool = |(name, pool): (&String, &PoolPlan)| {
        let jobs = match pool.depth.map(|depth| depth.backlog()) {
            None => "? jobs".to_owned(),
            Some(1) => "1 job".to_owned(),
            Some(jobs) => format!("{jobs} jobs"),
        };
        let paused = if operator.paused(name).is_some() { " (paused)" } else { "" };
        format!("{name}: {jobs}, {} of {} running{paused}", pool.running(), pool.desired)
    };
    plan.pools.iter().map(pool).collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests;
