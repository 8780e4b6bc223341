//! Carries an update out in steps, each of which follows from the current state.

use std::time::Duration;

use anyhow::Context;
use chrono::Utc;
use eirs_platform::{aws::tag, backend::Backend, error::Error, job::Reply};
use tokio::time::Instant;

use super::{
    checks,
    record::{Phase, Record, Request, Update},
    steps::Step,
    trial::Trial,
    verdict::Verdict,
};
use crate::aws::{
    Account, LOOK_EVERY, image, instances,
    launch::Image,
    network::Subnet,
    pool::{self, Place, Pool, Sizes},
};

/// Number of consecutive failed launches that cause a rollback.
const FAILURES: u32 = 3;
/// Tags are visible with a delay; a repeated step has no further effect.
const SEEN_AFTER: Duration = Duration::from_millis(500);
/// Time limit until a retired machine is parked: the controller has replaced it, and it has
/// drained.
const LEAVES_WITHIN: Duration = Duration::from_secs(45 * 60);

/// The parameters of an update.
#[derive(Clone, Copy)]
pub(crate) struct Roll<'a> {
    pub(crate) account: &'a Account,
    pub(crate) backend: &'a Backend,
    pub(crate) record: &'a Record,
    pub(crate) sizes: &'a Sizes,
    pub(crate) subnets: &'a [Subnet],
    pub(crate) group: &'a str,
    pub(crate) wave: u32,
    pub(crate) say: &'a dyn Fn(&str),
}

/// The reason why an update does not continue.
enum Halt {
    Request(Request),
    /// The image failed its checks.
    Bad(String),
    /// Any other error.
    Failed(anyhow::Error),
}

impl<E: Into<anyhow::Error>> From<E> for Halt {
    fn from(error: E) -> Self {
        Self::Failed(error.into())
    }
}

type Way<T> = Result<T, Halt>;

impl Roll<'_> {
    /// Carries the update out until all machines have the image, until they are rolled back, or
    /// until it is paused. Any other failure is an error, after which the next run continues.
    pub(crate) async fn run(self) -> anyhow::Result<Update> {
        loop {
            let update = self.record.read().await?.context("there is no update")?;
            let gone = match update.phase {
                _ if update.is_paused => return Ok(update),
                Phase::Canary => self.canaries(&update).await,
                Phase::Rolling => self.waves(&update.to, true).await,
                Phase::RollingBack => match self.back(&update).await {
                    Ok(()) => self.discard(&update).await.map_err(Halt::from),
                    halt => halt,
                },
                Phase::Done | Phase::RolledBack => return Ok(update),
            };
            match gone {
                Ok(()) => _ = self.record.change(advance).await?,
                Err(Halt::Request(Request::Pause)) => {
                    let pause = |update: &mut Update| (update.is_paused, update.request) = (true, None);
                    self.record.change(pause).await?;
                }
                Err(Halt::Request(Request::RollBack)) => {
                    (self.say)("rolling back, as requested");
                    self.record.change(|update| update.roll_back("an operator requested it")).await?;
                }
                Err(Halt::Bad(why)) if update.phase != Phase::RollingBack => {
                    (self.say)(&format!("rolling back: {why}"));
                    self.record.change(|update| update.roll_back(&why)).await?;
                }
                Err(Halt::Bad(why)) => anyhow::bail!("the rollback failed, too: {why}"),
                Err(Halt::Failed(error)) => return Err(error),
            }
        }
    }

    /// Tries one machine for each model.
    async fn canaries(&self, update: &Update) -> Way<()> {
        let to = self.image(&update.to).await?;
        for pool in pool::all(self.account, self.sizes).await? {
            let is_needed = pool.wanted > 0 && !update.verdicts.contains_key(&pool.model);
            // An existing machine was proven by a run that could not record it.
            let is_there = pool.machines.iter().any(|it| it.image == to.id && it.is_handed_over());
            if is_needed
                && !is_there
                && self.record.read().await?.is_some_and(|now| !now.verdicts.contains_key(&pool.model))
            {
                self.canary(&pool, &to).await?;
            }
        }
        Ok(())
    }

    async fn canary(&self, pool: &Pool, to: &Image) -> Way<()> {
        let say = self.say;
        say(&format!("{}: collecting images to test the new machine with", pool.name));
        let checks = checks::of(&self.account.settings, self.backend, &pool.model).await?;
        for _ in 0..FAILURES {
            self.heed().await?;
            let now = pool.now(self.account).await?;
            let begun = now.machines.iter().find(|it| it.image == to.id && !it.is_handed_over());
            let ids = match begun {
                Some(machine) => self.wake(pool, vec![machine.id.clone()]).await?,
                None => self.launch(pool, to, 1).await?,
            };
            let reached = pool.come_up(self.account, ids, say).await?;
            let Some(id) = reached.first() else { continue };
            say(&format!("{}: testing {id} with {} images", pool.name, checks.len()));
            let trial = Trial::open(self.backend, &pool.model).await?;
            let replies = trial.ask_all(&checks).await;
            trial.close().await?;
            let verdict = Verdict::of(&self.account.settings.setup.update, &checks, &replies?);
            say(&format!("{}: {id}: {verdict}", pool.name));
            let (model, note) = (pool.model.clone(), verdict.clone());
            self.record.change(|update| _ = update.verdicts.insert(model.clone(), note.clone())).await?;
            if let Some(wrong) = verdict.wrong {
                return Err(Halt::Bad(format!("the first machine of the new image, {id}, failed: {wrong}")));
            }
            return Ok(pool.park(self.account, &reached, say).await?);
        }
        Err(Halt::Bad(format!("{FAILURES} machines of the new image in a row did not come up")))
    }

    async fn waves(&self, to: &str, is_tried: bool) -> Way<()> {
        let to = self.image(to).await?;
        for pool in pool::all(self.account, self.sizes).await? {
            self.pool(&pool, &to, is_tried).await?;
        }
        Ok(())
    }

    /// Rolls back to the previous image; if there was none, only removes the new machines.
    async fn back(&self, update: &Update) -> Way<()> {
        if let Some(from) = &update.from {
            return self.waves(from, false).await;
        }
        let all = instances::all(self.account, Some(tag::WORKER)).await?;
        let begun = all.into_iter().filter(|it| it.image == update.to && !it.is_handed_over());
        let begun: Vec<_> = begun.map(|it| it.id).collect();
        Ok(instances::terminate(self.account, &begun).await?)
    }

    /// Deletes an image that failed its checks.
    async fn discard(&self, update: &Update) -> anyhow::Result<()> {
        let bad = image::all(self.account).await?.into_iter().find(|baked| baked.image.id == update.to);
        match bad.filter(|_| update.verdicts.values().any(|verdict| verdict.wrong.is_some())) {
            Some(bad) => {
                (self.say)(&format!("deleting the image {}", bad.image.id));
                image::delete(self.account, &bad).await
            }
            None => Ok(()),
        }
    }

    async fn pool(&self, pool: &Pool, to: &Image, is_tried: bool) -> Way<()> {
        let (account, say) = (self.account, self.say);
        let (mut wave, mut failures, mut waits_since) = (self.wave, 0, None);
        let mut checks = None;
        loop {
            self.heed().await?;
            let now = pool.now(account).await?;
            let step = Step::next(&now, &to.id, wave);
            if !matches!(step, Step::Wait(_)) {
                waits_since = None;
            }
            let ids = match step {
                Step::Done => return Ok(()),
                Step::Keep(ids) => {
                    instances::set_tags(account, &ids, &[(tag::RETIRES, "no")]).await?;
                    tokio::time::sleep(SEEN_AFTER).await;
                    continue;
                }
                Step::TakeAway(ids) => {
                    pool.take_away(account, &ids, say).await?;
                    continue;
                }
                Step::Retire(ids) => {
                    say(&format!("{}: {} may be drained: others can replace it", pool.name, ids.join(", ")));
                    instances::set_tags(account, &ids, &[(tag::RETIRES, tag::YES)]).await?;
                    tokio::time::sleep(SEEN_AFTER).await;
                    continue;
                }
                Step::Wait(ids) => {
                    let since = *waits_since.get_or_insert_with(|| {
                        say(&format!("{}: waiting until {} is drained", pool.name, ids.join(", ")));
                        Instant::now()
                    });
                    if since.elapsed() > LEAVES_WITHIN {
                        let ids = ids.join(", ");
                        return Err(Halt::Failed(anyhow::anyhow!(
                            "{ids} still runs after {}; the controller drains it when another one \
                             serves: is one running?",
                            humantime::format_duration(LEAVES_WITHIN)
                        )));
                    }
                    tokio::time::sleep(LOOK_EVERY).await;
                    continue;
                }
                Step::Prove(ids) => self.wake(pool, ids).await?,
                Step::Launch(count) => match self.launch(pool, to, count).await {
                    Ok(ids) => ids,
                    // A limit of the account or of a zone; smaller waves may succeed.
                    Err(Halt::Failed(error)) if wave > 1 && is_no_capacity(&error) => {
                        wave = 1;
                        say(&format!("{}: {error:#}; one at a time", pool.name));
                        continue;
                    }
                    Err(halt) => return Err(halt),
                },
            };
            let reached = pool.come_up(account, ids, say).await?;
            let proven = match is_tried {
                true => {
                    if checks.is_none() {
                        checks = Some(checks::of(&account.settings, self.backend, &pool.model).await?);
                    }
                    self.proven(pool, reached, checks.as_deref().unwrap_or_default()).await?
                }
                false => reached,
            };
            failures = if proven.is_empty() { failures + 1 } else { 0 };
            if failures >= FAILURES {
                return Err(Halt::Bad(format!("{failures} waves in a row failed in the pool {}", pool.name)));
            }
            pool.park(account, &proven, say).await?;
        }
    }

    /// Returns those of these machines that classify correctly. The others are terminated.
    async fn proven(&self, pool: &Pool, reached: Vec<String>, checks: &[checks::Check]) -> Way<Vec<String>> {
        (self.say)(&format!("{}: testing {}", pool.name, reached.join(", ")));
        let trial = Trial::open(self.backend, &pool.model).await?;
        let replies = trial.ask_each(&reached, checks).await;
        trial.close().await?;
        let replies = replies?;
        let works = |id: &String| replies.get(id).and_then(Reply::label).is_some();
        let (good, bad): (Vec<_>, Vec<_>) = reached.into_iter().partition(works);
        if !bad.is_empty() {
            (self.say)(&format!("{}: {} does not classify and is removed", pool.name, bad.join(", ")));
            instances::terminate(self.account, &bad).await?;
        }
        Ok(good)
    }

    async fn launch(&self, pool: &Pool, image: &Image, count: u32) -> Way<Vec<String>> {
        (self.say)(&format!("{}: launching {count} of {}", pool.name, image.id));
        let place = Place { image, subnets: self.subnets, group: self.group };
        let tags = [(tag::HANDED_OVER, tag::TRIAL), (tag::MODEL, pool.model.as_str())];
        Ok(pool.launch(self.account, place, count, &tags).await?)
    }

    /// Continues with machines of an interrupted run, in whatever state they are.
    async fn wake(&self, pool: &Pool, ids: Vec<String>) -> Way<Vec<String>> {
        (self.say)(&format!("{}: continuing with {}", pool.name, ids.join(", ")));
        let tags = [(tag::HANDED_OVER, tag::TRIAL), (tag::MODEL, pool.model.as_str())];
        instances::set_tags(self.account, &ids, &tags).await?;
        pool::wake(self.account, &ids).await?;
        Ok(ids)
    }

    /// Stops if the operator has requested something else.
    async fn heed(&self) -> Way<()> {
        let request = self.record.read().await?.and_then(|update| update.request);
        request.map_or(Ok(()), |request| Err(Halt::Request(request)))
    }

    async fn image(&self, id: &str) -> anyhow::Result<Image> {
        let found = image::all(self.account).await?.into_iter().find(|baked| baked.image.id == id);
        Ok(found.with_context(|| format!("the image {id} is gone"))?.image)
    }
}

/// Moves to the next phase.
fn advance(update: &mut Update) {
    update.phase = match update.phase {
        Phase::Canary => Phase::Rolling,
        Phase::Rolling => Phase::Done,
        Phase::RollingBack => Phase::RolledBack,
        over => over,
    };
    if update.phase.is_over() {
        update.ended = Some(Utc::now());
    }
}

fn is_no_capacity(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref::<Error>(), Some(Error::NoCapacity { .. }))
}
