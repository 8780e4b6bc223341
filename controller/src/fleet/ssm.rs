//! Drains a machine over SSM, by a command with the document that `eirs setup` created. The
//! document stops the worker, which drains, and powers the machine off.
//!
//! SSM accepts commands for stopped machines and delivers them after the next start. A command
//! therefore expires after half a minute, and names the generation that it is for: the machine
//! refuses one for another generation.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use aws_config::{SdkConfig, timeout::TimeoutConfig};
use aws_sdk_ssm::{Client, types::CommandInvocationStatus as Status};
use chrono::{DateTime, TimeDelta, Utc};
use eirs_platform::{
    aws::{self, Service},
    settings::Aws,
};
use futures::future::join_all;

/// Time in seconds after which an undelivered command expires. It is the shortest that SSM allows.
const DELIVERY_SECONDS: i32 = 30;
/// Time after which a failed command is sent again.
const AGAIN: TimeDelta = TimeDelta::seconds(5);
/// Time after which a machine that received no command is stopped in another way.
const UNREACHABLE: TimeDelta = TimeDelta::seconds(45);
/// Exit code of the machine's script for a command for another generation.
const OTHER_GENERATION: i32 = 75;

/// The pending drain commands. Clones share them.
#[derive(Debug, Clone)]
pub(super) struct Drains {
    client: Client,
    document: String,
    orders: Arc<Mutex<BTreeMap<String, Order>>>,
}

#[derive(Debug, Clone)]
struct Order {
    generation: String,
    first_sent: DateTime<Utc>,
    last_sent: DateTime<Utc>,
    command: Option<String>,
    arrived: bool,
}

/// The delivery state of a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Delivery {
    /// SSM has accepted it.
    UnderWay,
    /// The machine has received it.
    Arrived,
    /// Not delivered.
    Failed,
}

/// Name of the SSM document in the account.
pub fn document_name(prefix: &str) -> String {
    format!("{prefix}-drain")
}

/// Name of the document's parameter for the generation.
pub const GENERATION_PARAMETER: &str = "Generation";

/// Makes the SSM client that the settings describe.
pub fn client(config: &SdkConfig, settings: &Aws) -> Client {
    let mut builder = aws_sdk_ssm::config::Builder::from(config);
    if let Some(endpoint) = aws::endpoint(settings, Service::Ssm) {
        builder = builder.endpoint_url(endpoint);
    }
    let time_out = TimeoutConfig::builder()
        .connect_timeout(Duration::from_secs(2))
        .operation_attempt_timeout(Duration::from_secs(4))
        .operation_timeout(Duration::from_secs(9))
        .build();
    Client::from_conf(builder.timeout_config(time_out).build())
}

impl Drains {
    pub(super) fn new(config: &SdkConfig, settings: &Aws) -> Self {
        let document = document_name(&settings.prefix);
        Self { client: client(config, settings), document, orders: Arc::default() }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Order>> {
        self.orders.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the machine has received its command.
    #[cfg(test)]
    pub(super) fn has_arrived(&self, id: &str) -> bool {
        self.lock().get(id).is_some_and(|order| order.arrived)
    }

    /// Drops the commands for all other machines and generations.
    pub(super) fn forget_all_but(&self, draining: &[(String, String)]) {
        let is_draining = |id: &str, order: &Order| {
            draining.iter().any(|(other, generation)| other == id && *generation == order.generation)
        };
        self.lock().retain(|id, order| is_draining(id, order));
    }

    /// Sends the drain command, also if it was sent before.
    pub(super) async fn send(&self, id: &str, generation: &str, now: DateTime<Utc>) -> Delivery {
        let sent = self
            .client
            .send_command()
            .document_name(&self.document)
            .instance_ids(id)
            .timeout_seconds(DELIVERY_SECONDS)
            .parameters(GENERATION_PARAMETER, vec![generation.to_owned()])
            .send()
            .await;
        let command = match sent {
            Ok(sent) => sent.command.and_then(|command| command.command_id),
            Err(error) => {
                let error = aws::error(format!("draining {id}"), &error);
                tracing::warn!(instance = id, %error, "{error}");
                None
            }
        };
        let delivery = if command.is_some() { Delivery::UnderWay } else { Delivery::Failed };
        let mut orders = self.lock();
        let first =
            orders.get(id).filter(|order| order.generation == generation).map(|order| order.first_sent);
        let first_sent = first.unwrap_or(now);
        let order =
            Order { generation: generation.to_owned(), first_sent, last_sent: now, command, arrived: false };
        orders.insert(id.to_owned(), order);
        delivery
    }

    /// Checks the commands to these machines, and sends those again that failed or that this
    /// controller has not sent. Returns the ids of the machines that cannot be reached.
    pub(super) async fn follow_up(&self, draining: &[(String, String)], now: DateTime<Utc>) -> Vec<String> {
        let looks = draining.iter().map(|(id, generation)| self.follow_up_one(id, generation, now));
        join_all(looks).await.into_iter().flatten().collect()
    }

    async fn follow_up_one(&self, id: &str, generation: &str, now: DateTime<Utc>) -> Option<String> {
        let Some(order) = self.lock().get(id).cloned() else {
            // The drain is from an earlier controller, which may or may not have sent the command.
            // Sending it twice does no harm.
            self.send(id, generation, now).await;
            return None;
        };
        if order.arrived {
            return None;
        }
        let delivery = match &order.command {
            Some(command) => self.look(id, command).await,
            None => Delivery::Failed,
        };
        match delivery {
            Delivery::Arrived => {
                if let Some(order) = self.lock().get_mut(id) {
                    order.arrived = true;
                }
                None
            }
            Delivery::UnderWay | Delivery::Failed if now - order.first_sent > UNREACHABLE => {
                Some(id.to_owned())
            }
            Delivery::Failed if now - order.last_sent >= AGAIN => {
                self.send(id, generation, now).await;
                None
            }
            Delivery::UnderWay | Delivery::Failed => None,
        }
    }

    async fn look(&self, id: &str, command: &str) -> Delivery {
        let looked = self.client.get_command_invocation().command_id(command).instance_id(id).send().await;
        let invocation = match looked {
            Ok(invocation) => invocation,
            // Right after it was sent, SSM may not know the command yet.
            Err(error) if error.as_service_error().is_some_and(|e| e.is_invocation_does_not_exist()) => {
                return Delivery::UnderWay;
            }
            Err(error) => {
                let error = aws::error(format!("checking the drain of {id}"), &error);
                tracing::warn!(instance = id, %error, "{error}");
                return Delivery::UnderWay;
            }
        };
        let status = invocation.status.unwrap_or(Status::Pending);
        // The script stops the worker and waits for it: as long as it runs, the machine has the
        // command.
        match status {
            Status::Pending | Status::Delayed => Delivery::UnderWay,
            Status::InProgress | Status::Success => Delivery::Arrived,
            _ if invocation.response_code == OTHER_GENERATION => {
                tracing::warn!(
                    instance = id,
                    "{id} refused a drain that was meant for another \
                    generation"
                );
                Delivery::Arrived
            }
            _ => {
                let status = invocation.status_details.unwrap_or_default();
                let output = invocation.standard_error_content.unwrap_or_default();
                tracing::warn!(
                    instance = id,
                    status,
                    output,
                    "the drain of {id} was not delivered: {status} {output}"
                );
                Delivery::Failed
            }
        }
    }
}
