//! `eirs setup`: creates an installation in an AWS account, or updates one. Every step inspects
//! first and does only what is missing, so that an interrupted run can be repeated.

pub(crate) mod survey;

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use chrono::{DateTime, Utc};

use anyhow::Context;
use clap::ValueEnum;
use eirs_controller::policy;
use eirs_platform::settings::{BackendKind, BadSettings, Layers, Settings};
use serde_json::json;

use self::survey::Survey;
use crate::{
    Exit, Global, Stop,
    aws::{
        Account, address, alarm, base_image,
        buckets::Bucket,
        bundle,
        bundle::Bundle,
        cloudformation, document,
        iam::{Profile, Role, policies},
        image::{self, Oven},
        key_pair,
        launch::Image,
        network,
        pool::{self, Size, Sizes},
        queues, stack, upgrade, web_host,
    },
    commands::update,
    show::{self, Progress, Voice},
};

/// Create or update an installation in an AWS account
///
/// Inspects the account, shows what it would make and what that costs in a month without uploads,
/// asks, and does it. After an interruption, run it again. It ends with the address for uploads.
///
/// Credentials come from the SDK's own chain: the environment, a profile, the instance's role.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  eirs setup --plan\n  eirs setup --uploads-from 203.0.113.0/24\n  \
    eirs setup --web-host this --yes\n  eirs setup --print iam\n  eirs setup --print cloudformation")]
pub(crate) struct Setup {
    /// Only show what would be made, and its cost
    #[arg(long)]
    plan: bool,
    /// Only print the installation, or a part of it, for somebody else to review or make: `iam`,
    /// `cloudformation` or `alarm`
    #[arg(long, value_enum, value_name = "WHAT", conflicts_with = "plan")]
    print: Option<Print>,
    /// The same as `--print iam`
    #[arg(long, conflicts_with_all = ["plan", "print"])]
    print_iam: bool,
    /// Do not ask for confirmation
    #[arg(long, short)]
    yes: bool,
    #[command(flatten)]
    voice: Voice,
    /// The machine that accepts uploads and runs the controller
    #[arg(long, value_enum, default_value = "launch")]
    web_host: WebHost,
    /// A network that may upload, e.g. 203.0.113.0/24; 0.0.0.0/0 is the whole world
    /// (setup.uploads_from)
    #[arg(long, value_name = "NETWORK")]
    uploads_from: Vec<String>,
    /// The instance type of the workers (setup.worker_type)
    #[arg(long, value_name = "TYPE")]
    worker_type: Option<String>,
    /// Build the workers' image on the newest image of the system, not on the one used before
    #[arg(long)]
    new_base: bool,
    /// Replace a web host that has another version or other settings; its address changes
    #[arg(long)]
    replace_web_host: bool,
}

/// What is printed, and nothing else done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Print {
    /// The permissions of workers, web hosts and setup itself, as IAM policies
    Iam,
    /// All that setup makes, except images, machines and the key, as a template of CloudFormation
    Cloudformation,
    /// Alarms about the web host, as a template of CloudFormation
    Alarm,
}

/// Which machine is the web host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum WebHost {
    /// A new machine
    Launch,
    /// This machine
    This,
    /// None yet
    None,
    /// The existing web hosts, which are upgraded in place.
    #[value(skip)]
    Upgraded,
}

impl Setup {
    /// Runs the command.
    pub(crate) async fn run(self, global: &Global) -> Result<Exit, Stop> {
        let settings = self.settings(global)?;
        match self.print.or(self.print_iam.then_some(Print::Iam)) {
            Some(Print::Iam) => print_iam(&settings).await,
            Some(Print::Cloudformation) => show::small_json(&cloudformation::template(&settings)?),
            Some(Print::Alarm) => show::small_json(&alarm::template(&settings)),
            None => return self.make(settings, global).await,
        }
        Ok(Exit::Ok)
    }

    async fn make(self, settings: Settings, global: &Global) -> Result<Exit, Stop> {
        let pools = pools(&settings)?;
        self.check(&settings)?;
        let account = Account::open(settings).await?;
        let wanted = Wanted::of(&self, &account, pools).await?;
        let survey = Survey::of(&account, &wanted).await?;
        self.voice.say(survey.text(&account));
        let mut report = survey.json(&account);
        report["done"] = false.into();
        if !self.plan {
            if !survey.is_nothing() {
                if !self.voice.confirmed(self.yes)? {
                    self.voice.end(&report);
                    return Ok(Exit::Failed);
                }
                if let Some(why) = carry_out(&account, &wanted, global).await? {
                    self.voice.say(why);
                    self.voice.end(&report);
                    return Ok(Exit::Failed);
                }
            }
            report["upload_to"] = finish(&account, &wanted, global, self.voice).await?.into();
            report["done"] = true.into();
        }
        self.voice.end(&report);
        Ok(Exit::Ok)
    }

    fn settings(&self, global: &Global) -> Result<Settings, Stop> {
        let networks = (!self.uploads_from.is_empty()).then(|| format!("{:?}", self.uploads_from));
        let layers = global
            .layers()
            .flag("setup.uploads_from", networks)
            .flag("setup.worker_type", self.worker_type.as_ref());
        cloud_settings(layers)
    }

    fn check(&self, settings: &Settings) -> Result<(), Stop> {
        if self.web_host == WebHost::Launch && settings.setup.uploads_from.is_empty() {
            let sentence = "nobody could upload to the web host: name the allowed networks with \
                --uploads-from, e.g. --uploads-from 203.0.113.0/24, or 0.0.0.0/0 for the whole \
                world; or use --web-host this or none";
            return Err(Stop::Usage(sentence.into()));
        }
        Ok(())
    }
}

/// Returns the settings for a backend that does not exist yet, whose names follow from the account.
pub(crate) fn cloud_settings(layers: Layers) -> Result<Settings, Stop> {
    let layers = layers.flag("backend", Some("local"));
    let settings = Settings { backend: BackendKind::Aws, ..layers.load()? };
    // They were loaded as local settings, which accept more.
    settings.refused_by_aws().map_or(Ok(settings), |refused| Err(refused.into()))
}

/// Returns the number of machines of each pool.
pub(crate) fn pools(settings: &Settings) -> Result<Sizes, Stop> {
    let (mut pools, mut complaints) = (BTreeMap::new(), Vec::new());
    for (name, text) in bundle::policies(settings)? {
        let file = settings.controller.policies.join(&name);
        match policy::load::parse(&file, &text) {
            Ok(policy) => {
                let size = Size { max: policy.pool.max, model: policy.pool.model };
                pools.insert(name.trim_end_matches(".toml").to_owned(), size);
            }
            Err(wrong) => complaints.extend(wrong.iter().map(ToString::to_string)),
        }
    }
    if complaints.is_empty() { Ok(pools) } else { Err(BadSettings(complaints).into()) }
}

/// The desired state.
pub(crate) struct Wanted {
    pub(crate) pools: Sizes,
    web_host: WebHost,
    replace_web_host: bool,
    /// Number of machines that are replaced at the same time.
    pub(crate) wave: u32,
    pub(crate) worker: Bundle,
    web: Option<Bundle>,
    /// The base image.
    base: Image,
    /// The system's newest image, if it is another one.
    newer_base: Option<String>,
}

impl Wanted {
    async fn of(setup: &Setup, account: &Account, pools: Sizes) -> anyhow::Result<Self> {
        let web = match setup.web_host {
            WebHost::Launch => Some(Bundle::of(account, Role::Web)?),
            WebHost::This | WebHost::None | WebHost::Upgraded => None,
        };
        let wanted = Self::without_web_host(account, pools, setup.new_base).await?;
        Ok(Self { web_host: setup.web_host, replace_web_host: setup.replace_web_host, web, ..wanted })
    }

    /// Returns the desired state with web hosts, if setup launched them, upgraded.
    pub(crate) async fn with_web_hosts(
        account: &Account,
        pools: Sizes,
        new_base: bool,
    ) -> anyhow::Result<Self> {
        let wanted = Self::without_web_host(account, pools, new_base).await?;
        if web_host::all(account).await?.is_empty() {
            return Ok(wanted);
        }
        Ok(Self { web_host: WebHost::Upgraded, web: Some(Bundle::of(account, Role::Web)?), ..wanted })
    }

    /// Returns the desired state with unchanged web hosts.
    pub(crate) async fn without_web_host(
        account: &Account,
        pools: Sizes,
        new_base: bool,
    ) -> anyhow::Result<Self> {
        let setup = &account.settings.setup;
        let newest = base_image::current(account).await?;
        let baked = image::all(account).await?.into_iter().find(|baked| !baked.has_failed);
        let is_old =
            baked.as_ref().is_some_and(|baked| is_older(&baked.made_at, setup.rebake_after, Utc::now()));
        let pinned = match baked.and_then(|baked| baked.base).filter(|_| !new_base && !is_old) {
            Some(base) => base_image::describe(account, &base).await.ok(),
            None => None,
        };
        let newer_base = pinned.as_ref().filter(|pinned| pinned.id != newest.id).map(|_| newest.id.clone());
        Ok(Self {
            pools,
            web_host: WebHost::None,
            replace_web_host: false,
            wave: setup.update.wave,
            worker: Bundle::of(account, Role::Worker)?,
            web: None,
            base: pinned.unwrap_or(newest),
            newer_base,
        })
    }

    /// Returns the image of the workers, if it is baked.
    async fn image(&self, account: &Account) -> anyhow::Result<Option<Image>> {
        let found = image::of_bundle(account, &self.worker.digest, &self.base.id).await?;
        Ok(found.filter(|baked| !baked.has_failed).map(|baked| baked.image))
    }
}

/// Returns whether something is older than `limit`; zero is no limit.
pub(crate) fn is_older(made_at: &str, limit: Duration, now: DateTime<Utc>) -> bool {
    let made_at = DateTime::parse_from_rfc3339(made_at);
    let age = made_at.ok().and_then(|made_at| (now - made_at.to_utc()).to_std().ok());
    !limit.is_zero() && age.is_some_and(|age| age > limit)
}

/// Carries everything out; returns the reason if the update of the machines was rolled back.
pub(crate) async fn carry_out(
    account: &Account,
    wanted: &Wanted,
    global: &Global,
) -> anyhow::Result<Option<String>> {
    let progress = Progress::new();
    let say = |what: &str| progress.show(what);
    // First of all, so that `eirs check` and `eirs cleanup` find everything even after a failure.
    if let Some(file) = write_settings(account, global)? {
        progress.done(&format!("the settings of the installation, in {}", file.display()));
    }
    match stack::of(account).await? {
        Some(stack) => {
            Survey::expect_complete(account, &stack).await?;
            progress.done(&format!("everything of the stack {stack} is there"));
            make_key(account, &progress).await?;
        }
        None => make_all(account, &progress).await?,
    }
    let network = network::find(account).await?;
    let worker_group = network::ensure_group(account, &network, Role::Worker).await?;
    let web_group = network::ensure_group(account, &network, Role::Web).await?;
    progress.done("the security groups");

    let subnets = network.offering(account, &account.settings.setup.worker_type).await?;
    let oven = Oven { bundle: &wanted.worker, base: &wanted.base, subnets: &subnets, group: &worker_group };
    let image = oven.bake(account, &say).await?;
    progress.done(&format!("the image of the workers, {}", image.id));
    let place = pool::Place { image: &image, subnets: &subnets, group: &worker_group };
    if let Some(why) = update::machines(account, wanted, place, &say).await? {
        return Ok(Some(why));
    }
    for pool in pool::all(account, &wanted.pools).await? {
        pool.ensure(account, place, &say).await?;
        progress.done(&format!(
            "the pool {}: {} parked or running",
            pool.name,
            show::count(pool.wanted.into(), "worker")
        ));
    }
    if let (Some(bundle), WebHost::Upgraded) = (&wanted.web, wanted.web_host) {
        for host in web_host::all(account).await?.iter().filter(|host| !web_host::is_current(host, bundle)) {
            upgrade::run(account, host, bundle, &say).await?;
            progress.done(&format!("the web host {}, upgraded", host.id));
        }
        if let Some(host) = web_host::all(account).await?.first() {
            give_address(account, &host.id, &progress).await?;
        }
    } else if let Some(bundle) = &wanted.web {
        let subnets = network.offering(account, &account.settings.setup.web_type).await?;
        let place = web_host::Place { bundle, base: &wanted.base, subnets: &subnets, group: &web_group };
        let host = web_host::ensure(account, place, wanted.replace_web_host, &say).await?;
        progress.done(&format!("the web host {}", host.id));
        give_address(account, &host.id, &progress).await?;
    }
    Ok(None)
}

async fn give_address(account: &Account, host: &str, progress: &Progress) -> anyhow::Result<()> {
    if account.settings.setup.elastic_ip {
        let address = address::ensure(account, host).await?;
        progress.done(&format!("the Elastic IP {} of {host}", address.ip));
    }
    Ok(())
}

/// Creates everything that needs no network: buckets, queues, documents, the key and roles.
async fn make_all(account: &Account, progress: &Progress) -> anyhow::Result<()> {
    let say = |what: &str| progress.show(what);
    for bucket in Bucket::both(account) {
        say(&format!("the bucket {}", bucket.name));
        bucket.ensure(account).await?;
        progress.done(&format!("the bucket {}", bucket.name));
    }
    for queue in queues::wanted(&account.settings) {
        say(&format!("the queue {}", account.sqs.full_name(&queue.name)));
        queue.ensure(account, &say).await?;
        progress.done(&format!("the queue {}", account.sqs.full_name(&queue.name)));
    }
    for kind in document::Kind::ALL {
        document::ensure(account, kind).await?;
        progress.done(&format!("the SSM document {}", kind.purpose()));
    }
    make_key(account, progress).await?;
    for role in Profile::all(&account.settings) {
        say(&format!("the role {}", role.name(account)));
        role.ensure(account).await?;
        progress.done(&format!("the role and instance profile {}", role.name(account)));
    }
    Ok(())
}

async fn make_key(account: &Account, progress: &Progress) -> anyhow::Result<()> {
    key_pair::ensure(account, &key_pair::file(account)).await?;
    progress.done(&format!("the key pair {}", key_pair::name(account.prefix())));
    Ok(())
}

/// Prints the next steps, and returns the address for uploads, if it is known.
async fn finish(
    account: &Account,
    wanted: &Wanted,
    global: &Global,
    voice: Voice,
) -> anyhow::Result<Option<String>> {
    let port = account.settings.web.listen.port();
    let file = settings_file(account, global);
    let with = if file.is_file() { format!(" --config {}", file.display()) } else { String::new() };
    let mut upload_to = None;
    match wanted.web_host {
        WebHost::Launch => {
            let hosts = web_host::all(account).await?;
            let host = hosts.first().context("the web host is gone")?;
            let own = address::all(account).await?.into_iter().find(|it| it.is_of(&hosts[..1]));
            let address = own.map(|own| own.ip).or(host.address.clone()).unwrap_or_else(|| host.id.clone());
            let url = format!("http://{address}:{port}/upload");
            voice.say(format_args!("\nUpload to {url}, for instance\n\n  curl -F myfile=@photo.jpg {url}\n"));
            upload_to = Some(url);
        }
        WebHost::This => this_host(account, voice)?,
        WebHost::None | WebHost::Upgraded => {
            voice.say("\nThere is no web host yet; `eirs setup` launches one.");
        }
    }
    voice.say(format_args!("`eirs{with} check` inspects it, `eirs{with} cleanup --mode delete` removes it."));
    Ok(upload_to)
}

/// Returns the path of the settings with which the operator finds the installation: the given file,
/// or one in this folder.
fn settings_file(account: &Account, global: &Global) -> PathBuf {
    let own = || PathBuf::from(format!("{}-{}.toml", account.prefix(), account.region));
    Layers::of_process(global.config.as_deref()).file().map_or_else(own, Path::to_owned)
}

fn write_settings(account: &Account, global: &Global) -> anyhow::Result<Option<PathBuf>> {
    let file = settings_file(account, global);
    if file.exists() {
        return Ok(None);
    }
    let written = fs::write(&file, bundle::operator_settings(&account.settings)?);
    written.with_context(|| format!("the settings cannot be written to {}", file.display()))?;
    Ok(Some(file))
}

/// Makes this machine the web host: writes its settings and policies, unless they exist.
fn this_host(account: &Account, voice: Voice) -> anyhow::Result<()> {
    let etc = Path::new("/etc/eirs");
    let settings = etc.join("eirs.toml");
    let ours = bundle::operator_settings(&account.settings)?;
    if settings.exists() {
        let read = Layers::of(Some(&settings), &[]).load();
        let fits = read.is_ok_and(|read| {
            read.backend == BackendKind::Aws
                && read.aws.input_bucket == account.settings.aws.input_bucket
                && read.aws.output_bucket == account.settings.aws.output_bucket
        });
        if !fits {
            voice.say(format_args!(
                "\n{} is not for this installation yet; it needs\n\n{ours}",
                settings.display()
            ));
        }
    } else {
        let written = fs::create_dir_all(etc.join("policies")).and_then(|()| fs::write(&settings, ours));
        written.with_context(|| format!("the settings cannot be written to {}", settings.display()))?;
        for (name, text) in bundle::policies(&account.settings)? {
            let file = etc.join("policies").join(name);
            if !file.exists() {
                fs::write(&file, text).with_context(|| format!("writing {}", file.display()))?;
            }
        }
        voice.say(format_args!("\nThe settings of this web host are in {}.", settings.display()));
    }
    voice.say("`systemctl start eirs.target` starts the web server and the controller here.");
    Ok(())
}

async fn print_iam(settings: &Settings) {
    let account = Account::open(settings.clone()).await;
    let (id, region) = match &account {
        Ok(account) => (account.id.clone(), account.region.clone()),
        Err(error) => {
            show::aside(format_args!("{error:#}; account and region are written as `*`"));
            ("*".to_owned(), settings.aws.region.clone().unwrap_or_else(|| "*".to_owned()))
        }
    };
    let scope = policies::Scope::of(settings, &id, &region);
    let mut documents = json!({
        "trust": policies::trust(),
        "web": policies::web(&scope),
        "operator": policies::operator(&scope),
        "boundary": policies::boundary(&scope),
    });
    for model in settings.models.keys() {
        documents[format!("worker-{model}")] = policies::worker(&scope, model);
    }
    show::json(&documents);
}
