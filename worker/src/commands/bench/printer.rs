//! Who reads what is measured.

use super::super::say;

/// Tells people what is known so far; programs get the whole report at the end.
#[derive(Clone, Copy)]
pub(super) struct Printer {
    json: bool,
}

impl Printer {
    pub(super) fn new(json: bool) -> Self {
        Self { json }
    }

    pub(super) fn line(self, line: impl std::fmt::Display) {
        if !self.json {
            say(line);
        }
    }

    pub(super) fn is_json(self) -> bool {
        self.json
    }
}
