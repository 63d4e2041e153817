#![allow(clippy::unwrap_used)]
use std::sync::OnceLock;

use proptest::prelude::*;

use super::*;
use crate::CaptionTokenizer;

fn vocabulary() -> Arc<Vocabulary> {
    static VOCABULARY: OnceLock<Arc<Vocabulary>> = OnceLock::new();
    let load = || {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../demo-model/tokenizer.json");
        Arc::new(Vocabulary::new(&CaptionTokenizer::from_bytes(&std::fs::read(path).unwrap()).unwrap()))
    };
    Arc::clone(VOCABULARY.get_or_init(load))
}

fn taken(form: &ValueForm, text: &str) -> Option<State> {
    text.bytes().try_fold(State::default(), |state, byte| form.step(&state, byte))
}

fn accepts(form: &ValueForm, text: &str) -> bool {
    taken(form, text).is_some_and(|state| form.is_complete(&state))
}

/// Says whatever `choose` picks among the allowed tokens until the answer ends; the text, and whether it is whole.
fn talk(constraint: &Constraint, mut choose: impl FnMut(usize) -> usize) -> (String, bool) {
    let (mut state, mut said) = (State::default(), Vec::new());
    for _ in 0..60 {
        let allowed = constraint.allowed(&state);
        if !allowed.goes_on {
            break;
        }
        let token = allowed.tokens[choose(allowed.tokens.len())];
        let Some(next) = constraint.after(&state, token) else { break };
        said.extend_from_slice(constraint.vocabulary.bytes(token).unwrap());
        state = next;
    }
    let complete = constraint.form().is_complete(&state);
    (String::from_utf8_lossy(&said).trim_start().to_owned(), complete)
}

#[test]
fn numbers_keep_to_their_bounds() {
    let counts = ValueForm::Integer { minimum: 2, maximum: 120 };
    for good in ["2", "119", "120", " 7", "two", "twenty"] {
        assert!(accepts(&counts, good), "{good}");
    }
    for bad in ["1", "121", "-3", "02", "", "  7", "one", "2.0", "tw", "1200"] {
        assert!(!accepts(&counts, bad), "{bad}");
    }
    // "1" alone is too small and may still become 10 to 19 or 100 to 120.
    assert!(taken(&counts, "1").is_some() && taken(&counts, "121").is_none());
    let shares = ValueForm::Number { minimum: -0.5, maximum: 1.0 };
    for good in ["0", "-0.5", "0.25", "1.0", "1"] {
        assert!(accepts(&shares, good), "{good}");
    }
    for bad in ["-0.51", "1.01", "2", ".5", "0.", "0.1234567", "00.1"] {
        assert!(!accepts(&shares, bad), "{bad}");
    }
}

#[test]
fn texts_are_one_line_without_an_end_in_them() {
    let text = ValueForm::Text { most: 5 };
    for good in ["a", "a b#c", "äöü€🌊", " room"] {
        assert!(accepts(&text, good), "{good}");
    }
    for bad in ["", " ", "a\nb", "abcdef", "a##", "a\u{85}"] {
        assert!(!accepts(&text, bad), "{bad:?}");
    }
    let overlong = [0xC0_u8, 0x80];
    assert!(overlong.iter().try_fold(State::default(), |state, byte| text.step(&state, *byte)).is_none());
}

#[test]
fn one_value_may_begin_another() {
    let form = ValueForm::OneOf(vec!["rain".to_owned(), "rainbow".to_owned()]);
    let constraint = Constraint::new(form, vocabulary());
    let rain = taken(constraint.form(), "rain").unwrap();
    let allowed = constraint.allowed(&rain);
    assert!(allowed.complete && allowed.goes_on);
    let rainbow = taken(constraint.form(), "rainbow").unwrap();
    let allowed = constraint.allowed(&rainbow);
    assert!(allowed.complete && !allowed.goes_on);
    assert_eq!(allowed.tokens, vocabulary().ends());
}

#[test]
fn far_from_the_limit_all_texts_go_on_alike() {
    let constraint = Constraint::new(ValueForm::Text { most: 2000 }, vocabulary());
    let (one, other) =
        (taken(constraint.form(), "a").unwrap(), taken(constraint.form(), "a red star").unwrap());
    assert!(Arc::ptr_eq(&constraint.allowed(&one), &constraint.allowed(&other)));
}

fn forms() -> impl Strategy<Value = ValueForm> {
    prop_oneof![
        prop::collection::btree_set("[a-zäß]{1,4}( [a-z]{1,3})?", 1..6)
            .prop_map(|values| ValueForm::OneOf(values.into_iter().collect())),
        (-2000_i64..2000, 0_i64..3000)
            .prop_map(|(minimum, more)| ValueForm::Integer { minimum, maximum: minimum + more }),
        (-50_i32..50, 0_i32..80).prop_map(|(minimum, more)| ValueForm::Number {
            minimum: f64::from(minimum),
            maximum: f64::from(minimum + more),
        }),
        (1_usize..12).prop_map(|most| ValueForm::Text { most }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// The remembered tokens are exactly those whose bytes the form takes one by one.
    #[test]
    fn the_tree_finds_the_tokens_that_trying_all_finds(form in forms(), picks in prop::collection::vec(any::<usize>(), 6)) {
        let constraint = Constraint::new(form, vocabulary());
        let mut state = State::default();
        for pick in picks {
            let allowed = constraint.allowed(&state);
            let tried: Vec<u32> = (0..600)
                .filter(|token| constraint.after(&state, *token).is_some())
                .collect();
            let leading: Vec<u32> =
                allowed.tokens.iter().copied().filter(|token| constraint.after(&state, *token).is_some()).collect();
            prop_assert_eq!(&leading, &tried);
            let Some(next) = tried.get(pick % tried.len().max(1)) else { break };
            state = constraint.after(&state, *next).unwrap();
        }
    }

    /// No walk ends where nothing may follow and nothing is said, and what is said in full has the form.
    #[test]
    fn every_walk_can_be_completed(form in forms(), picks in prop::collection::vec(any::<usize>(), 60)) {
        let constraint = Constraint::new(form, vocabulary());
        let mut picks = picks.into_iter().cycle();
        let (said, complete) = talk(&constraint, |among| picks.next().unwrap_or(0) % among);
        if complete {
            match constraint.form() {
                ValueForm::OneOf(values) => prop_assert!(values.contains(&said)),
                ValueForm::Integer { minimum, maximum } => {
                    let value = ValueForm::integer(&said).unwrap();
                    prop_assert!((*minimum..=*maximum).contains(&value), "{}", said);
                }
                ValueForm::Number { minimum, maximum } => {
                    let value: f64 = said.parse().unwrap();
                    prop_assert!((*minimum..=*maximum).contains(&value), "{}", said);
                }
                ValueForm::Text { most } => {
                    prop_assert!(said.chars().count() <= *most && !said.contains("##"));
                }
            }
        } else {
            prop_assert!(matches!(constraint.form(), ValueForm::Text { .. }), "stuck at {:?}", said);
        }
    }
}
