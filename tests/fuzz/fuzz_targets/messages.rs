//! Jobs, outcomes, replies and manifests. What is read must be read the same again after it was written.
#![no_main]

use captionfleet_proto::codec;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(job) = codec::decode_job(bytes)
        && let Ok(written) = codec::encode_job(&job)
    {
        assert_eq!(codec::decode_job(&written).as_ref(), Ok(&job));
    }
    let _ = codec::decode_outcome(bytes);
    let _ = codec::decode_reply(bytes);
    let _ = codec::decode_rerank_reply(bytes);
    let _ = codec::decode_manifest(bytes);
});
