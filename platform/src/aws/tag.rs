//! The tags on what an installation has in its account. They tell whose it is, and hold all that
//! must survive a restart of the program that wrote them. An instance reads its own in its
//! metadata, where keys hold no blank and no slash.

/// Which installation a thing belongs to: `aws.prefix`. On everything that `eirs setup` makes, and
/// never on anything else.
pub const INSTALLATION: &str = "eirs:installation";

/// The stack of CloudFormation that made a thing, where one did. On what setup uses and does not
/// change.
pub const STACK: &str = "eirs:stack";

/// What an instance is for: [`WORKER`], [`WEB`] or [`BUILDER`].
pub const ROLE: &str = "eirs:role";
/// The [`ROLE`] of the instances of a pool.
pub const WORKER: &str = "worker";
/// The [`ROLE`] of a web host.
pub const WEB: &str = "web";
/// The [`ROLE`] of the instance that an image is baked from.
pub const BUILDER: &str = "builder";

/// The pool of a worker's instance.
pub const POOL: &str = "eirs:pool";
/// `yes` from the moment at which setup has parked an instance and it is the controller's. Until
/// then no worker on it takes a job.
pub const HANDED_OVER: &str = "eirs:handed-over";
/// The value of [`HANDED_OVER`].
pub const YES: &str = "yes";
/// The value of [`HANDED_OVER`] while an update tries an instance: its worker takes the jobs of the
/// trial and no others, and stores nothing. The controller does not see it.
pub const TRIAL: &str = "trial";
/// `yes` from the moment at which an update has another instance for this one: the controller
/// starts it no more, and drains it when the other one serves.
pub const RETIRES: &str = "eirs:retires";
/// On an instance that a controller has launched because it was needed, and terminates when it is
/// not: [`LAUNCHED`] or [`SPOT`].
pub const TIER: &str = "eirs:tier";
/// The [`TIER`] of an instance that stays as long as it is wanted.
pub const LAUNCHED: &str = "launched";
/// The [`TIER`] of one that EC2 may take back.
pub const SPOT: &str = "spot";
/// Which start of the instance this is. Written before the start, so that the instance finds it in
/// its metadata.
pub const GENERATION: &str = "eirs:generation";
/// The generation of an instance that somebody started by hand before any controller did.
pub const BY_HAND: &str = "by-hand";
/// The model that an instance shall serve; written with the generation.
pub const MODEL: &str = "eirs:model";
/// The drain that was ordered: generation, since when, and when it is due.
pub const DRAIN: &str = "eirs:drain";

/// Which machine the controller runs on, and when it last said so; on the queue of the reports.
pub const CONTROLLER: &str = "eirs:controller";

/// When the host of a response queue last said that it was alive.
pub const ALIVE_AT: &str = "eirs:alive-at";
