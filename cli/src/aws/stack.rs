//! An installation that a stack of CloudFormation made (`eirs setup --print cloudformation`). What
//! is the stack's is used and never changed or deleted here: the team that keeps the stack does so.

use super::{Account, iam::Profile};

/// The name of the stack, where there is one.
pub(crate) async fn of(account: &Account) -> anyhow::Result<Option<String>> {
    Profile::Web.stack(account).await
}

/// How what is a stack's becomes what the settings say.
pub(crate) fn update(stack: &str) -> String {
    format!("update the stack {stack} with the template that `eirs setup --print cloudformation` prints")
}

/// Who brings a stack back to what it should be, and how.
pub(crate) fn advice(stack: &str) -> String {
    format!("for the team of the stack {stack}: {}; `eirs setup` changes nothing of it", update(stack))
}
