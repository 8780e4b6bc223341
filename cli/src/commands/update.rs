//! `eirs update`: gives the machines of an installation a new image, one of them first, and rolls
//! back if it fails the checks. `eirs setup` does the same if it finds machines with another image.

use std::{collections::BTreeMap, sync::Arc};

use chrono::Utc;
use console::style;
use eirs_platform::{aws::tag, backend::Backend, clock::SystemClock};
use serde_json::{Value, json};

use crate::{
    Exit, Global, Stop,
    aws::{
        Account,
        iam::Role,
        image, instances, network,
        pool::{self, Place, Sizes},
        update::{
            record::{Phase, Record, Request, Update},
            roll::Roll,
        },
    },
    commands::setup::{self, Wanted, survey::Survey},
    show::{self, Progress, Voice},
};

/// Give the machines of an installation a new model, new settings or a new version
///
/// Bakes an image, launches one machine from it and tests that machine: with images whose labels
/// are known (setup.update.check_images), with images that were uploaded lately, and for speed. The
/// results of the test are not stored. If it passes, the other machines are replaced in waves,
/// including those that are running; if it fails, nothing changes. After an interruption, run it
/// again.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  eirs --config eirs-eu-central-1.toml update --plan\n  \
    eirs --config eirs-eu-central-1.toml update --wave 2\n  \
    eirs --config eirs-eu-central-1.toml update --status")]
pub(crate) struct UpdateCommand {
    /// Only show what would be done
    #[arg(long)]
    plan: bool,
    /// Do not ask for confirmation
    #[arg(long, short)]
    yes: bool,
    #[command(flatten)]
    voice: Voice,
    /// How many machines to replace at once (setup.update.wave)
    #[arg(long, value_name = "COUNT")]
    wave: Option<u32>,
    /// Build on the newest image of the system, not on the one used before
    #[arg(long)]
    new_base: bool,
    /// Show the progress of the last update
    #[arg(long, group = "verb")]
    status: bool,
    /// Pause the running update after its current step
    #[arg(long, group = "verb")]
    pause: bool,
    /// Continue a paused update
    #[arg(long, group = "verb")]
    resume: bool,
    /// Return the machines to the image before the update
    #[arg(long, group = "verb")]
    rollback: bool,
}

impl UpdateCommand {
    /// Runs the command.
    pub(crate) async fn run(self, global: &Global) -> Result<Exit, Stop> {
        let layers = global.layers().flag("setup.update.wave", self.wave);
        let settings = setup::cloud_settings(layers)?;
        let pools = setup::pools(&settings)?;
        let account = Account::open(settings).await?;
        let record = Record::of(&backend(&account).await?);
        if self.status {
            return self.show_status(&account, &pools, &record).await;
        }
        if self.pause {
            return self.pause(&record).await;
        }
        if self.resume || self.rollback {
            return self.resume_or_roll_back(&account, &pools, &record).await;
        }
        let mut wanted = Wanted::with_web_hosts(&account, pools, self.new_base).await?;
        wanted.wave = account.settings.setup.update.wave;
        let survey = Survey::of(&account, &wanted).await?;
        self.voice.say(survey.text(&account));
        let mut report = survey.json(&account);
        report["done"] = false.into();
        if self.plan {
            self.voice.end(&report);
            return Ok(Exit::Ok);
        }
        if !survey.is_nothing() {
            if !self.voice.confirmed(self.yes)? {
                self.voice.end(&report);
                return Ok(Exit::Failed);
            }
            if let Some(why) = setup::carry_out(&account, &wanted, global).await? {
                self.voice.say(why);
                self.voice.end(&report);
                return Ok(Exit::Failed);
            }
        }
        self.voice.say("Everything has the new version.");
        report["done"] = true.into();
        self.voice.end(&report);
        Ok(Exit::Ok)
    }

    async fn show_status(&self, account: &Account, pools: &Sizes, record: &Record) -> Result<Exit, Stop> {
        let Some(update) = record.read().await? else {
            self.voice.show(&Value::Null, || "There was no update yet.");
            return Ok(Exit::Ok);
        };
        let is_driven = !update.phase.is_over() && record.is_driven().await?;
        let mut machines = BTreeMap::new();
        for pool in pool::all(account, pools).await? {
            let all = pool.machines.iter().chain(&pool.launched);
            let counted = all.filter(|machine| machine.is_handed_over());
            let of = |id: &str| counted.clone().filter(|machine| machine.image == id).count();
            let is_new = of(&update.to);
            machines.insert(
                pool.name.clone(),
                json!({ "of_it": is_new, "of_others": counted.clone().count() - is_new }),
            );
        }
        let report = json!({ "update": update, "is_carried_out": is_driven, "pools": machines });
        self.voice.show(&report, || text(&update, is_driven, &machines));
        Ok(Exit::Ok)
    }

    async fn pause(&self, record: &Record) -> Result<Exit, Stop> {
        under_way(record).await?;
        if record.is_driven().await? {
            record.change(|update| update.request = Some(Request::Pause)).await?;
            self.voice.say("The update pauses after its current step; `eirs update --resume` continues it.");
        } else {
            record.change(|update| update.is_paused = true).await?;
            self.voice.say("The update is paused; `eirs update --resume` continues it.");
        }
        self.voice.end(&json!({ "paused": true }));
        Ok(Exit::Ok)
    }

    /// Continues an update, or rolls it back.
    async fn resume_or_roll_back(
        &self,
        account: &Account,
        pools: &Sizes,
        record: &Record,
    ) -> Result<Exit, Stop> {
        if self.rollback {
            let last = record.read().await?;
            let last = last.ok_or_else(|| Stop::Usage("there is no update to roll back".into()))?;
            if last.phase == Phase::RolledBack {
                return Err(Stop::Usage("the last update was already rolled back".into()));
            }
            if !last.phase.is_over() && record.is_driven().await? {
                record.change(|update| update.request = Some(Request::RollBack)).await?;
                self.voice.say(
                    "The process that carries out the update rolls it back; --status shows its \
                    progress.",
                );
                self.voice.end(&json!({ "rolling_back": true }));
                return Ok(Exit::Ok);
            }
            record.change(|update| update.roll_back("an operator requested it")).await?;
        } else {
            under_way(record).await?;
            record.change(|update| (update.is_paused, update.request) = (false, None)).await?;
        }
        let network = network::find(account).await?;
        let group = network::ensure_group(account, &network, Role::Worker).await?;
        let subnets = network.offering(account, &account.settings.setup.worker_type).await?;
        let progress = Progress::new();
        let say = |what: &str| progress.show(what);
        let wave = account.settings.setup.update.wave;
        let update = drive(account, pools, (&subnets, &group), wave, &say).await?;
        let is_good = match (update.phase, update.is_paused) {
            (Phase::RolledBack, _) => self.rollback,
            (_, is_paused) => !is_paused,
        };
        drop(progress);
        self.voice.say(outcome(&update).unwrap_or_else(|| "All workers have the new image.".into()));
        self.voice.end(&json!({ "update": update }));
        Ok(if is_good { Exit::Ok } else { Exit::Failed })
    }
}

async fn under_way(record: &Record) -> Result<Update, Stop> {
    let update = record.read().await?.filter(|update| !update.phase.is_over());
    update.ok_or_else(|| Stop::Usage("no update is in progress".into()))
}

async fn backend(account: &Account) -> anyhow::Result<Backend> {
    Ok(Backend::open(&account.settings, Arc::new(SystemClock)).await?)
}

/// Replaces the machines with another image, if there are any; returns the reason if not all have
/// this image afterwards.
pub(crate) async fn machines(
    account: &Account,
    wanted: &Wanted,
    place: Place<'_>,
    say: &dyn Fn(&str),
) -> anyhow::Result<Option<String>> {
    let pools = pool::all(account, &wanted.pools).await?;
    let others = pools.iter().flat_map(|pool| pool.changes(Some(place.image)).outdated).count();
    let record = Record::of(&backend(account).await?);
    let last = record.read().await?.filter(|update| !update.phase.is_over());
    match last {
        None if others == 0 => return Ok(None),
        None => {
            let from = image_of_most(account, &place.image.id).await?;
            record.begin(&Update::new(&place.image.id, from.as_deref(), Utc::now())).await?;
        }
        Some(last) if last.is_paused => {
            return Ok(Some(
                "An update is paused; `eirs update --resume` continues it, --rollback rolls it back.".into(),
            ));
        }
        Some(last) if last.to != place.image.id && last.phase != Phase::RollingBack => {
            let (to, own) = (&last.to, &place.image.id);
            anyhow::bail!(
                "an update to {to} is in progress, and this one would be to {own}; continue that one with \
                 `eirs update --resume`, or roll it back with `eirs update --rollback`"
            );
        }
        Some(_) => say("continuing the update that is in progress"),
    }
    let update = drive(account, &wanted.pools, (place.subnets, place.group), wanted.wave, say).await?;
    Ok(outcome(&update))
}

/// Carries out the recorded update, as the only process.
async fn drive(
    account: &Account,
    sizes: &Sizes,
    (subnets, group): (&[network::Subnet], &str),
    wave: u32,
    say: &dyn Fn(&str),
) -> anyhow::Result<Update> {
    let backend = backend(account).await?;
    let record = Record::of(&backend);
    let driving = record.drive(say).await?;
    let roll = Roll { account, backend: &backend, record: &record, sizes, subnets, group, wave, say };
    let ended = roll.run().await;
    record.leave(driving).await?;
    let update = ended?;
    if update.phase.is_over() {
        let kept = account.settings.setup.keep_images as usize;
        let named: Vec<_> =
            [Some(update.to.as_str()), update.from.as_deref()].into_iter().flatten().collect();
        for gone in image::prune(account, kept, &named).await? {
            say(&format!("deleted the image {gone}, which no machine has"));
        }
    }
    Ok(update)
}

/// Returns a sentence for the operator if the machines do not have the new image.
fn outcome(update: &Update) -> Option<String> {
    let why = update.why.as_deref().unwrap_or("an operator requested it");
    match update.phase {
        _ if update.is_paused => Some(
            "The update is paused; `eirs update --resume` continues it, --rollback rolls it back.".into(),
        ),
        Phase::RolledBack => Some(format!("The machines have the previous image again: {why}.")),
        _ => None,
    }
}

/// Returns the image of most machines of the controller, if it still exists.
async fn image_of_most(account: &Account, but: &str) -> anyhow::Result<Option<String>> {
    let known = image::all(account).await?;
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for machine in instances::all(account, Some(tag::WORKER)).await? {
        let is_one = machine.is_handed_over() && machine.image != but;
        if is_one && known.iter().any(|baked| baked.image.id == machine.image) {
            *counts.entry(machine.image).or_default() += 1;
        }
    }
    Ok(counts.into_iter().max_by_key(|(_, count)| *count).map(|(image, _)| image))
}

fn text(update: &Update, is_driven: bool, machines: &BTreeMap<String, Value>) -> String {
    let phase = match update.phase {
        Phase::Canary => "testing one machine",
        Phase::Rolling => "replacing the others",
        Phase::RollingBack => "rolling back",
        Phase::Done => "done",
        Phase::RolledBack => "rolled back",
    };
    let from = update.from.as_deref().map_or_else(String::new, |from| format!(" from {from}"));
    let mut text = format!("{}{from} to {}: {}", style("Update").bold(), update.to, phase);
    text += match (update.phase.is_over(), update.is_paused, is_driven) {
        (true, ..) => "",
        (_, true, _) => "; paused",
        (_, _, true) => "; a process carries it out",
        (..) => "; no process carries it out: run `eirs update` again",
    };
    text += &format!("\nbegun {}", show::since(update.began, Utc::now()));
    if let Some(why) = &update.why {
        text += &format!("\nreason of the rollback: {why}");
    }
    for (model, verdict) in &update.verdicts {
        text += &format!("\nthe first machine, {model}: {verdict}");
    }
    for (pool, counts) in machines {
        text += &format!(
            "\npool {pool}: {} with the new image, {} with others",
            counts["of_it"], counts["of_others"]
        );
    }
    text
}
