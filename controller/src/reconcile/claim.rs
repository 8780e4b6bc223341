//! That this controller is the one that acts: said again and again, to other controllers and to the
//! workers.

use std::sync::Arc;

use eirs_platform::{
    backend::{Backend, Claim, Control},
    clock::SharedClock,
};

/// Says again and again that the controller runs here, and renews its claim. Ends with another one
/// that has taken it over.
pub(super) async fn keep_control(
    backend: Backend,
    claim: Option<Arc<Claim>>,
    host: String,
    clock: SharedClock,
) -> Control {
    let mut said: Option<tokio::time::Instant> = None;
    loop {
        let next = match &claim {
            None => Control::RENEW,
            Some(claim) => match claim.renew().await {
                Ok(Some(other)) => return other,
                Ok(None) => Claim::RENEW,
                Err(error) => {
                    tracing::warn!(%error, "the claim of this controller cannot be renewed");
                    Claim::LOOK
                }
            },
        };
        // For the workers, who need to hear it less often.
        if claim.as_ref().is_none_or(|claim| claim.may_act())
            && said.is_none_or(|at| at.elapsed() >= Control::RENEW)
        {
            match backend.tell_control(Some(&host), clock.now()).await {
                Ok(()) => said = Some(tokio::time::Instant::now()),
                Err(error) => tracing::warn!(%error, "the claim of this controller cannot be \
                    written"),
            }
        }
        tokio::time::sleep(next).await;
    }
}
