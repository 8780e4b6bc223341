//! What every webhook of EIRS sends with: one signed request, in the form of Standard Webhooks
//! (standardwebhooks.com), and what the status of its answer means.

mod message;
mod post;
mod sign;

pub use self::{
    message::{Message, name_of},
    post::{Ended, Poster},
    sign::Keys,
};
