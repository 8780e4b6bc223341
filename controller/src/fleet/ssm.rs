//! Drains a machine over SSM: an order of our own document, which `eirs setup` made, to one
//! machine. What the machine does with it is written there: it stops its worker, which drains, and
//! powers off.
//!
//! SSM takes orders for machines that are stopped and delivers them after the next start. So an
//! order waits for half a minute at most, and names the generation that it is for: the machine
//! refuses one for another.

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

/// How long an order waits for its machine. SSM knows no shorter time.
const DELIVERY_SECONDS: i32 = 30;
/// So long after an order failed it is given again.
const AGAIN: TimeDelta = TimeDelta::seconds(5);
/// A machine that no order has reached for this long is stopped in another way.
const UNREACHABLE: TimeDelta = TimeDelta::seconds(45);
/// What the machine's script exits with where the order is for another generation.
const OTHER_GENERATION: i32 = 75;

/// The orders on their way. Clones share them.
#[derive(Debug, Clone)]
pub(super) struct Drains {
    client: Client,
    document: String,
    orders: Arc<Mutex<BTreeMap<String, Order>>>,
}

#[derive(Debug, Clone)]
struct Order {
    generation: String,
    first_told: DateTime<Utc>,
    last_told: DateTime<Utc>,
    command: Option<String>,
    arrived: bool,
}

/// What became of an order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Delivery {
    /// SSM has it.
    UnderWay,
    /// The machine has it.
    Arrived,
    /// Neither.
    Failed,
}

/// The name of the document in the account.
pub fn document_name(prefix: &str) -> String {
    format!("{prefix}-drain")
}

/// The parameter of the document that holds the generation.
pub const GENERATION_PARAMETER: &str = "Generation";

/// The client of SSM that the settings describe.
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

    /// Whether the machine has its order.
    #[cfg(test)]
    pub(super) fn has_arrived(&self, id: &str) -> bool {
        self.lock().get(id).is_some_and(|order| order.arrived)
    }

    /// Drops the orders that are over.
    pub(super) fn forget_all_but(&self, draining: &[(String, String)]) {
        let is_draining = |id: &str, order: &Order| {
            draining.iter().any(|(other, generation)| other == id && *generation == order.generation)
        };
        self.lock().retain(|id, order| is_draining(id, order));
    }

    /// Gives the order, or gives it again.
    pub(super) async fn tell(&self, id: &str, generation: &str, now: DateTime<Utc>) -> Delivery {
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
            orders.get(id).filter(|order| order.generation == generation).map(|order| order.first_told);
        let first_told = first.unwrap_or(now);
        let order =
            Order { generation: generation.to_owned(), first_told, last_told: now, command, arrived: false };
        orders.insert(id.to_owned(), order);
        delivery
    }

    /// Looks after the orders to these machines, and gives again those that failed or that nobody
    /// here has given. Answers the machines that are not reached.
    pub(super) async fn pursue(&self, draining: &[(String, String)], now: DateTime<Utc>) -> Vec<String> {
        let looks = draining.iter().map(|(id, generation)| self.pursue_one(id, generation, now));
        join_all(looks).await.into_iter().flatten().collect()
    }

    async fn pursue_one(&self, id: &str, generation: &str, now: DateTime<Utc>) -> Option<String> {
        let Some(order) = self.lock().get(id).cloned() else {
            // Of an earlier controller: whether it was sent before the tag is unknown, and twice
            // does no harm.
            self.tell(id, generation, now).await;
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
            Delivery::UnderWay | Delivery::Failed if now - order.first_told > UNREACHABLE => {
                Some(id.to_owned())
            }
            Delivery::Failed if now - order.last_told >= AGAIN => {
                self.tell(id, generation, now).await;
                None
            }
            Delivery::UnderWay | Delivery::Failed => None,
        }
    }

    async fn look(&self, id: &str, command: &str) -> Delivery {
        let looked = self.client.get_command_invocation().command_id(command).instance_id(id).send().await;
        let invocation = match looked {
            Ok(invocation) => invocation,
            // Right after the order SSM does not know it yet.
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
        // order.
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
                let told = invocation.status_details.unwrap_or_default();
                let said = invocation.standard_error_content.unwrap_or_default();
                tracing::warn!(
                    instance = id,
                    told,
                    said,
                    "the drain of {id} was not delivered: \
                    {told} {said}"
                );
                Delivery::Failed
            }
        }
    }
}
