//! Log lines: text on a terminal, JSON elsewhere, always to standard error.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

/// The variables that hold a filter, the first one set wins.
const FILTER_VARIABLES: [&str; 2] = ["CAPTIONFLEET_LOG", "RUST_LOG"];

/// Our own crates talk, the libraries below only when something is wrong. Errors of the broker's client are handled and
/// told by our supervisor, and a machine that is no cloud instance has no instance metadata.
const DEFAULT_FILTER: &str = "warn,lapin=off,aws_config=error,captionfleet_worker=info,captionfleet_dispatcher=info,\
                              captionfleet_proto=info,captionfleet_model=info,worker=info,dispatcher=info";

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// Text if standard error is a terminal, else JSON.
    #[default]
    Auto,
    /// One line of text per event.
    Text,
    /// One JSON object per event.
    Json,
}

impl std::str::FromStr for LogFormat {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        match name {
            "auto" => Ok(Self::Auto),
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            _ => Err(format!("`{name}` is not a log format; use auto, text or json")),
        }
    }
}

/// Starts logging for the whole process. A second call changes nothing.
pub fn init(format: LogFormat) {
    init_with_default(format, DEFAULT_FILTER);
}

/// As [`init`], with another filter for when the environment names none (e.g. a command that draws a progress bar).
pub fn init_with_default(format: LogFormat, default_filter: &str) {
    let (filter, problem) = filter(default_filter);
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let terminal = std::io::stderr().is_terminal();
    let text = match format {
        LogFormat::Auto => terminal,
        LogFormat::Text => true,
        LogFormat::Json => false,
    };
    // Fails only if logging was started before, and then the first start counts.
    let _ = if text {
        builder.with_ansi(terminal).try_init()
    } else {
        builder.json().flatten_event(true).with_current_span(true).with_span_list(false).try_init()
    };
    if let Some(problem) = problem {
        tracing::warn!("{problem}; the default filter is used");
    }
}

fn filter(default_filter: &str) -> (EnvFilter, Option<String>) {
    let named = FILTER_VARIABLES
        .into_iter()
        .find_map(|name| Some((name, std::env::var(name).ok().filter(|value| !value.trim().is_empty())?)));
    let Some((name, directives)) = named else {
        return (EnvFilter::new(default_filter), None);
    };
    match EnvFilter::try_new(&directives) {
        Ok(filter) => (filter, None),
        Err(error) => (EnvFilter::new(default_filter), Some(format!("{name} is not a log filter: {error}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_filter_is_one() {
        assert!(EnvFilter::try_new(DEFAULT_FILTER).is_ok());
    }

    #[test]
    fn formats_have_names() {
        assert_eq!("json".parse(), Ok(LogFormat::Json));
        assert!("yaml".parse::<LogFormat>().is_err());
    }
}
