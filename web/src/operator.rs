//! What people see of the service: its status, live and as a page, and whether it is ready.

pub(crate) mod controller;
pub(crate) mod live;
pub(crate) mod page;
pub(crate) mod ready;
pub(crate) mod status;
