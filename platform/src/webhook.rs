//! The requests of all webhooks of EIRS: signed, in the form of Standard Webhooks
//! (standardwebhooks.com), with the meaning of the receiver's status.

mod message;
mod post;
mod sign;

pub use self::{
    message::{Message, name_of},
    post::{Ended, Poster},
    sign::Keys,
};
