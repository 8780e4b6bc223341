//! Queries EC2: lists all machines by tags, or describes some by their ids.

use aws_sdk_ec2::{Client, types::Filter};
use eirs_platform::{
    aws::{self, tag},
    error::{Error, Result},
};

use super::machine::Machine;

/// Number of ids in one call.
const IDS: usize = 200;
/// Number of times that ids which do not exist are removed from a call before it fails.
const ROUNDS: usize = 5;

/// The result of a description.
#[derive(Debug, Default)]
pub(super) struct Described {
    pub(super) machines: Vec<Machine>,
    /// Ids that do not exist, according to EC2.
    pub(super) gone: Vec<String>,
}

/// Lists every machine of the installation that `eirs setup` has handed over.
pub(super) async fn all(client: &Client, prefix: &str) -> Result<Vec<Machine>> {
    let filter = |key: &str, value: &str| Filter::builder().name(format!("tag:{key}")).values(value).build();
    let pages = client
        .describe_instances()
        .filters(filter(tag::INSTALLATION, prefix))
        .filters(filter(tag::ROLE, tag::WORKER))
        .filters(filter(tag::HANDED_OVER, tag::YES))
        .max_results(1000)
        .into_paginator();
    let mut reservations = pages.items().send();
    let mut machines = Vec::new();
    while let Some(reservation) = reservations.next().await {
        let reservation = reservation.map_err(|error| aws::error("listing the instances", &error))?;
        machines.extend(reservation.instances().iter().filter_map(Machine::of));
    }
    Ok(machines)
}

/// Describes these machines. A call fails as a whole if one of its ids does not exist; it is then
/// repeated without that id.
pub(super) async fn some(client: &Client, ids: Vec<String>) -> Result<Described> {
    let mut described = Described::default();
    for chunk in ids.chunks(IDS) {
        let mut ids = chunk.to_vec();
        let mut rounds = 0;
        while !ids.is_empty() {
            match machines(client, &ids).await {
                Ok(machines) => {
                    described.machines.extend(machines);
                    break;
                }
                Err(error) if error.is_missing() && rounds < ROUNDS => {
                    let text = error.to_string();
                    let (gone, left): (Vec<_>, Vec<_>) =
                        ids.into_iter().partition(|id| text.contains(id.as_str()));
                    if gone.is_empty() {
                        return Err(error);
                    }
                    described.gone.extend(gone);
                    (ids, rounds) = (left, rounds + 1);
                }
                Err(error) => return Err(error),
            }
        }
    }
    Ok(described)
}

async fn machines(client: &Client, ids: &[String]) -> Result<Vec<Machine>, Error> {
    let call = client.describe_instances().set_instance_ids(Some(ids.to_vec()));
    let answer = call.send().await.map_err(|error| aws::error("describing instances", &error))?;
    let instances = answer.reservations().iter().flat_map(|reservation| reservation.instances());
    Ok(instances.filter_map(Machine::of).collect())
}
