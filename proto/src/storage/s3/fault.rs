//! What the server says, or does not say, as kinds and sentences.

use std::error::Error;

use aws_credential_types::provider::error::CredentialsError;
use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};

use crate::storage::{StorageError, StorageErrorKind as Kind};

/// `error` came from `operation` ("reading") on `object` (a URI), asked of `server`.
pub(super) fn new<E>(
    error: SdkError<E, HttpResponse>,
    operation: &'static str,
    object: &str,
    server: &str,
) -> StorageError
where
    E: ProvideErrorMetadata + Error + Send + Sync + 'static,
{
    if let Some(refused) = find::<CredentialsError>(&error) {
        return credentials(refused, operation, object);
    }
    let failed = |kind, problem: String| StorageError::new(kind, operation, object, problem);
    match &error {
        SdkError::ServiceError(answer) => {
            let (kind, problem) = answered(answer.err(), answer.raw());
            failed(kind, problem)
        }
        SdkError::TimeoutError(_) => failed(Kind::Timeout, format!("{server} did not answer in time")),
        SdkError::DispatchFailure(failure) if failure.is_timeout() => {
            failed(Kind::Timeout, format!("{server} did not answer in time")).caused_by(root(&error))
        }
        SdkError::DispatchFailure(_) => {
            let problem = format!("cannot reach {server}: check that it runs and that the endpoint is right");
            failed(Kind::Unavailable, problem).caused_by(root(&error))
        }
        SdkError::ResponseError(answer) => {
            let status = answer.raw().status().as_u16();
            let kind = if status >= 500 { Kind::Unavailable } else { Kind::Other };
            let problem =
                format!("{server} answered HTTP {status} in a way that S3 does not: check the endpoint");
            failed(kind, problem).caused_by(root(&error))
        }
        _ => failed(Kind::Other, "the request could not be made".to_owned()).caused_by(root(&error)),
    }
}

/// No credentials were found, or what should give them failed.
pub(super) fn credentials(error: &CredentialsError, operation: &'static str, object: &str) -> StorageError {
    let failed = |problem: &str| StorageError::new(Kind::Unauthenticated, operation, object, problem);
    match error {
        CredentialsError::CredentialsNotLoaded(_) => {
            failed("no S3 credentials found: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE")
        }
        _ => failed("the source of the S3 credentials failed: check the AWS_* variables and the AWS profile")
            .caused_by(root(error)),
    }
}

/// An answer with an error code, or (to HEAD requests) with a status alone.
fn answered(error: &impl ProvideErrorMetadata, raw: &HttpResponse) -> (Kind, String) {
    let status = raw.status().as_u16();
    let code = error.code().filter(|code| !code.is_empty()).map(sane);
    let shown = code.clone().unwrap_or_else(|| format!("HTTP {status}"));
    let (kind, problem) = match (code.as_deref().unwrap_or_default(), status) {
        ("NoSuchBucket", _) => {
            (Kind::NoSuchBucket, "no such bucket ({}): check its name and the endpoint, or create it")
        }
        ("PermanentRedirect" | "AuthorizationHeaderMalformed" | "IllegalLocationConstraintException", _)
        | (_, 301) => {
            return (Kind::WrongRegion, elsewhere(raw, &shown));
        }
        // A bucket that is new, or has moved, until all servers know it.
        ("TemporaryRedirect", _) | (_, 307) => {
            (Kind::Unavailable, "the server sends elsewhere ({}), and still did after several attempts")
        }
        ("InvalidBucketName", _) => (Kind::InvalidUri, "no bucket can have that name ({})"),
        ("KeyTooLongError", _) => (Kind::InvalidUri, "the key is too long ({}): at most 1024 bytes"),
        (
            "InvalidAccessKeyId"
            | "SignatureDoesNotMatch"
            | "InvalidToken"
            | "AuthFailure"
            | "InvalidClientTokenId",
            _,
        ) => (
            Kind::Unauthenticated,
            "the credentials are refused ({}): check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
        ),
        ("ExpiredToken" | "TokenRefreshRequired" | "RequestExpired", _) => {
            (Kind::Unauthenticated, "the credentials have expired ({}): renew them")
        }
        ("RequestTimeTooSkewed", _) => {
            (Kind::Unauthenticated, "the clocks differ too much ({}): set this machine's clock")
        }
        ("NoSuchKey" | "NotFound" | "NoSuchVersion", _) => (Kind::NotFound, "no such object ({})"),
        ("SlowDown" | "SlowDownRead" | "SlowDownWrite" | "TooManyRequests" | "RequestLimitExceeded", _)
        | (_, 429) => {
            (Kind::Throttled, "the server asks to slow down ({}), and still did after several attempts")
        }
        ("EntityTooLarge", _) => (Kind::TooLarge, "the server takes no object of that size ({})"),
        ("QuotaExceeded" | "XMinioStorageFull" | "XMinioAdminBucketQuotaExceeded", _) | (_, 507) => {
            (Kind::NoSpace, "the server is full ({}): free some space or raise the quota")
        }
        ("RequestTimeout", _) | (_, 408) => {
            (Kind::Timeout, "the server waited too long for the request ({})")
        }
        (throttled, _) if throttled.starts_with("Throttl") => {
            (Kind::Throttled, "the server asks to slow down ({}), and still did after several attempts")
        }
        (_, 401) => (Kind::Unauthenticated, "the credentials are refused ({}): check the AWS_* variables"),
        (_, 403) => (Kind::PermissionDenied, "access denied ({}): the credentials may not do this"),
        (_, 404) => (Kind::NotFound, "no such object ({})"),
        ("NotImplemented", _) | (_, 501) => {
            (Kind::Other, "the server does not know this kind of request ({}): check the endpoint")
        }
        (_, 500..) => (Kind::Unavailable, "the server failed ({}), and still did after several attempts"),
        _ => {
            let message = error.message().map(sane).filter(|text| !text.is_empty());
            let said = message.map(|text| format!(": {text}")).unwrap_or_default();
            return (Kind::Other, format!("the server refused the request ({shown}){said}"));
        }
    };
    (kind, problem.replace("{}", &shown))
}

fn elsewhere(raw: &HttpResponse, shown: &str) -> String {
    match raw.headers().get("x-amz-bucket-region") {
        Some(region) => format!("the bucket is in another region ({shown}): set AWS_REGION={}", sane(region)),
        None => {
            format!("the bucket is in another region or behind another endpoint ({shown}): set AWS_REGION")
        }
    }
}

/// One short line, whatever the server sent.
fn sane(text: &str) -> String {
    text.split_whitespace()
        .collect::<Vec<_>>()
        .join(" ")
        .chars()
        .filter(|c| !c.is_control())
        .take(200)
        .collect()
}

/// The innermost cause: the layers above it say nothing ("dispatch failure", "client error").
pub(super) fn root(error: &(dyn Error + 'static)) -> String {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    sane(&innermost.to_string())
}

/// The first cause of this type.
pub(super) fn find<'a, T: Error + 'static>(error: &'a (dyn Error + 'static)) -> Option<&'a T> {
    let mut layer = Some(error);
    while let Some(error) = layer {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        layer = error.source();
    }
    None
}
