//! What the errors of AWS mean to a caller: try again, take another one, go on without it, or give
//! up.

use aws_sdk_sqs::{
    config::http::HttpResponse,
    error::{DisplayErrorContext, ProvideErrorMetadata, SdkError},
};

use crate::error::Error;

/// What a call that failed was answered: the error's code, such as `AccessDenied`, or `None` where
/// there was no answer.
pub fn code<E: ProvideErrorMetadata>(error: &SdkError<E, HttpResponse>) -> Option<&str> {
    error.as_service_error().and_then(ProvideErrorMetadata::code)
}

/// Sorts a failed call. `what` was being done, e.g. `receiving from requests-default`.
pub fn error<E>(what: impl Into<String>, error: &SdkError<E, HttpResponse>) -> Error
where
    E: ProvideErrorMetadata + std::error::Error + 'static,
{
    let Some(service) = error.as_service_error() else {
        return unanswered(what, error);
    };
    let status = error.raw_response().map_or(0, |response| response.status().as_u16());
    let (code, message) = (service.code().unwrap_or_default(), service.message().unwrap_or_default());
    sorted(what.into(), code, message, status)
}

/// Sorts an error that came as an entry of an answer, or of a call whose status is not known (0).
pub(crate) fn sorted(what: String, code: &str, message: &str, status: u16) -> Error {
    let why = match (code, message) {
        ("", "") => format!("HTTP status {status}"),
        (code, "") => code.to_owned(),
        ("", message) => message.to_owned(),
        (code, message) => format!("{code}: {message}"),
    };
    // A code of the older query protocol says the service first:
    // `AWS.SimpleQueueService.NonExistentQueue`.
    let code = code.rsplit(['.', '#']).next().unwrap_or(code);
    match meaning(code, status) {
        Meaning::TryLater => Error::Unavailable { what, why },
        Meaning::NoCapacity => Error::NoCapacity { what, why },
        Meaning::Missing => Error::Missing { what, why },
        Meaning::Never => Error::Broken { what, why },
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Meaning {
    TryLater,
    NoCapacity,
    Missing,
    Never,
}

fn meaning(code: &str, status: u16) -> Meaning {
    match code {
        // Of the machines, not of the API: others may be had.
        "InsufficientInstanceCapacity"
        | "InsufficientHostCapacity"
        | "InsufficientReservedInstanceCapacity"
        | "InsufficientCapacity"
        // A type that a zone does not have ("Your requested instance type is not supported in your
        // requested Availability Zone").
        | "Unsupported"
        | "InstanceLimitExceeded"
        | "VcpuLimitExceeded"
        | "MaxSpotInstanceCountExceeded"
        | "SpotMaxPriceTooLow" => Meaning::NoCapacity,
        "NonExistentQueue"
        | "QueueDoesNotExist"
        | "NoSuchBucket"
        | "NoSuchKey"
        | "NotFound"
        | "NoSuchEntity"
        | "InvalidDocument"
        | "ParameterNotFound" => Meaning::Missing,
        code if code.ends_with(".NotFound") || code.ends_with("NotFoundException") => Meaning::Missing,
        // The SDK has tried again by then, more patiently than a caller should have to.
        "RequestLimitExceeded"
        | "Throttling"
        | "ThrottlingException"
        | "ThrottledException"
        | "RequestThrottled"
        | "RequestThrottledException"
        | "TooManyRequestsException"
        | "SlowDown"
        | "OverLimit"
        | "RequestTimeout"
        | "RequestTimeoutException"
        | "OperationAborted"
        | "ConditionalRequestConflict"
        | "ServiceUnavailable"
        | "Unavailable"
        | "InternalError"
        | "InternalFailure"
        | "InternalServerError"
        | "QueueDeletedRecently"
        // The chain fetches new credentials when these have run out.
        | "ExpiredToken"
        | "ExpiredTokenException"
        | "RequestExpired"
        // An instance is in between two states, or its agent has not registered yet.
        | "IncorrectInstanceState"
        | "InvalidInstanceId" => Meaning::TryLater,
        _ if status >= 500 || status == 429 || status == 408 => Meaning::TryLater,
        "" if status == 404 => Meaning::Missing,
        "" if status == 0 => Meaning::TryLater,
        _ => Meaning::Never,
    }
}

/// No answer came: the network, a time-out, or credentials that could not be had just now.
fn unanswered<E>(what: impl Into<String>, error: &SdkError<E, HttpResponse>) -> Error
where
    E: ProvideErrorMetadata + std::error::Error + 'static,
{
    match error {
        SdkError::ConstructionFailure(_) => Error::broken(what, DisplayErrorContext(error)),
        SdkError::TimeoutError(_) => Error::unavailable(what, "no response in time"),
        _ => Error::unavailable(what, innermost(error)),
    }
}

/// The SDK's own words are "dispatch failure"; what happened stands at the end of the chain.
fn innermost(error: &(dyn std::error::Error + 'static)) -> String {
    let mut last = error;
    let mut says_credentials = false;
    while let Some(source) = last.source() {
        last = source;
        says_credentials |= last.to_string().contains("credential");
    }
    let text = last.to_string();
    if says_credentials && !text.contains("credential") { format!("no credentials: {text}") } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_error_is_what_a_caller_can_do_about_it() {
        for (code, status, expected) in [
            ("RequestLimitExceeded", 503, Meaning::TryLater),
            ("SlowDown", 503, Meaning::TryLater),
            ("NeverHeardOf", 500, Meaning::TryLater),
            ("InsufficientInstanceCapacity", 500, Meaning::NoCapacity),
            ("VcpuLimitExceeded", 400, Meaning::NoCapacity),
            ("NoSuchBucket", 404, Meaning::Missing),
            ("InvalidInstanceID.NotFound", 400, Meaning::Missing),
            ("AccessDenied", 403, Meaning::Never),
            ("UnauthorizedOperation", 403, Meaning::Never),
            ("InvalidParameterValue", 400, Meaning::Never),
        ] {
            assert_eq!(meaning(code, status), expected, "{code}");
        }
    }

    #[test]
    fn a_code_of_the_query_protocol_is_read_without_its_service() {
        let error = sorted("sending".into(), "AWS.SimpleQueueService.NonExistentQueue", "gone", 400);
        assert!(error.is_missing(), "{error:?}");
        assert_eq!(
            error.to_string(),
            "sending: does not exist (AWS.SimpleQueueService.NonExistentQueue: gone)"
        );
    }
}
