//! Classifies the errors of AWS by what a caller can do: retry, use another resource, continue
//! without it, or give up.

use aws_sdk_sqs::{
    config::http::HttpResponse,
    error::{DisplayErrorContext, ProvideErrorMetadata, SdkError},
};

use crate::error::Error;

/// Returns the error code of a failed call, such as `AccessDenied`, or `None` if there was no
/// response.
pub fn code<E: ProvideErrorMetadata>(error: &SdkError<E, HttpResponse>) -> Option<&str> {
    error.as_service_error().and_then(ProvideErrorMetadata::code)
}

/// Converts the error of a call. `what` is the operation, such as `receiving from
/// requests-default`.
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

/// Converts an error that is an entry of a response, or of a call whose status is unknown (0).
pub(crate) fn sorted(what: String, code: &str, message: &str, status: u16) -> Error {
    let why = match (code, message) {
        ("", "") => format!("HTTP status {status}"),
        (code, "") => code.to_owned(),
        ("", message) => message.to_owned(),
        (code, message) => format!("{code}: {message}"),
    };
    // The older query protocol puts the service first: `AWS.SimpleQueueService.NonExistentQueue`.
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
        // No capacity for this machine; other types or zones may have some.
        "InsufficientInstanceCapacity"
        | "InsufficientHostCapacity"
        | "InsufficientReservedInstanceCapacity"
        | "InsufficientCapacity"
        // The zone does not offer the instance type ("Your requested instance type is not supported
        // in your requested Availability Zone").
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
        // By then the SDK has already retried, with longer waits than a caller should need.
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
        // The credential chain fetches new credentials when these have expired.
        | "ExpiredToken"
        | "ExpiredTokenException"
        | "RequestExpired"
        // An instance is between two states, or its agent has not registered yet.
        | "IncorrectInstanceState"
        | "InvalidInstanceId" => Meaning::TryLater,
        _ if status >= 500 || status == 429 || status == 408 => Meaning::TryLater,
        "" if status == 404 => Meaning::Missing,
        "" if status == 0 => Meaning::TryLater,
        _ => Meaning::Never,
    }
}

/// Converts an error without a response: the network, a timeout, or credentials that are not
/// available at the moment.
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

/// Returns the last error of the chain. The SDK's own text is only "dispatch failure"; the cause is
/// at the end.
fn innermost(error: &(dyn std::error::Error + 'static)) -> String {
    let mut last = error;
    let mut names_credentials = false;
    while let Some(source) = last.source() {
        last = source;
        names_credentials |= last.to_string().contains("credential");
    }
    let text = last.to_string();
    if names_credentials && !text.contains("credential") { format!("no credentials: {text}") } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn error_codes_are_classified_by_what_a_caller_can_do() {
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
    fn the_service_prefix_of_a_query_protocol_code_is_ignored() {
        let error = sorted("sending".into(), "AWS.SimpleQueueService.NonExistentQueue", "gone", 400);
        assert!(error.is_missing(), "{error:?}");
        assert_eq!(
            error.to_string(),
            "sending: does not exist (AWS.SimpleQueueService.NonExistentQueue: gone)"
        );
    }
}
