//! The error type of queues and stores. Its variants are what the caller can *do*: retry later,
//! make room, use another one, continue without it, or give up. The text says what went wrong.

/// The error of a [`Queue`](crate::queue::Queue) or a [`BlobStore`](crate::blobs::BlobStore).
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// The same call may succeed later: the service is slow, throttling or briefly unavailable.
    #[error("{what}: {why}")]
    Unavailable {
        /// The operation, such as `receiving from requests-default`.
        what: String,
        /// The cause, from the backend.
        why: String,
    },
    /// There is no space left; writes fail until an operator makes some.
    #[error("{what}: no space left ({why})")]
    Full {
        /// The operation.
        what: String,
        /// The cause, from the backend.
        why: String,
    },
    /// No capacity is available now: use another one, or retry later.
    #[error("{what}: no capacity ({why})")]
    NoCapacity {
        /// The operation, such as `starting default-3`.
        what: String,
        /// The cause, from the backend.
        why: String,
    },
    /// The resource does not exist, or no longer: continue without it, or create it.
    #[error("{what}: does not exist ({why})")]
    Missing {
        /// The operation, such as `sending to responses-web-1`.
        what: String,
        /// The cause, from the backend.
        why: String,
    },
    /// The call will not succeed without a change: a wrong version, a missing permission, a broken
    /// file.
    #[error("{what}: {why}")]
    Broken {
        /// The operation.
        what: String,
        /// The cause, from the backend.
        why: String,
    },
}

/// The result of operations on queues and stores.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// Creates an error that may pass by itself.
    pub fn unavailable(what: impl Into<String>, why: impl std::fmt::Display) -> Self {
        Self::Unavailable { what: what.into(), why: why.to_string() }
    }

    /// Creates an error about a lack of capacity; other resources of the kind may have some.
    pub fn no_capacity(what: impl Into<String>, why: impl std::fmt::Display) -> Self {
        Self::NoCapacity { what: what.into(), why: why.to_string() }
    }

    /// Creates an error about something that does not exist.
    pub fn missing(what: impl Into<String>, why: impl std::fmt::Display) -> Self {
        Self::Missing { what: what.into(), why: why.to_string() }
    }

    /// Creates an error that stays until something is changed.
    pub fn broken(what: impl Into<String>, why: impl std::fmt::Display) -> Self {
        Self::Broken { what: what.into(), why: why.to_string() }
    }

    /// Classifies an I/O error: a full disk or an exhausted quota is [`Error::Full`], a permission
    /// problem or a read-only file system is [`Error::Broken`], anything else may pass.
    pub fn from_io(what: impl Into<String>, error: &std::io::Error) -> Self {
        use std::io::ErrorKind::{
            FileTooLarge, NotADirectory, PermissionDenied, QuotaExceeded, ReadOnlyFilesystem, StorageFull,
        };
        let (what, why) = (what.into(), error.to_string());
        match error.kind() {
            StorageFull | QuotaExceeded | FileTooLarge => Self::Full { what, why },
            PermissionDenied | ReadOnlyFilesystem | NotADirectory => Self::Broken { what, why },
            _ => Self::Unavailable { what, why },
        }
    }

    /// Returns whether the resource does not exist.
    pub fn is_missing(&self) -> bool {
        matches!(self, Self::Missing { .. })
    }

    /// Returns whether the same call may succeed later without a change.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Unavailable { .. } | Self::NoCapacity { .. })
    }
}
