//! Announces to other controllers and to the workers that this controller is the one that acts.

use std::sync::Arc;

use eirs_platform::{
    backend::{Backend, Claim, Control},
    clock::SharedClock,
};

/// Announces repeatedly that the controller runs here, and renews its claim. Returns the other
/// controller if one has taken over the claim.
pub(super) async fn keep_control(
    backend: Backend,
    claim: Option<Arc<Claim>>,
    host: String,
    clock: SharedClock,
) -> Control {
    let mut announced: Option<tokio::time::Instant> = None;
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
        // The announcement to the workers, which is needed less often.
        if claim.as_ref().is_none_or(|claim| claim.may_act())
            && announced.is_none_or(|at| at.elapsed() >= Control::RENEW)
        {
            match backend.announce_control(Some(&host), clock.now()).await {
                Ok(()) => announced = Some(tokio::time::Instant::now()),
                Err(error) => tracing::warn!(%error, "the claim of this controller cannot be \
                    written"),
            }
        }
        tokio::time::sleep(next).await;
    }
}
