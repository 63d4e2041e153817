//! Answers by which a server asks to come again, beyond those that the SDK knows.

use aws_smithy_runtime_api::client::interceptors::context::InterceptorContext;
use aws_smithy_runtime_api::client::retries::classifiers::{ClassifyRetry, RetryAction};

/// Tells such answers by their status: the SDK goes by error codes, of which some servers have others, and answers to HEAD
/// have none.
#[derive(Debug)]
pub(super) struct Busy;

impl ClassifyRetry for Busy {
    fn classify_retry(&self, context: &InterceptorContext) -> RetryAction {
        match context.response().map(|answer| answer.status().as_u16()) {
            Some(429) => RetryAction::throttling_error(),
            // The redirection passes when all servers know the bucket; the SDK does not follow it.
            Some(307 | 408) => RetryAction::transient_error(),
            _ => RetryAction::NoActionIndicated,
        }
    }

    fn name(&self) -> &'static str {
        "answers of a busy server"
    }
}
