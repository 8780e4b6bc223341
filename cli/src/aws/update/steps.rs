//! The next step of a pool on its way to an image, derived from the states and tags of its
//! machines. Pure, so that an update that was killed at any point can continue.

use aws_sdk_ec2::types::InstanceStateName as State;
use eirs_platform::aws::tag;

use crate::aws::{instances::Instance, pool::Pool};

/// The next step.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Machines with the image that were retired: they stay.
    Keep(Vec<String>),
    /// Replaced machines that are parked, or machines of an interrupted run.
    TakeAway(Vec<String>),
    /// Machines with the image that are not proven yet.
    Prove(Vec<String>),
    /// Machines with other images that can be replaced now: the controller no longer starts them,
    /// and drains those that run.
    Retire(Vec<String>),
    /// Retired machines are still in use.
    Wait(Vec<String>),
    Launch(u32),
    Done,
}

impl Step {
    /// Returns the next step for a pool whose machines must have the image `to`, replacing at most
    /// `wave` of them at a time.
    pub(crate) fn next(pool: &Pool, to: &str, wave: u32) -> Self {
        let retires = |machine: &&Instance| machine.tag(tag::RETIRES) == Some(tag::YES);
        let is_parked = |machine: &&Instance| machine.state == State::Stopped;
        let (current, others): (Vec<_>, Vec<_>) =
            pool.machines.iter().partition(|machine| machine.image == to);
        let (fresh, begun): (Vec<_>, Vec<_>) =
            current.into_iter().partition(|machine| machine.is_handed_over());
        let (others, strays): (Vec<_>, Vec<_>) =
            others.into_iter().partition(|machine| machine.is_handed_over());
        let (leaving, mut old): (Vec<_>, Vec<_>) = others.into_iter().partition(retires);

        let kept: Vec<_> = fresh.iter().copied().filter(retires).collect();
        if !kept.is_empty() {
            return Self::Keep(ids(&kept));
        }
        let gone = [strays, leaving.iter().copied().filter(is_parked).collect()].concat();
        if !gone.is_empty() {
            return Self::TakeAway(ids(&gone));
        }
        if !begun.is_empty() {
            return Self::Prove(ids(&begun[..begun.len().min(wave as usize)]));
        }
        let surplus = (fresh.len() + old.len()).saturating_sub(pool.wanted as usize).min(old.len());
        if surplus > 0 {
            // Parked machines first, which disturbs no job.
            old.sort_by_key(|machine| !is_parked(machine));
            return Self::Retire(ids(&old[..surplus]));
        }
        if !leaving.is_empty() {
            return Self::Wait(ids(&leaving));
        }
        match pool.wanted.saturating_sub(fresh.len() as u32) {
            0 => Self::for_launched(pool, to),
            missing => Self::Launch(missing.min(wave)),
        }
    }

    /// Returns the step for machines that the controller launched, once the others have the image:
    /// from then on it launches new ones like those, and terminates the old ones when they are
    /// drained.
    fn for_launched(pool: &Pool, to: &str) -> Self {
        let retires = |machine: &&Instance| machine.tag(tag::RETIRES) == Some(tag::YES);
        let (current, others): (Vec<_>, Vec<_>) =
            pool.launched.iter().partition(|machine| machine.image == to);
        let kept: Vec<_> = current.into_iter().filter(retires).collect();
        if !kept.is_empty() {
            return Self::Keep(ids(&kept));
        }
        let (leaving, old): (Vec<_>, Vec<_>) = others.into_iter().partition(retires);
        match (old.is_empty(), leaving.is_empty()) {
            (false, _) => Self::Retire(ids(&old)),
            (true, false) => Self::Wait(ids(&leaving)),
            (true, true) => Self::Done,
        }
    }
}

fn ids(machines: &[&Instance]) -> Vec<String> {
    machines.iter().map(|machine| machine.id.clone()).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::aws::instances::tests::machine;

    const WANTED: u32 = 15;
    const MIN: usize = 3;

    fn pool(machines: Vec<Instance>) -> Pool {
        Pool { name: "p".into(), model: "m".into(), wanted: WANTED, machines, launched: Vec::new() }
    }

    fn set(machine: &mut Instance, key: &str, value: &str) {
        machine.tags.insert(key.into(), value.into());
    }

    /// Carries a step out, like an update and a controller that keeps `MIN` machines running;
    /// returns `false` when all is done.
    fn carry_out(pool: &mut Pool, step: &Step, next_id: &mut u32) -> bool {
        let is_in = |ids: &[String], machine: &Instance| ids.contains(&machine.id);
        match step {
            Step::Keep(ids) => {
                let kept = pool.machines.iter_mut().filter(|machine| is_in(ids, machine));
                kept.for_each(|machine| _ = machine.tags.remove(tag::RETIRES));
            }
            Step::TakeAway(ids) => pool.machines.retain(|machine| !is_in(ids, machine)),
            Step::Prove(ids) => {
                for machine in pool.machines.iter_mut().filter(|machine| ids.contains(&machine.id)) {
                    set(machine, tag::HANDED_OVER, tag::YES);
                    machine.state = State::Stopped;
                }
            }
            Step::Retire(ids) => {
                let retired = pool.machines.iter_mut().filter(|machine| ids.contains(&machine.id));
                retired.for_each(|machine| set(machine, tag::RETIRES, tag::YES));
            }
            Step::Wait(ids) => {
                // The controller starts another machine, and drains this one when that serves.
                let free = pool.machines.iter_mut().find(|machine| {
                    machine.state == State::Stopped
                        && machine.is_handed_over()
                        && !machine.tags.contains_key(tag::RETIRES)
                });
                free.expect("one is there in its place").state = State::Running;
                let gone = pool.machines.iter_mut().find(|machine| machine.id == ids[0]);
                gone.expect("it is there").state = State::Stopped;
            }
            Step::Launch(count) => {
                for _ in 0..*count {
                    *next_id += 1;
                    let mut launched = machine(&format!("i-{next_id}"), "new", State::Running);
                    set(&mut launched, tag::HANDED_OVER, tag::TRIAL);
                    pool.machines.push(launched);
                }
            }
            Step::Done => return false,
        }
        true
    }

    fn old(count: u32, running: usize) -> Vec<Instance> {
        let machine = |number: u32| {
            let state = if (number as usize) < running { State::Running } else { State::Stopped };
            let mut machine = machine(&format!("old-{number}"), "old", state);
            set(&mut machine, tag::HANDED_OVER, tag::YES);
            machine
        };
        (0..count).map(machine).collect()
    }

    proptest! {
            #[test]
            fn every_machine_is_replaced_without_loss_of_capacity_and_a_rollback_is_possible_at_any_point(
                running in MIN..WANTED as usize, wave in 1u32..6,
                back_after in proptest::option::of(0usize..60),
            ) {
                let mut pool = pool(old(WANTED, running));
                let (mut to, mut next_id, mut steps) = ("new", 0, 0);
                loop {
                    if back_after == Some(steps) {
                        to = "old";
                    }
                    let step = Step::next(&pool, to, wave);
                    // Machines that are launched during the rollback have the old image.
                    let before = pool.machines.len();
                    if !carry_out(&mut pool, &step, &mut next_id) {
                        break;
                    }
                    if to == "old" {
    let launched = pool.machines.iter_mut().skip(before);
                        launched.for_each(|machine| machine.image = "old".into());
                    }
                    let serves = |machine: &&Instance| machine.is_handed_over();
                    let is_at_work = |m: &&Instance| serves(m) && m.state == State::Running;
                    let at_work = pool.machines.iter().filter(is_at_work).count();
                    prop_assert!(at_work >= running.min(MIN), "{step:?}");
                    prop_assert!(pool.machines.iter().filter(serves).count() >= WANTED as usize - wave as usize, "{step:?}");
                    prop_assert!(pool.machines.len() <= (WANTED + wave) as usize + wave as usize, "{step:?}");
                    steps += 1;
                    prop_assert!(steps < 1000, "it ends");
                }
                prop_assert!(pool.machines.iter().all(|machine| machine.image == to));
                prop_assert_eq!(pool.machines.len(), WANTED as usize);
            }
        }

    #[test]
    fn launched_machines_are_replaced_after_the_parked_ones_and_kept_by_a_rollback() {
        let of = |image: &str| {
            let mut machine = machine(&format!("launched-{image}"), image, State::Running);
            set(&mut machine, tag::HANDED_OVER, tag::YES);
            machine
        };
        let mut pool = pool(old(WANTED, 3));
        pool.launched = vec![of("old"), of("new")];
        assert_eq!(Step::next(&pool, "new", 4), Step::Launch(4), "first the others");
        pool.machines.iter_mut().for_each(|machine| machine.image = "new".into());
        assert_eq!(Step::next(&pool, "new", 4), Step::Retire(vec!["launched-old".into()]));
        set(&mut pool.launched[0], tag::RETIRES, tag::YES);
        assert_eq!(Step::next(&pool, "new", 4), Step::Wait(vec!["launched-old".into()]));
        let mut back = pool.clone();
        back.machines.iter_mut().for_each(|machine| machine.image = "old".into());
        assert_eq!(Step::next(&back, "old", 4), Step::Keep(vec!["launched-old".into()]));
        // The controller has terminated it.
        pool.launched.remove(0);
        assert_eq!(Step::next(&pool, "new", 4), Step::Done);
    }

    #[test]
    fn a_proven_machine_exists_before_a_parked_one_is_removed() {
        let mut machines = old(WANTED, 3);
        let mut canary = machine("i-1", "new", State::Running);
        set(&mut canary, tag::HANDED_OVER, tag::TRIAL);
        machines.push(canary.clone());
        assert_eq!(Step::next(&pool(machines.clone()), "new", 4), Step::Prove(vec!["i-1".into()]));
        set(machines.last_mut().unwrap(), tag::HANDED_OVER, tag::YES);
        assert_eq!(Step::next(&pool(machines.clone()), "new", 4), Step::Retire(vec!["old-3".into()]));
        set(&mut machines[3], tag::RETIRES, tag::YES);
        assert_eq!(Step::next(&pool(machines.clone()), "new", 4), Step::TakeAway(vec!["old-3".into()]));
        machines.remove(3);
        assert_eq!(Step::next(&pool(machines.clone()), "new", 4), Step::Launch(4));
        // During the rollback, the tried machine is useless.
        machines.pop();
        machines.push(canary);
        assert_eq!(Step::next(&pool(machines), "old", 4), Step::TakeAway(vec!["i-1".into()]));
    }
}
