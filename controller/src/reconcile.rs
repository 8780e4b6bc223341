//! The loop: observe, decide, act, tell. It takes no input. A tick, a changed policy, an operator's order, a report, the end
//! of a process and a signal only make the next pass come earlier, and two passes never run at once.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use chrono::{DateTime, TimeDelta, Utc};
use eirs_platform::{
    backend::{Backend, Claim, Control},
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
use serde::{Deserialize, Serialize};
use tokio::{sync::Notify, task::JoinHandle};
use tracing::{Instrument, debug_span};

use crate::{
    act::act,
    decide::{History, Plan, PoolPlan, check::check, decide, history::Learnt},
    drain,
    fleet::{Refusal, SharedFleet},
    journal,
    memory_file::MemoryFile,
    observe::{InForce, Observation, Observer, Reports, reports},
    operator::{self, Operator, Orders},
    policy::{Policy, Store, watch::SETTLE},
    preview,
    record::{self, Recording},
    refusals::Refusals,
    status::{Decision, Recorder},
};

/// A day of any time zone, as seen from another one.
const RECALLED: TimeDelta = TimeDelta::hours(26);
/// A pool that is looked at has a line every minute.
const LONGEST_LINE: TimeDelta = TimeDelta::seconds(75);
/// Shares of a day's budget that are worth a word when they are used up.
const WARNINGS: [f64; 2] = [0.8, 0.5];

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
    told: Told,
}

/// What survives a restart and may be lost without harm. Fields may come and go: what is missing begins anew.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct Remembered {
    refused: Refusals,
    learnt: Learnt,
}

/// What was logged last: it is not said twice.
#[derive(Debug, Default)]
struct Told {
    /// Each pool's plan, and whether the pool was paused.
    pools: BTreeMap<String, (PoolPlan, bool)>,
    missing: Vec<String>,
    refusals: Vec<String>,
    summary: String,
    is_cut_off: bool,
    /// The share of its budget that each pool was warned of, in per cent.
    budgets: BTreeMap<String, u32>,
    /// What each policy on trial would do.
    trials: BTreeMap<String, String>,
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
        let memory = MemoryFile::of(&settings.local.state);
        let Remembered { refused, mut learnt } = memory.load();
        if learnt.is_empty() {
            learnt.recall_launches();
            recall_use(&mut learnt, &settings, clock.now());
        }
        let recorder = Recorder::new(settings.clone(), clock.now());
        Self {
            observer: Observer::new(backend.clone(), clock.clone(), reports.clone()),
            orders: Orders::open(&settings.local.state, recorder.last_operator()),
            history: first_history(&settings).with_learnt(learnt),
            refusals: refused,
            memory,
            recorder,
            look_again: None,
            recording: Recording::of(&settings),
            versions: None,
            told: Told::default(),
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

    /// The same, with workers that read model files of this machine: they are replaced when the version changes.
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

    /// What it has heard of workers and web hosts, for those who run [`pass`](Self::pass) without [`run`](Self::run).
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
            } else if self.told.summary != summary {
                lifecycle.status(&summary);
            }
            self.told.summary = summary;
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
        Remembered { refused: self.refusals.clone(), learnt: self.history.learnt().clone() }
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
        self.tell_missing(&seen);
        let history = std::mem::replace(&mut self.history, History::new(Duration::ZERO)).observe(&seen);
        let plan = decide(self.store.policies(), &seen, &history);
        let mut allowed = plan.allowed(&seen.operator);
        let broken = check(self.store.policies(), &seen, &history, &plan);
        debug_assert_eq!(broken, Vec::<String>::new());
        if !broken.is_empty() {
            let rules = broken.join("; ");
            // A plan that breaks a rule is a mistake of this program: what is there is better than what it would do.
            tracing::error!(rules, "the plan breaks a rule and is not carried out: {rules}");
            allowed.pools.values_mut().for_each(|pool| pool.actions.clear());
        }
        if self.is_cut_off() {
            allowed.pools.values_mut().for_each(|pool| pool.actions.clear());
        }
        self.history = history.remember(&allowed);
        self.look_again = plan.look_again(|pool| seen.operator.paused(pool).is_some());
        self.tell(&seen, &plan);
        self.tell_budgets(seen.at);
        self.tell_trials(&seen);
        let acting = debug_span!(target: TARGET, "act", actions = allowed.actions().count());
        let refusals = act(&allowed, &*self.fleet).instrument(acting).await;
        if allowed.actions().next().is_some() && refusals.is_empty() {
            // What was done is seen, and shown, in the next pass; that one has nothing left to do.
            self.poke.notify_one();
        }
        self.tell_refusals(&refusals);
        self.refusals.note(&allowed.verbs(), &refusals, seen.at);
        self.write_down(&seen, &plan);
        summary(&plan, &seen.operator)
    }

    /// Whether this one may not act, for it could not say for a while that it is there: another one may, then.
    fn is_cut_off(&mut self) -> bool {
        let is_cut_off = self.claim.as_ref().is_some_and(|claim| !claim.may_act());
        match (self.told.is_cut_off, is_cut_off) {
            (false, true) => {
                tracing::warn!("the claim could not be renewed for too long: nothing is started or drained")
            }
            (true, false) => tracing::info!("the claim is renewed, and this controller acts again"),
            _ => {}
        }
        self.told.is_cut_off = is_cut_off;
        is_cut_off
    }

    /// Writes what others read: the status, the recording, what a preview needs, what the next controller shall know.
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

    /// Logs what changed in a plan, a line for each pool, and keeps it for the status.
    fn tell(&mut self, seen: &Observation, plan: &Plan) {
        for (pool, now) in &plan.pools {
            let paused = seen.operator.paused(pool);
            let before = self.told.pools.insert(pool.clone(), (now.clone(), paused.is_some()));
            if before.is_some_and(|(before, was_paused)| {
                was_paused == paused.is_some() && is_old_news(&before, now)
            }) {
                continue;
            }
            let decision = Decision::of(plan.at, pool, now, paused.is_some());
            let actions = journal::actions(now);
            let then = match paused {
                _ if actions.is_empty() => "nothing to do".to_owned(),
                Some(order) => format!("would {actions}, but is paused {order}"),
                None => actions.clone(),
            };
            tracing::info!(
                pool,
                backlog = decision.backlog,
                in_flight = now.depth.map(|depth| depth.in_flight),
                arrivals_per_s = self.history.arrivals_per_s(pool),
                service_time_s = seen.service_s(pool),
                wishes = journal::wishes(now),
                clamps = journal::clamps(now),
                desired = decision.desired,
                running = decision.running,
                holds = journal::holds(now),
                actions,
                paused = paused.is_some(),
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

    /// Warns when half of a day's budget is used, and when four fifths are.
    fn tell_budgets(&mut self, now: DateTime<Utc>) {
        for (pool, policy) in &self.store.policies().pools {
            let Some(hours) = policy.budget.instance_hours_per_day.filter(|hours| *hours > 0.0) else {
                continue;
            };
            let used = self.history.used_today(pool, policy, now).instance_s / 3600.0 / hours;
            let reached =
                WARNINGS.into_iter().find(|share| used >= *share).map_or(0, |share| (share * 100.0) as u32);
            let before = self.told.budgets.insert(pool.clone(), reached).unwrap_or(0);
            if reached > before {
                tracing::warn!(
                    pool,
                    used_hours = used * hours,
                    budget_hours = hours,
                    "{pool}: {reached} % of the day's budget of {hours} instance hours are used"
                );
            }
        }
    }

    /// Logs what the policies on trial would do, whenever that is something else.
    fn tell_trials(&mut self, seen: &Observation) {
        let Some(policies) = self.store.on_trial() else {
            self.told.trials.clear();
            return;
        };
        let plan = decide(&policies, seen, &self.history);
        for pool in self.store.trials() {
            let Some(part) = plan.pools.get(pool) else { continue };
            let actions = journal::actions(part);
            let would = if actions.is_empty() { "do nothing".to_owned() } else { actions };
            let known = format!("{} {would}", part.desired);
            if self.told.trials.insert(pool.clone(), known.clone()).as_ref() != Some(&known) {
                let reason = part.reason();
                tracing::info!(
                    pool,
                    desired = part.desired,
                    reason,
                    "{pool} on trial would have {} and {would} ({reason})",
                    part.desired
                );
            }
        }
    }

    fn tell_missing(&mut self, seen: &Observation) {
        for sentence in seen.missing.iter().filter(|sentence| !self.told.missing.contains(sentence)) {
            tracing::warn!("cannot observe {sentence}; nothing is drained meanwhile");
        }
        if seen.missing.is_empty() && !self.told.missing.is_empty() {
            tracing::info!("everything can be observed again");
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
}

/// What instances ran in the last day, from the recording: where the memory is lost the day's budget is still known. A gap between two
/// lines of a pool is time in which nobody looked.
fn recall_use(learnt: &mut Learnt, settings: &Settings, now: DateTime<Utc>) {
    let folder = settings.local.state.join(record::FOLDER);
    if !folder.is_dir() {
        return;
    }
    let mut last = BTreeMap::<String, (DateTime<Utc>, u32)>::new();
    for line in record::read(&folder).flatten().filter(|line| now - line.at < RECALLED && line.at <= now) {
        let alive = line.ready + line.starting + line.leaving;
        if let Some((then, before)) = last.insert(line.pool.clone(), (line.at, alive)) {
            let to = line.at.min(then + LONGEST_LINE);
            learnt.recall_use(&line.pool, then, to, before as usize, line.arrived);
        }
    }
}

/// Says again and again that the controller runs here, and renews its claim. Ends with another one that has taken it over.
async fn keep_control(
    backend: Backend,
    claim: Option<Arc<Claim>>,
    host: String,
    clock: SharedClock,
) -> Control {
    let mut said: Option<tokio::time::Instant> = None;
    loop {
        let next = match &claim {
            None => Control::RENEW,
            Some(claim) => match claim.renew().await {
                Ok(Some(other)) => return other,
                Ok(None) => Claim::RENEW,
                Err(error) => {
                    tracing::warn!(%error, "the claim of this controller cannot be renewed");
                    Claim::LOOK
                }
            },
        };
        // For the workers, who need to hear it less often.
        if claim.as_ref().is_none_or(|claim| claim.may_act())
            && said.is_none_or(|at| at.elapsed() >= Control::RENEW)
        {
            match backend.tell_control(Some(&host), clock.now()).await {
                Ok(()) => said = Some(tokio::time::Instant::now()),
                Err(error) => tracing::warn!(%error, "the claim of this controller cannot be \
                    written"),
            }
        }
        tokio::time::sleep(next).await;
    }
}

/// Whether a reader of the log knows this already: the same goal, nothing new to do, no new trouble.
fn is_old_news(before: &PoolPlan, now: &PoolPlan) -> bool {
    let trouble =
        |plan: &PoolPlan| plan.holds.iter().filter(|hold| !hold.is_ordinary()).cloned().collect::<Vec<_>>();
    let nothing_new = now.actions.is_empty() || now.actions == before.actions;
    before.desired == now.desired && nothing_new && trouble(before) == trouble(now)
}

/// What a controller that starts now knows of the past. A pass may be late; a machine that slept has missed several.
pub(crate) fn first_history(settings: &Settings) -> History {
    History::new(3 * settings.controller.tick + Duration::from_secs(60))
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
