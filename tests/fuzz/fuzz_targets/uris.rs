//! Names of items and archives. What is read must be spelled so that it is read the same again, and never leads upwards.
#![no_main]

use captionfleet_proto::uri::{ArchiveUri, ItemUri};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Ok(item) = ItemUri::parse(text) {
        assert_eq!(ItemUri::parse(item.as_str()).as_ref(), Ok(&item));
        assert!(!item.as_str().split('/').any(|segment| segment == ".." && item.as_str().starts_with("file:")));
    }
    if let Ok(archive) = ArchiveUri::parse(text) {
        assert_eq!(ArchiveUri::parse(&archive.to_string()).as_ref(), Ok(&archive));
    }
});
