//! `eirs pause`, `resume`, `cordon` and `uncordon`: orders of the operator beyond the policies.
//! They are written to the state folder; a running controller obeys at once, another one from its
//! start.

use std::{collections::BTreeSet, fmt::Display, sync::Arc};

use chrono::Utc;
use eirs_controller::{
    fleet::{self, PoolSpec},
    operator::{self, BadOrders, Cordon, Operator, Order},
    policy::{Policies, load},
};
use eirs_platform::{
    clock::SystemClock,
    settings::Settings,
    state_folder::{self, CONTROLLER_LOCK},
};
use serde::Serialize;

use crate::{Exit, Global, Stop, commands::status, show::Voice, state};

/// Let the controller decide, but not act
///
/// Nothing is started, drained or stopped for a paused pool until `eirs resume`. Running workers
/// continue. `eirs plan` shows what would be done.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  eirs pause\n  eirs pause default")]
pub(crate) struct Pause {
    /// The pool [default: all, including future pools]
    #[arg(value_name = "POOL")]
    pool: Option<String>,
    #[command(flatten)]
    voice: Voice,
}

/// Let the controller act again
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  eirs resume\n  eirs resume default")]
pub(crate) struct Resume {
    /// The pool [default: all]
    #[arg(value_name = "POOL")]
    pool: Option<String>,
    #[command(flatten)]
    voice: Voice,
}

/// Keep instances from being started
///
/// A cordoned instance is not started any more, and is drained first when there are too many. With
/// --drain it finishes its jobs and ends now, and another one is started if needed.
#[derive(Debug, clap::Args)]
#[command(name = "cordon", after_help = "Example:\n  eirs cordon default-3 --drain")]
pub(crate) struct CordonCommand {
    /// The instances
    #[arg(value_name = "INSTANCE", required = true)]
    instances: Vec<String>,
    /// Drain them now, even if they are needed
    #[arg(long)]
    drain: bool,
    #[command(flatten)]
    voice: Voice,
}

/// Let cordoned instances be started again
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  eirs uncordon default-3")]
pub(crate) struct Uncordon {
    /// The instances
    #[arg(value_name = "INSTANCE", required = true)]
    instances: Vec<String>,
    #[command(flatten)]
    voice: Voice,
}

/// The output of `--json`.
#[derive(Debug, Serialize)]
struct Ordered<'a> {
    /// All orders in force.
    orders: &'a Operator,
    /// Whether a controller runs and obeys at once; otherwise the next one will.
    controller_running: bool,
}

/// Number of known names that are listed after a wrong one.
const NAMES: usize = 20;

impl Pause {
    pub(crate) fn run(self, global: &Global) -> Result<Exit, Stop> {
        let settings = ready(global)?;
        let known = Known::of(&settings);
        if let Some(pool) = &self.pool {
            check_known("pool", std::slice::from_ref(pool), &known.pools)?;
        }
        let order = Order::new(user(), Utc::now());
        let orders = change(&settings, |orders| match &self.pool {
            Some(pool) => _ = orders.paused.entry(pool.clone()).or_insert(order),
            None => _ = orders.all_paused.get_or_insert(order),
        })?;
        let (what, order) = match &self.pool {
            Some(pool) => (format!("The pool {pool} is paused"), orders.paused(pool)),
            None => ("Every pool is paused".to_owned(), orders.all_paused.as_ref()),
        };
        let order = order.map_or_else(String::new, |order| format!(" ({order})"));
        Ok(ordered(
            self.voice,
            &settings,
            &orders,
            format!(
                "{what}{order}; `eirs resume` resumes \
            it."
            ),
        ))
    }
}

impl Resume {
    pub(crate) fn run(self, global: &Global) -> Result<Exit, Stop> {
        let settings = ready(global)?;
        let before = read(&settings)?;
        let Some(pool) = &self.pool else {
            let orders = change(&settings, |orders| {
                orders.all_paused = None;
                orders.paused.clear();
            })?;
            let was_paused = before.all_paused.is_some() || !before.paused.is_empty();
            let sentence = if was_paused { "No pool is paused now." } else { "Nothing was paused." };
            return Ok(ordered(self.voice, &settings, &orders, sentence));
        };
        if before.all_paused.is_some() {
            let sentence = "every pool is paused, and a single one cannot be resumed; `eirs resume` resumes \
                all";
            return Err(Stop::Failed(anyhow::anyhow!(sentence)));
        }
        if !before.paused.contains_key(pool) {
            check_known("pool", std::slice::from_ref(pool), &Known::of(&settings).pools)?;
            return Ok(ordered(self.voice, &settings, &before, format!("The pool {pool} was not paused.")));
        }
        let orders = change(&settings, |orders| _ = orders.paused.remove(pool))?;
        Ok(ordered(self.voice, &settings, &orders, format!("The pool {pool} is resumed.")))
    }
}

impl CordonCommand {
    pub(crate) async fn run(self, global: &Global) -> Result<Exit, Stop> {
        let settings = ready(global)?;
        let known = Known::of(&settings);
        if !self.instances.iter().all(|instance| known.instances.contains(instance)) {
            check_known("instance", &self.instances, &known.with_instances(&settings).await?)?;
        }
        let orders = change(&settings, |orders| {
            for instance in &self.instances {
                let cordon = Cordon { since: Utc::now(), by: user(), drain: self.drain };
                let now = orders.cordoned.entry(instance.clone()).or_insert(cordon);
                // Without --drain, a repeated cordon cancels the drain.
                now.drain = self.drain;
            }
        })?;
        let (names, are) = names(&self.instances);
        let them = if self.instances.len() == 1 { "it" } else { "them" };
        let and = if self.drain { " and drained" } else { "" };
        let sentence = format!("{names} {are} cordoned{and}; `eirs uncordon` releases {them}.");
        Ok(ordered(self.voice, &settings, &orders, sentence))
    }
}

impl Uncordon {
    pub(crate) fn run(self, global: &Global) -> Result<Exit, Stop> {
        let settings = ready(global)?;
        let cordoned: BTreeSet<_> = read(&settings)?.cordoned.into_keys().collect();
        // A cordoned instance can be uncordoned even if the fleet no longer has it.
        check_known("cordoned instance", &self.instances, &cordoned)?;
        let orders = change(&settings, |orders| {
            orders.cordoned.retain(|instance, _| !self.instances.contains(instance));
        })?;
        let (names, are) = names(&self.instances);
        Ok(ordered(self.voice, &settings, &orders, format!("{names} {are} uncordoned.")))
    }
}

/// Reports the orders, and when they take effect.
fn ordered(voice: Voice, settings: &Settings, orders: &Operator, sentence: impl Display) -> Exit {
    let controller_running = state_folder::holder(&settings.local.state, CONTROLLER_LOCK).is_some();
    voice.show(&Ordered { orders, controller_running }, || {
        let when = match controller_running {
            true => "The controller obeys at once.",
            false => "No controller is running; the next one will obey.",
        };
        format!("{sentence} {when}")
    });
    Exit::Ok
}

/// Returns the settings for an existing state folder; an order must not create one.
fn ready(global: &Global) -> Result<Settings, Stop> {
    let settings = global.settings()?;
    state::expect_ours(&settings)?;
    Ok(settings)
}

fn read(settings: &Settings) -> Result<Operator, Stop> {
    operator::read(&settings.local.state).map_err(bad)
}

fn change(settings: &Settings, change: impl FnOnce(&mut Operator)) -> Result<Operator, Stop> {
    operator::change(&settings.local.state, change).map_err(bad)
}

fn bad(error: BadOrders) -> Stop {
    Stop::Failed(error.into())
}

/// The names to which an order can apply.
#[derive(Debug, Default)]
struct Known {
    pools: BTreeSet<String>,
    instances: BTreeSet<String>,
    policies: Policies,
}

impl Known {
    /// Reads the names from policy files and from the controller's status.
    fn of(settings: &Settings) -> Self {
        let status = status::read(&settings.status_file());
        let folder = status::policy_folder(settings, status.as_ref());
        let mut known = Self::default();
        for (name, read) in load::read_folder(&folder).map(|folder| folder.files).unwrap_or_default() {
            known.pools.insert(name.clone());
            known.policies.pools.extend(read.ok().map(|policy| (name, policy)));
        }
        for pool in status.into_iter().flat_map(|status| status.pools) {
            known.pools.insert(pool.name);
            known.instances.extend(pool.instances.into_iter().map(|instance| instance.id));
        }
        known
    }

    /// Adds the instances of the fleet itself, since the controller may not have written them yet,
    /// or has never run.
    async fn with_instances(self, settings: &Settings) -> anyhow::Result<BTreeSet<String>> {
        let specs: Vec<_> =
            self.policies.pools.iter().map(|(name, policy)| PoolSpec::of(name, policy)).collect();
        let fleet = fleet::peek(settings, Arc::new(SystemClock)).await;
        // If the fleet cannot be listed, the instance may exist.
        let listed = fleet.list(&specs).await?;
        Ok(self.instances.into_iter().chain(listed.into_iter().map(|instance| instance.id)).collect())
    }
}

fn check_known(what: &str, names: &[String], known: &BTreeSet<String>) -> Result<(), Stop> {
    let Some(unknown) = names.iter().find(|name| !known.contains(*name)) else { return Ok(()) };
    if known.is_empty() {
        return Err(Stop::Usage(format!("unknown {what} `{unknown}`; none exist")));
    }
    let mut sorted: Vec<_> = known.iter().map(String::as_str).collect();
    // Sorts by number: p-2 before p-10.
    sorted.sort_by_key(|name| (name.trim_end_matches(|c: char| c.is_ascii_digit()), name.len(), *name));
    let shown = sorted[..sorted.len().min(NAMES)].join(", ");
    let more = match sorted.len().saturating_sub(NAMES) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    Err(Stop::Usage(format!("unknown {what} `{unknown}`; known: {shown}{more}")))
}

/// Formats as `default-1, default-2`, with `are`.
fn names(instances: &[String]) -> (String, &'static str) {
    (instances.join(", "), if instances.len() == 1 { "is" } else { "are" })
}

/// Returns the user who gives the order: the user of `sudo`, if there is one.
fn user() -> Option<String> {
    let named = |key: &str| std::env::var(key).ok().filter(|name| !name.is_empty());
    let by_number = || format!("uid {}", rustix::process::getuid().as_raw());
    Some(named("SUDO_USER").or_else(|| named("USER")).or_else(|| named("LOGNAME")).unwrap_or_else(by_number))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    struct Rig {
        folder: tempfile::TempDir,
        global: Global,
    }

    /// A state folder with a policy of three instances, and no controller.
    fn rig() -> Rig {
        let folder = tempfile::tempdir().unwrap();
        let state = folder.path().join("state");
        fs::create_dir_all(folder.path().join("policies")).unwrap();
        fs::write(folder.path().join("policies/default.toml"), "[pool]\nmax = 3").unwrap();
        fs::create_dir_all(&state).unwrap();
        fs::write(state.join("layout"), "1").unwrap();
        let config = folder.path().join("eirs.toml");
        let policies = folder.path().join("policies");
        fs::write(&config, format!("[controller]\npolicies = {:?}", policies.display().to_string())).unwrap();
        Rig { global: Global { config: Some(config), state: Some(state) }, folder }
    }

    impl Rig {
        fn orders(&self) -> Operator {
            operator::read(&self.folder.path().join("state")).unwrap()
        }

        fn pause(&self, pool: Option<&str>) -> Result<Exit, Stop> {
            Pause { pool: pool.map(str::to_owned), voice: Voice::default() }.run(&self.global)
        }

        fn resume(&self, pool: Option<&str>) -> Result<Exit, Stop> {
            Resume { pool: pool.map(str::to_owned), voice: Voice::default() }.run(&self.global)
        }

        async fn cordon(&self, instance: &str, drain: bool) -> Result<Exit, Stop> {
            CordonCommand { instances: vec![instance.to_owned()], drain, voice: Voice::default() }
                .run(&self.global)
                .await
        }
    }

    #[test]
    fn a_pool_or_all_are_paused_and_resumed() {
        let rig = rig();
        rig.pause(Some("default")).unwrap();
        let first = rig.orders().paused("default").cloned().unwrap();
        assert!(first.by.is_some());
        rig.pause(Some("default")).unwrap();
        assert_eq!(rig.orders().paused("default"), Some(&first), "the first order keeps its user");
        rig.pause(None).unwrap();
        assert!(rig.orders().paused("other").is_some());
        let refused = rig.resume(Some("default")).unwrap_err().to_string();
        assert!(refused.starts_with("every pool is paused"), "{refused}");
        rig.resume(None).unwrap();
        assert_eq!(rig.orders(), Operator::default());
    }

    #[tokio::test]
    async fn an_instance_is_cordoned_drained_and_uncordoned() {
        let rig = rig();
        rig.cordon("default-3", false).await.unwrap();
        assert!(rig.orders().is_cordoned("default-3") && !rig.orders().drains("default-3"));
        rig.cordon("default-3", true).await.unwrap();
        assert!(rig.orders().drains("default-3"));
        Uncordon { instances: vec!["default-3".into()], voice: Voice::default() }.run(&rig.global).unwrap();
        assert_eq!(rig.orders(), Operator::default());
    }

    #[tokio::test]
    async fn a_wrong_name_is_a_usage_error_that_lists_the_known_ones() {
        let rig = rig();
        let usage = |end: Result<Exit, Stop>| match end {
            Err(Stop::Usage(sentence)) => sentence,
            other => panic!("{other:?}"),
        };
        assert_eq!(usage(rig.pause(Some("dogs"))), "unknown pool `dogs`; known: default");
        assert_eq!(
            usage(rig.cordon("default-4", false).await),
            "unknown instance `default-4`; known: default-1, default-2, default-3"
        );
        let uncordon =
            Uncordon { instances: vec!["default-1".into()], voice: Voice::default() }.run(&rig.global);
        assert_eq!(usage(uncordon), "unknown cordoned instance `default-1`; none exist");
        assert_eq!(rig.orders(), Operator::default());
    }

    #[test]
    fn an_order_does_not_create_a_state_folder() {
        let rig = rig();
        let state = rig.folder.path().join("none");
        let global = Global { config: None, state: Some(state.clone()) };
        let error = Pause { pool: None, voice: Voice::default() }.run(&global).unwrap_err().to_string();
        assert!(error.starts_with("nothing has run on the state folder") && !state.exists(), "{error}");
    }
}
