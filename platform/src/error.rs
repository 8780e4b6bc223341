//! One error type for the seams. Its variants are what a caller can *do*, not what went wrong: try
//! again later, make room, take another one, go on without it, or give up. The text says what went
//! wrong.

/// What a [`Queue`](crate::queue::Queue) or a [`BlobStore`](crate::blobs::BlobStore) answers when
/// it cannot do as asked.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// The same call may work later: the service is slow, throttling or briefly away.
    #[error("{what}: {why}")]
    Unavailable {
        /// What was being done, e.g. `receiving from requests-default`.
        what: String,
        /// The cause, as the backend put it.
        why: String,
    },
    /// There is no room left; nothing that writes will work until an operator makes some.
    #[error("{what}: no space left ({why})")]
    Full {
        /// What was being done.
        what: String,
        /// The cause, as the backend put it.
        why: String,
    },
    /// Nobody has any of it to give just now: ask for another one, or again later.
    #[error("{what}: no capacity ({why})")]
    NoCapacity {
        /// What was being done, e.g. `starting default-3`.
        what: String,
        /// The cause, as the backend put it.
        why: String,
    },
    /// What was addressed does not exist, or not any more: go on without it, or make it.
    #[error("{what}: does not exist ({why})")]
    Missing {
        /// What was being done, e.g. `sending to responses-web-1`.
        what: String,
        /// The cause, as the backend put it.
        why: String,
    },
    /// This will never work as things are: a wrong version, a missing permission, a broken file.
    #[error("{what}: {why}")]
    Broken {
        /// What was being done.
        what: String,
        /// The cause, as the backend put it.
        why: String,
    },
}

/// The result of every verb of a seam.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An error that may pass by itself.
    pub fn unavailable(what: impl Into<String>, why: impl std::fmt::Display) -> Self {
        Self::Unavailable { what: what.into(), why: why.to_string() }
    }

    /// What was asked for is not to be had just now, though others like it may be.
    pub fn no_capacity(what: impl Into<String>, why: impl std::fmt::Display) -> Self {
        Self::NoCapacity { what: what.into(), why: why.to_string() }
    }

    /// What was addressed is not there.
    pub fn missing(what: impl Into<String>, why: impl std::fmt::Display) -> Self {
        Self::Missing { what: what.into(), why: why.to_string() }
    }

    /// An error that stays until somebody changes something.
    pub fn broken(what: impl Into<String>, why: impl std::fmt::Display) -> Self {
        Self::Broken { what: what.into(), why: why.to_string() }
    }

    /// Sorts an I/O error: a full disk or an exhausted quota is [`Error::Full`], a refused or
    /// read-only place is [`Error::Broken`], everything else may pass.
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

    /// Whether what was addressed does not exist.
    pub fn is_missing(&self) -> bool {
        matches!(self, Self::Missing { .. })
    }

    /// Whether the same call may work later without anybody's help.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Unavailable { .. } | Self::NoCapacity { .. })
    }
}
