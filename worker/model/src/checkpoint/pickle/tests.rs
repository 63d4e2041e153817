//! Pickles that must be read, and those that must not.
#![allow(clippy::unwrap_used)]
use super::*;

#[test]
fn a_forbidden_global_is_named_in_every_spelling() {
    let named = |bytes: &[u8]| parse(bytes).unwrap_err();
    let system = PickleError::ForbiddenGlobal("os.system".into());
    assert_eq!(named(b"cos\nsystem\n."), system);
    assert_eq!(named(b"(ios\nsystem\n."), system);
    assert_eq!(named(b"\x80\x04\x8c\x02os\x8c\x06system\x93."), system);
}

#[test]
fn an_ordered_dictionary_with_metadata_is_a_dictionary() {
    let bytes = b"ccollections\nOrderedDict\n)R(X\x01\x00\x00\x00aK\x07u}X\x09\x00\x00\x00_metadataNsb.";
    let pickle = parse(bytes).unwrap();
    assert_eq!(pickle.get(pickle.root(), "a"), Some(&Value::Int(7)));
    assert_eq!(pickle.get(pickle.root(), "_metadata"), None);
}

#[test]
fn negative_and_long_integers() {
    assert_eq!(*parse(b"\x8a\x01\xfe.").unwrap().root(), Value::Int(-2));
    assert_eq!(*parse(b"\x8a\x02\x00\x01.").unwrap().root(), Value::Int(256));
    assert!(parse(b"\x8a\x09123456789.").is_err());
}

#[test]
fn nesting_self_reference_and_huge_lengths_do_not_exhaust_anything() {
    let mut deep = vec![b')'];
    deep.extend(std::iter::repeat_n(0x85, 2_000_000));
    deep.push(b'.');
    assert!(parse(&deep).is_ok());
    assert!(parse(b"]q\x00h\x00a.").is_ok());
    assert!(parse(b"X\xff\xff\xff\xff.").is_err());
    assert!(parse(b"").is_err());
}

#[test]
fn no_short_program_panics() {
    // every pair and, over the instructions that read the stack, every triple
    for a in 0..=255u8 {
        for b in 0..=255u8 {
            let _ = parse(&[a, b, b'.']);
        }
    }
    let stackers = b"()]}Nabestu.QR\x85\x86\x87\x93\x94K\x01cq\x00h\x00";
    for a in stackers {
        for b in stackers {
            for c in stackers {
                for d in stackers {
                    let _ = parse(&[*a, *b, *c, *d, b'R', b'.']);
                }
            }
        }
    }
}
