//! An installation created by a CloudFormation stack (`eirs setup --print cloudformation`).
//! Resources of the stack are used, but never changed or deleted here: that is up to the team that
//! maintains the stack.

use super::{Account, iam::Profile};

/// Returns the name of the stack, if there is one.
pub(crate) async fn of(account: &Account) -> anyhow::Result<Option<String>> {
    Profile::Web.stack(account).await
}

/// Describes how to update resources of a stack to the settings.
pub(crate) fn update(stack: &str) -> String {
    format!("update the stack {stack} with the template that `eirs setup --print cloudformation` prints")
}

/// Describes who repairs a stack, and how.
pub(crate) fn advice(stack: &str) -> String {
    format!("for the team of the stack {stack}: {}; `eirs setup` changes nothing of it", update(stack))
}
