//! Whether a program can take work.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

/// What must hold before a program takes work: named conditions, each with the reason why it does not hold.
#[derive(Debug, Default)]
pub struct Readiness {
    conditions: Mutex<BTreeMap<&'static str, Option<String>>>,
}

impl Readiness {
    /// None of `conditions` holds yet.
    pub fn waiting_for(conditions: impl IntoIterator<Item = &'static str>) -> Arc<Self> {
        let waiting = conditions.into_iter().map(|name| (name, Some("starting".to_owned()))).collect();
        Arc::new(Self { conditions: Mutex::new(waiting) })
    }

    /// The condition holds.
    pub fn ready(&self, condition: &'static str) {
        self.set(condition, None);
    }

    /// It does not, and why.
    pub fn not_ready(&self, condition: &'static str, reason: impl Into<String>) {
        self.set(condition, Some(reason.into()));
    }

    /// The condition holds again; one that never failed stays unmentioned.
    pub fn recovered(&self, condition: &'static str) {
        if let Some(reason) = self.lock().get_mut(condition) {
            *reason = None;
        }
    }

    /// Whether the condition holds; one that is not mentioned does.
    pub fn holds(&self, condition: &str) -> bool {
        self.lock().get(condition).is_none_or(Option::is_none)
    }

    /// Whether all conditions hold.
    pub fn is_ready(&self) -> bool {
        self.lock().values().all(Option::is_none)
    }

    /// One line per condition.
    pub fn describe(&self) -> String {
        let line = |(name, reason): (&&str, &Option<String>)| match reason {
            None => format!("{name}: ready\n"),
            Some(reason) => format!("{name}: {reason}\n"),
        };
        self.lock().iter().map(line).collect()
    }

    fn set(&self, condition: &'static str, reason: Option<String>) {
        self.lock().insert(condition, reason);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<&'static str, Option<String>>> {
        self.conditions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
