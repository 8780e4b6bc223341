//! Checks that the machines match the policies, have the newest image, and that none was left
//! behind.

use std::collections::{BTreeMap, BTreeSet};

use aws_sdk_ec2::types::{Filter, Image};
use chrono::{DateTime, TimeDelta, Utc};
use eirs_controller::policy::Policies;
use eirs_platform::aws::{self, tag};

use super::Found;
use crate::{
    aws::Account,
    commands::check::aws::instances::Machine,
    show::{count, since},
};

/// Maximum duration of a setup in progress.
const SETUP_TAKES: TimeDelta = TimeDelta::hours(2);

/// Compares the pools with their policies; `profile_of` returns the instance profile of a model.
pub(super) fn pools(
    machines: &[Machine],
    policies: &Policies,
    profile_of: impl Fn(&str) -> String,
) -> Vec<String> {
    let of_pool = |name: &str| {
        machines
            .iter()
            .filter(|machine| machine.is_pooled() && machine.stays() && !machine.launched)
            .filter(|machine| machine.pool.as_deref() == Some(name))
            .count()
    };
    let mut differences = Vec::new();
    for (name, policy) in &policies.pools {
        let (there, most) = (of_pool(name) as u64, u64::from(policy.pool.max));
        if there < most {
            let most = count(most, "instance");
            differences.push(format!(
                "the pool {name} may run {most} and has {there}; `eirs setup` adds \
                    the rest"
            ));
        }
    }
    for (name, policy) in &policies.pools {
        let should = profile_of(&policy.pool.model);
        let is_other = |machine: &&Machine| {
            machine.is_pooled()
                && machine.pool.as_ref() == Some(name)
                && machine.profile.as_ref().is_some_and(|profile| *profile != should)
        };
        let others = machines.iter().filter(is_other).count() as u64;
        if others > 0 {
            let (others, model) = (count(others, "instance"), &policy.pool.model);
            differences.push(format!(
                "{others} of the pool {name} cannot reach the queue of {model}, which it serves now; `eirs \
                 setup` gives them the role {should}"
            ));
        }
    }
    let known = |name: &&str| policies.pools.contains_key(*name) || policies.unreadable.contains(*name);
    let pooled = machines.iter().filter(|machine| machine.is_pooled() && machine.stays());
    let names: BTreeSet<_> = pooled.filter_map(|machine| machine.pool.as_deref()).collect();
    for name in names.into_iter().filter(|name| !known(name)) {
        differences.push(format!(
            "{} of the pool {name}, which has no policy",
            count(of_pool(name) as u64, "instance")
        ));
    }
    differences
}

/// Returns machines that no setup will complete by itself.
pub(super) fn leftovers(machines: &[Machine], now: DateTime<Utc>) -> Vec<String> {
    let old = machines
        .iter()
        .filter(|machine| machine.stays() && machine.since.is_none_or(|at| now - at > SETUP_TAKES));
    let left = old.filter_map(|machine| {
        let what = match machine.role.as_str() {
            tag::BUILDER => "a machine that images are made from",
            tag::WORKER if !machine.handed_over => "a worker that was not handed over",
            _ => return None,
        };
        let time = machine.since.map_or_else(String::new, |at| format!(" for {}", since(at, now)));
        Some(format!("{}, {what}, is {}{time}: a setup did not finish", machine.id, machine.state))
    });
    left.collect()
}

/// Finds the machines whose image is not the newest one of this installation.
pub(super) async fn images(account: &Account, machines: &[Machine]) -> anyhow::Result<Found> {
    let ours = Filter::builder().name(format!("tag:{}", tag::INSTALLATION)).values(account.prefix()).build();
    let described = account.ec2.describe_images().owners("self").filters(ours).send().await;
    let described = described.map_err(|error| aws::error("listing the images of the machines", &error))?;
    let images = described.images.unwrap_or_default();
    let differences = outdated(machines, &images).into_iter().map(Into::into).collect();
    Ok(Found { differences, nothing: images.is_empty(), ..Found::default() })
}

fn outdated(machines: &[Machine], images: &[Image]) -> Vec<String> {
    // If there are several kinds of images, a tag names their role.
    let is_workers = |image: &&Image| {
        let role = image.tags().iter().find(|t| t.key() == Some(tag::ROLE)).and_then(|t| t.value());
        role.is_none_or(|role| role == tag::WORKER)
    };
    let mut newest: BTreeMap<&str, &Image> = BTreeMap::new();
    for image in images
        .iter()
        .filter(is_workers)
        .filter(|image| image.state().is_some_and(|s| s.as_str() == "available"))
    {
        let Some(architecture) = image.architecture() else { continue };
        let best = newest.entry(architecture.as_str()).or_insert(image);
        if image.creation_date() > best.creation_date() {
            *best = image;
        }
    }
    let mut old: BTreeMap<(&str, &str), u64> = BTreeMap::new();
    // A machine that the controller launched on demand is terminated anyway.
    let parked =
        machines.iter().filter(|machine| machine.is_pooled() && machine.stays() && !machine.launched);
    for machine in parked {
        let newest = newest.get(machine.architecture.as_str()).and_then(|image| image.image_id());
        if let (Some(newest), Some(pool)) = (newest, &machine.pool)
            && newest != machine.image
        {
            *old.entry((pool, newest)).or_default() += 1;
        }
    }
    let sentence = |((pool, newest), machines): ((&str, &str), u64)| {
        let instances = count(machines, "instance");
        format!("{instances} of the pool {pool}: made from an older image than {newest}, the newest one")
    };
    old.into_iter().map(sentence).collect()
}

#[cfg(test)]
mod tests {
    use aws_sdk_ec2::types::{ArchitectureValues, ImageState, Tag};
    use eirs_controller::policy::parse;

    use super::*;
    use crate::commands::check::aws::instances::tests::machine;

    fn policies(pools: &[(&str, u32)]) -> Policies {
        let mut policies = Policies::default();
        for (name, max) in pools {
            let policy = parse(std::path::Path::new("p.toml"), &format!("[pool]\nmax = {max}")).unwrap();
            policies.pools.insert((*name).to_owned(), policy);
        }
        policies
    }

    fn profile_of(model: &str) -> String {
        format!("worker-{model}")
    }

    #[test]
    fn pools_have_the_machines_that_their_policies_may_start() {
        let mut machines = vec![
            machine(1, "default", "stopped"),
            machine(2, "default", "running"),
            machine(3, "old", "stopped"),
        ];
        machines.push(machine(4, "default", "shutting-down"));
        machines.push(Machine { handed_over: false, ..machine(5, "default", "stopped") });
        machines.push(Machine { launched: true, ..machine(6, "default", "running") });
        let found = pools(&machines, &policies(&[("default", 3)]), profile_of);
        assert_eq!(
            found,
            [
                "the pool default may run 3 instances and has 2; `eirs setup` adds the rest",
                "1 instance of the pool old, which has no policy"
            ]
        );
        let mut known = policies(&[("default", 2)]);
        known.unreadable.insert("old".into());
        assert_eq!(pools(&machines, &known, profile_of), Vec::<String>::new());
    }

    #[test]
    fn machines_with_the_role_of_an_earlier_model_are_counted() {
        let with = |number: usize, profile: &str| Machine {
            profile: Some(profile.into()),
            ..machine(number, "default", "stopped")
        };
        let machines = [with(1, "worker-default"), with(2, "worker-cats")];
        let found = pools(&machines, &policies(&[("default", 2)]), profile_of);
        assert_eq!(
            found,
            ["1 instance of the pool default cannot reach the queue of default, which it serves now; \
              `eirs setup` gives them the role worker-default"]
        );
    }

    #[test]
    fn leftovers_of_a_setup_are_reported_after_its_maximum_duration() {
        let builder = Machine { role: tag::BUILDER.into(), pool: None, ..machine(1, "", "running") };
        let worker = Machine { handed_over: false, since: None, ..machine(2, "default", "stopped") };
        let machines = [builder, worker, machine(3, "default", "running")];
        let now = |minutes| DateTime::UNIX_EPOCH + TimeDelta::minutes(minutes);
        let found = leftovers(&machines, now(125));
        assert_eq!(
            found[0],
            "i-00000000000000001, a machine that images are made from, is running for 2h 5m: a \
            setup did not finish"
        );
        assert!(found[1].contains("a worker that was not handed over, is stopped: a setup"), "{found:?}");
        assert_eq!(leftovers(&machines[..1], now(90)), Vec::<String>::new());
    }

    #[test]
    fn machines_of_an_older_image_are_counted_by_pool() {
        let image = |id: &str, date: &str, state: ImageState| {
            Image::builder()
                .image_id(id)
                .creation_date(date)
                .state(state)
                .architecture(ArchitectureValues::X8664)
        };
        let of_web = Tag::builder().key(tag::ROLE).value(tag::WEB).build();
        let images = [
            image("ami-1", "2026-01-01T00:00:00.000Z", ImageState::Available).build(),
            image("ami-2", "2026-02-01T00:00:00.000Z", ImageState::Available).build(),
            image("ami-3", "2026-03-01T00:00:00.000Z", ImageState::Pending).build(),
            image("ami-4", "2026-03-01T00:00:00.000Z", ImageState::Available).tags(of_web).build(),
        ];
        let machines = [
            machine(1, "default", "stopped"),
            Machine { image: "ami-2".into(), ..machine(2, "default", "stopped") },
        ];
        assert_eq!(
            outdated(&machines, &images),
            ["1 instance of the pool default: made from an older image than ami-2, the newest one"]
        );
        assert_eq!(outdated(&machines[1..], &images), Vec::<String>::new());
        assert_eq!(outdated(&machines, &[]), Vec::<String>::new());
    }
}
