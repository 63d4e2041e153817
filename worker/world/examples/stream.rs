//! Streams training records to standard output: `stream SIDE COUNT SEED train|held-out SHARE_AS_FILES`.

use captionfleet_world::Split;
use captionfleet_world::stream::{StreamOptions, write_stream};
use std::env;
use std::error::Error;
use std::io::{self, BufWriter, ErrorKind};

const USAGE: &str = "usage: stream SIDE COUNT SEED train|held-out SHARE_AS_FILES";

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [side, count, seed, split, as_files] = arguments.as_slice() else {
        return Err(USAGE.into());
    };
    let options = StreamOptions {
        side: side.parse()?,
        count: count.parse()?,
        seed: seed.parse()?,
        split: match split.as_str() {
            "train" => Split::Train,
            "held-out" => Split::HeldOut,
            _ => return Err(USAGE.into()),
        },
        as_files: as_files.parse()?,
    };
    let mut out = BufWriter::with_capacity(1 << 20, io::stdout().lock());
    match write_stream(&options, &mut out) {
        // The reader has had enough.
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        other => Ok(other?),
    }
}
