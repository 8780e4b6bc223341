//! Inspects what exists and what is missing, before anything is done.

use console::style;
use eirs_platform::settings::{CpuCredits, Setup};
use serde::Serialize;
use serde_json::{Value, json};

use super::{Wanted, WebHost};
use crate::{
    aws::{
        Account, address,
        buckets::Bucket,
        cost::{self, Idle, Line},
        document::{self, Document},
        iam::{Profile, Role},
        key_pair, network, pool, queues, stack, web_host,
    },
    show,
};

/// The planned actions.
#[derive(Debug)]
pub(crate) struct Survey {
    steps: Vec<Step>,
    notes: Vec<String>,
    cost: Vec<Line>,
}

/// A resource, and its state.
#[derive(Debug, Serialize)]
struct Step {
    what: String,
    verb: Verb,
}

/// The action for a resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Verb {
    /// The resource is as it should be.
    Keep,
    Make,
    Change,
}

impl Verb {
    fn of(is_there: bool) -> Self {
        if is_there { Self::Keep } else { Self::Make }
    }

    fn word(self) -> &'static str {
        match self {
            Self::Keep => "is there",
            Self::Make => "make",
            Self::Change => "change",
        }
    }
}

impl Survey {
    pub(crate) async fn of(account: &Account, wanted: &Wanted) -> anyhow::Result<Self> {
        let mut survey = Self { steps: Vec::new(), notes: Vec::new(), cost: Vec::new() };
        survey.look_at_stores(account).await?;
        survey.look_at_permissions(account).await?;
        survey.look_at_key(account).await?;
        survey.look_at_machines(account, wanted).await?;
        if let Some(newer) = &wanted.newer_base {
            survey.notes.push(format!(
                "The system has a newer image, {newer}; the workers stay on {} without --new-base.",
                wanted.base.id
            ));
        }
        survey.cost = cost::idle(&Idle {
            pools: wanted.pools.len() as u32,
            parked: wanted.pools.values().map(|size| size.max).sum(),
            disk_gib: account.settings.setup.disk_gib,
            web_type: matches!(wanted.web_host, WebHost::Launch | WebHost::Upgraded)
                .then(|| account.settings.setup.web_type.clone()),
        });
        Ok(survey)
    }

    /// Fails if resources of a stack differ from the settings: they must be changed in the stack.
    pub(crate) async fn expect_complete(account: &Account, stack: &str) -> anyhow::Result<()> {
        let mut survey = Self { steps: Vec::new(), notes: Vec::new(), cost: Vec::new() };
        survey.look_at_stores(account).await?;
        survey.look_at_permissions(account).await?;
        let differs: Vec<_> =
            survey.steps.iter().filter(|step| step.verb != Verb::Keep).map(|step| &*step.what).collect();
        anyhow::ensure!(
            differs.is_empty(),
            "not as the settings say: {}; {}",
            differs.join(", "),
            stack::update(stack)
        );
        Ok(())
    }

    fn step(&mut self, verb: Verb, what: String) {
        self.steps.push(Step { what, verb });
    }

    async fn look_at_stores(&mut self, account: &Account) -> anyhow::Result<()> {
        for bucket in Bucket::both(account) {
            let expires = match bucket.expire_days {
                0 => "never deleted".to_owned(),
                days => format!("{} kept", show::count(days.into(), "day")),
            };
            let is_there = bucket.is_there(account).await?;
            self.step(
                Verb::of(is_there),
                format!("the bucket {} (private, encrypted, {expires})", bucket.name),
            );
        }
        for queue in queues::wanted(&account.settings) {
            let is_there = queue.is_there(account).await?;
            self.step(Verb::of(is_there), format!("the queue {}", account.sqs.full_name(&queue.name)));
        }
        Ok(())
    }

    async fn look_at_permissions(&mut self, account: &Account) -> anyhow::Result<()> {
        for kind in document::Kind::ALL {
            let verb = match document::look(account, kind).await? {
                Document::Missing => Verb::Make,
                Document::Differs => Verb::Change,
                Document::AsItShouldBe => Verb::Keep,
            };
            let name = kind.name(account.prefix());
            self.step(verb, format!("the SSM document {name}, {}", kind.purpose()));
        }
        for role in Profile::all(&account.settings) {
            let verb = match role.is_there(account).await? {
                false => Verb::Make,
                true if role.is_as_it_should_be(account).await? => Verb::Keep,
                true => Verb::Change,
            };
            self.step(verb, format!("the role and instance profile {}", role.name(account)));
        }
        for role in [Role::Worker, Role::Web] {
            let should = network::doors(&account.settings, role);
            let found = network::group(account, role).await?;
            let verb = match &found {
                None => Verb::Make,
                Some(group) if network::open_doors(group) == should => Verb::Keep,
                Some(_) => Verb::Change,
            };
            let open = should.iter().map(|(port, networks)| format!("{port} from {}", networks.join(", ")));
            let open = open.collect::<Vec<_>>().join("; ");
            let open =
                if open.is_empty() { "accepts no connections".to_owned() } else { format!("opens {open}") };
            let name = network::group_name(account.prefix(), role);
            self.step(verb, format!("the security group {name} ({open})"));
        }
        Ok(())
    }

    async fn look_at_key(&mut self, account: &Account) -> anyhow::Result<()> {
        let key_is_there = key_pair::is_there(account).await?;
        let file = key_pair::file(account);
        self.step(
            Verb::of(key_is_there),
            format!(
                "the key pair {}, with the private key in {}",
                key_pair::name(account.prefix()),
                file.display()
            ),
        );
        if !key_is_there && file.exists() {
            let shown = file.display();
            self.notes.push(format!(
                "{shown} exists, but its key pair does not: move the file away, it is not \
                overwritten."
            ));
        }
        Ok(())
    }

    async fn look_at_machines(&mut self, account: &Account, wanted: &Wanted) -> anyhow::Result<()> {
        let image = wanted.image(account).await?;
        let kind = &account.settings.setup.worker_type;
        self.step(
            Verb::of(image.is_some()),
            format!("the image of the workers, baked and tested on {}", wanted.base.id),
        );
        for pool in pool::all(account, &wanted.pools).await? {
            let changes = pool.changes(image.as_ref());
            let others = pool.of_another_model(account).len();
            let verb = match changes.is_nothing() && others == 0 {
                true => Verb::Keep,
                false if pool.machines.is_empty() => Verb::Make,
                false => Verb::Change,
            };
            let mut parts = vec![format!("{} of {kind}, stopped", show::count(pool.wanted.into(), "worker"))];
            let mut part = |count: usize, what: &str| {
                if count > 0 && verb == Verb::Change {
                    parts.push(format!("{count} {what}"));
                }
            };
            part(changes.missing as usize, "to launch");
            part(changes.unfinished.len(), "left by an interrupted run");
            part(others, "with the role of another model");
            part(changes.outdated.len(), "with another image to replace: one first, then in waves");
            part(changes.strays.len() + changes.surplus.len(), "above max to remove");
            self.step(verb, format!("the pool {} ({})", pool.name, parts.join(", ")));
        }
        let Some(bundle) = &wanted.web else { return Ok(()) };
        let hosts = web_host::all(account).await?;
        let is_current = hosts.iter().any(|host| web_host::is_current(host, bundle));
        let is_upgraded = wanted.web_host == WebHost::Upgraded;
        let verb = match (hosts.is_empty(), is_current) {
            (true, _) => Verb::Make,
            (false, false) if wanted.replace_web_host || is_upgraded => Verb::Change,
            (false, _) => Verb::Keep,
        };
        self.step(
            verb,
            format!("the web host ({}, which runs all the time)", account.settings.setup.web_type),
        );
        if account.settings.setup.elastic_ip {
            let verb = match address::all(account).await?.first() {
                None => Verb::Make,
                Some(address) if address.is_of(&hosts) => Verb::Keep,
                Some(_) => Verb::Change,
            };
            self.step(verb, "the Elastic IP of the web host".to_owned());
        }
        if !hosts.is_empty() && !is_current && !wanted.replace_web_host && !is_upgraded {
            self.notes.push(
                "The web host has another version or other settings; `eirs update` upgrades it in place, and \
                 --replace-web-host replaces it, with another address."
                    .to_owned(),
            );
        }
        Ok(())
    }

    /// Returns whether nothing needs to be done.
    pub(crate) fn is_nothing(&self) -> bool {
        self.steps.iter().all(|step| step.verb == Verb::Keep)
    }

    pub(crate) fn json(&self, account: &Account) -> Value {
        let (usd, complete) = cost::sum(&self.cost);
        let kind = &account.settings.setup.worker_type;
        let goes_on = account.settings.setup.cpu_credits == CpuCredits::Unlimited;
        json!({
            "account": account.id,
            "region": account.region,
            "prefix": account.prefix(),
            "steps": self.steps,
            "notes": self.notes,
            "idle_cost": self.cost,
            "idle_usd_per_month": usd,
            "idle_usd_is_complete": complete,
            "worker_usd_per_hour": cost::hourly_usd(kind),
            // The additional price if the machine is busy without a pause.
            "worker_surplus_usd_per_hour": cost::surplus_usd(kind).filter(|_| goes_on),
        })
    }

    pub(crate) fn text(&self, account: &Account) -> String {
        let mut text = format!(
            "The installation `{}` in {}, account {}:\n\n",
            account.prefix(),
            account.region,
            account.id
        );
        for step in &self.steps {
            let word = console::pad_str(step.verb.word(), 8, console::Alignment::Left, None).into_owned();
            let word = match step.verb {
                Verb::Keep => style(word).dim(),
                Verb::Make | Verb::Change => style(word).green(),
            };
            text += &format!("  {word}  {}\n", step.what);
        }
        self.notes.iter().for_each(|note| text += &format!("\n{note}\n"));
        text += "\nA month without uploads costs about (prices of us-east-1, without tax):\n\n";
        for Line { what, usd_per_month } in &self.cost {
            let usd = usd_per_month.map_or_else(|| "?".to_owned(), |usd| format!("{usd:.2}"));
            text += &format!("  {usd:>8} USD  {what}\n");
        }
        let (usd, complete) = cost::sum(&self.cost);
        let at_least = if complete { "" } else { " at least" };
        text += &format!("  {usd:>8.2} USD{at_least} in all.\n{}", worked_hour(&account.settings.setup));
        text
    }
}

/// Describes the cost of a running worker, as far as prices are known here.
fn worked_hour(setup: &Setup) -> String {
    let kind = &setup.worker_type;
    let Some(usd) = cost::hourly_usd(kind) else {
        return "Running workers cost extra.\n".to_owned();
    };
    let hours = format!("Running workers cost {usd} USD an hour each.\n");
    match (cost::surplus_usd(kind), setup.cpu_credits) {
        (None, _) => hours,
        (Some(surplus), CpuCredits::Unlimited) => format!(
            "{hours}A busy {kind} uses more CPU than its price pays for: {surplus:.4} USD more per \
            hour, {:.4} in all.\nFor busy workers a compute type is cheaper, such as c7i.large at \
            0.0893 (setup.worker_type).\n",
            usd + surplus
        ),
        (Some(_), CpuCredits::Standard) => {
            format!("{hours}A busy {kind} slows down to its baseline (setup.cpu_credits = \"standard\").\n")
        }
    }
}
