//! The tags on the resources of an installation. They tell which installation a resource belongs
//! to, and hold the state that must survive a restart of the program that wrote it. An instance
//! reads its own tags from its metadata, where keys may contain no space and no slash.

/// The installation that a resource belongs to: `aws.prefix`. On every resource that `eirs setup`
/// creates, and on no other.
pub const INSTALLATION: &str = "eirs:installation";

/// The CloudFormation stack that created a resource, if one did. On resources that setup uses but
/// does not change.
pub const STACK: &str = "eirs:stack";

/// The role of an instance: [`WORKER`], [`WEB`] or [`BUILDER`].
pub const ROLE: &str = "eirs:role";
/// The [`ROLE`] of the instances of a pool.
pub const WORKER: &str = "worker";
/// The [`ROLE`] of a web host.
pub const WEB: &str = "web";
/// The [`ROLE`] of the instance from which an image is baked.
pub const BUILDER: &str = "builder";

/// The pool of a worker's instance.
pub const POOL: &str = "eirs:pool";
/// `yes` once setup has parked an instance and handed it over to the controller. Before that, no
/// worker on it takes a job.
pub const HANDED_OVER: &str = "eirs:handed-over";
/// The value of [`HANDED_OVER`].
pub const YES: &str = "yes";
/// The value of [`HANDED_OVER`] while an update tries an instance: its worker takes only the jobs
/// of the trial, and stores nothing. The controller ignores the instance.
pub const TRIAL: &str = "trial";
/// `yes` once an update has created a replacement for this instance: the controller no longer
/// starts it, and drains it when the replacement serves.
pub const RETIRES: &str = "eirs:retires";
/// On an instance that a controller launched on demand, and terminates when it is no longer needed:
/// [`LAUNCHED`] or [`SPOT`].
pub const TIER: &str = "eirs:tier";
/// The [`TIER`] of an on-demand instance, which EC2 does not interrupt.
pub const LAUNCHED: &str = "launched";
/// The [`TIER`] of a Spot Instance, which EC2 may interrupt.
pub const SPOT: &str = "spot";
/// The generation of the instance, which identifies this start. Written before the start, so that
/// the instance finds it in its metadata.
pub const GENERATION: &str = "eirs:generation";
/// The generation of an instance that was started by hand before any controller started it.
pub const BY_HAND: &str = "by-hand";
/// The model that the instance must serve; written together with the generation.
pub const MODEL: &str = "eirs:model";
/// The drain that was ordered: the generation, when it was ordered, and its deadline.
pub const DRAIN: &str = "eirs:drain";

/// The host of the controller and the time of its last heartbeat; on the queue of the reports.
pub const CONTROLLER: &str = "eirs:controller";

/// The time of the last heartbeat of a response queue's host.
pub const ALIVE_AT: &str = "eirs:alive-at";
