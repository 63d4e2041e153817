//! Which trace a message belongs to, as the W3C has it: <https://www.w3.org/TR/trace-context/>.
//!
//! Data only. Who makes spans of it is none of this crate's business, and whoever makes none passes it on.

use std::fmt;

/// A `traceparent` of version 00: `00-` trace id `-` parent's span id `-` flags.
const TRACEPARENT_BYTES: usize = 55;
/// What a later version may append is not read; a header beyond this is not one.
const MAX_TRACEPARENT_BYTES: usize = 256;
/// The longest `tracestate` that must be passed on; a longer one may be left out.
const MAX_TRACESTATE_BYTES: usize = 512;

/// A trace, and the span in it that caused the message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TraceContext {
    traceparent: String,
    tracestate: Option<String>,
}

impl TraceContext {
    /// Reads the two headers. `None` if `traceparent` is not valid, as the standard asks of receivers; a `tracestate` that
    /// cannot be passed on is left out.
    pub fn parse(traceparent: &str, tracestate: Option<&str>) -> Option<Self> {
        if !is_traceparent(traceparent.as_bytes()) {
            return None;
        }
        let is_passed_on = |state: &&str| {
            let length = state.len();
            length > 0
                && length <= MAX_TRACESTATE_BYTES
                && state.bytes().all(|byte| (b' '..=b'~').contains(&byte))
        };
        let tracestate = tracestate.filter(is_passed_on).map(str::to_owned);
        Some(Self { traceparent: traceparent.to_owned(), tracestate })
    }

    /// The trace: 32 lowercase hexadecimal digits.
    pub fn trace_id(&self) -> &str {
        &self.traceparent[3..35]
    }

    /// The header `traceparent`.
    pub fn traceparent(&self) -> &str {
        &self.traceparent
    }

    /// The header `tracestate`, if there is one.
    pub fn tracestate(&self) -> Option<&str> {
        self.tracestate.as_deref()
    }
}

impl fmt::Display for TraceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.traceparent)
    }
}

fn is_traceparent(header: &[u8]) -> bool {
    if !(TRACEPARENT_BYTES..=MAX_TRACEPARENT_BYTES).contains(&header.len()) {
        return false;
    }
    let (version, trace, span, flags) = (&header[..2], &header[3..35], &header[36..52], &header[53..55]);
    let is_hex = |part: &[u8]| part.iter().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    let is_zero = |part: &[u8]| part.iter().all(|byte| *byte == b'0');
    let has_end = match header.get(TRACEPARENT_BYTES) {
        None => true,
        // Only a later version may say more.
        Some(byte) => *byte == b'-' && version != b"00" && header.is_ascii(),
    };
    [version, trace, span, flags].into_iter().all(is_hex)
        && [2, 35, 52].into_iter().all(|dash| header[dash] == b'-')
        && version != b"ff"
        && !is_zero(trace)
        && !is_zero(span)
        && has_end
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn reads_the_standards_example() {
        let trace = TraceContext::parse(PARENT, Some("congo=t61rcWkgMzE")).unwrap();
        assert_eq!(trace.trace_id(), "4bf92f3577b34da6a3ce929d0e0e4736");
        assert_eq!((trace.traceparent(), trace.tracestate()), (PARENT, Some("congo=t61rcWkgMzE")));
    }

    #[test]
    fn later_versions_may_say_more_and_this_one_may_not() {
        assert!(TraceContext::parse(&format!("cc{}-what", &PARENT[2..]), None).is_some());
        for wrong in
            [format!("{PARENT}-what"), format!("cc{}what", &PARENT[2..]), format!("ff{}", &PARENT[2..])]
        {
            assert_eq!(TraceContext::parse(&wrong, None), None, "{wrong}");
        }
    }

    #[test]
    fn what_is_no_traceparent_counts_as_missing() {
        let zeros = |length| "0".repeat(length);
        for wrong in [
            String::new(),
            "é".repeat(40),
            PARENT.to_uppercase(),
            PARENT.replace('-', "_"),
            format!("00-{}-00f067aa0ba902b7-01", zeros(32)),
            format!("00-4bf92f3577b34da6a3ce929d0e0e4736-{}-01", zeros(16)),
            format!("cc{}-{}", &PARENT[2..], "x".repeat(300)),
            format!("cc{}-é", &PARENT[2..]),
        ] {
            assert_eq!(TraceContext::parse(&wrong, None), None, "{wrong}");
        }
    }

    #[test]
    fn a_state_that_cannot_be_passed_on_is_left_out() {
        for state in [String::new(), "x".repeat(513), "a=\n".to_owned(), "a=é".to_owned()] {
            assert_eq!(TraceContext::parse(PARENT, Some(&state)).unwrap().tracestate(), None, "{state}");
        }
    }
}
