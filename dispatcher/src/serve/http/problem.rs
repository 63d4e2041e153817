//! Errors as `application/problem+json` (RFC 9457): what is wrong, and what to do about it.

use crate::archive::ArchiveError;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use captionfleet_proto::storage::{StorageError, StorageErrorKind};
use schemars::JsonSchema;
use serde::Serialize;

/// An error.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Problem {
    /// Always `about:blank`: the code says more than an address would.
    #[serde(rename = "type")]
    kind: &'static str,
    /// The status in words.
    title: String,
    /// The HTTP status.
    status: u16,
    /// A short name of what is wrong, for programs.
    code: &'static str,
    /// What is wrong and what to do, for people.
    detail: String,
    #[serde(skip)]
    #[schemars(skip)]
    wait: Option<u64>,
}

impl Problem {
    /// An error with its status, its name for programs, and its text for people.
    pub fn new(status: StatusCode, code: &'static str, detail: impl Into<String>) -> Self {
        Self {
            kind: "about:blank",
            title: status.canonical_reason().unwrap_or("Error").to_owned(),
            status: status.as_u16(),
            code,
            detail: crate::output::plain(&detail.into()),
            wait: None,
        }
    }

    /// The request is wrong.
    pub fn bad(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "bad_request", detail)
    }

    /// There is no such thing.
    pub fn missing(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not_found", detail)
    }

    /// It does not go together with how things are.
    pub fn conflict(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, "conflict", detail)
    }

    /// Not now.
    pub fn unavailable(code: &'static str, detail: impl Into<String>) -> Self {
        Self { wait: Some(5), ..Self::new(StatusCode::SERVICE_UNAVAILABLE, code, detail) }
    }

    /// Too many requests; the next one is taken after so many seconds.
    pub fn too_many(wait: u64) -> Self {
        let detail = format!("too many requests from this address; wait {wait} s, or raise --rate");
        Self { wait: Some(wait), ..Self::new(StatusCode::TOO_MANY_REQUESTS, "too_many_requests", detail) }
    }

    /// Something that failed on the way to an answer, with the whole chain of its reasons.
    pub fn failed(error: &anyhow::Error) -> Self {
        if let Some(problem) = error.downcast_ref::<Self>() {
            return problem.clone();
        }
        if let Some(storage) = error.chain().find_map(|cause| cause.downcast_ref::<StorageError>()) {
            return Self::from(storage);
        }
        Self::new(StatusCode::BAD_GATEWAY, "failed", crate::exit::line(error))
    }

    /// Its status.
    pub fn status(&self) -> StatusCode {
        StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }
}

impl std::fmt::Display for Problem {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(&self.detail)
    }
}

impl std::error::Error for Problem {}

impl From<&StorageError> for Problem {
    fn from(error: &StorageError) -> Self {
        match error.kind() {
            StorageErrorKind::NotFound => Self::missing(error.to_string()),
            StorageErrorKind::TooLarge => {
                Self::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", error.to_string())
            }
            kind if kind.is_transient() => Self::unavailable("archive_unavailable", error.to_string()),
            _ => Self::new(StatusCode::BAD_GATEWAY, "archive_refused", error.to_string()),
        }
    }
}

impl From<StorageError> for Problem {
    fn from(error: StorageError) -> Self {
        Self::from(&error)
    }
}

impl From<ArchiveError> for Problem {
    fn from(error: ArchiveError) -> Self {
        match &error {
            ArchiveError::Storage(storage) => Self::from(storage),
            other => Self::new(StatusCode::BAD_GATEWAY, "archive_damaged", other.to_string()),
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let body = serde_json::to_vec(&self).unwrap_or_default();
        let mut response = (self.status(), body).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if let Some(wait) = self.wait {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(wait));
        }
        if self.status == 401 {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}
