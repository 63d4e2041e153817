//! A bucket with as many pictures as anyone asks for.
//!
//! Below `made/COUNT/` lie COUNT pictures: keys are made up when they are listed, and every one has the same few bytes. A million
//! files would measure the file system of this machine. Everything else is kept in a folder.

use std::path::Path;

use anyhow::Context;
use bytes::Bytes;
use s3s::dto::{
    DeleteObjectInput, DeleteObjectOutput, ETag, GetObjectInput, GetObjectOutput, HeadObjectInput,
    HeadObjectOutput, ListObjectsV2Input, ListObjectsV2Output, Object, PutObjectInput, PutObjectOutput,
    StreamingBlob,
};
use s3s::{Body, S3, S3Request, S3Response, S3Result};
use s3s_fs::FileSystem;

use crate::sandbox::BUCKET;

/// Side of the picture. The smallest that is still resized: a real one would be decoded a million times, which other benchmarks
/// measure.
const SIDE: usize = 16;
/// Keys of a page, as S3 has it.
const PAGE: u64 = 1000;

/// Where `count` pictures lie.
pub(super) fn source(count: u64) -> String {
    format!("s3://{BUCKET}/{}", folder(count))
}

fn folder(count: u64) -> String {
    format!("made/{count}/")
}

fn key(count: u64, number: u64) -> String {
    format!("{}{number:09}.ppm", folder(count))
}

/// How many pictures the folder has in which `key` lies, if it is made up, and what comes after the folder.
fn made(key: &str) -> Option<(u64, &str)> {
    let (count, rest) = key.strip_prefix("made/")?.split_once('/')?;
    Some((count.parse().ok()?, rest))
}

/// See the module.
pub(super) struct MadeBucket {
    files: FileSystem,
    picture: Bytes,
}

impl MadeBucket {
    /// Keeps what is written below `root`.
    pub(super) fn over(root: &Path) -> anyhow::Result<Self> {
        let files = FileSystem::new(root)
            .map_err(|error| anyhow::anyhow!("{error:?}"))
            .with_context(|| format!("serve {} as S3", root.display()))?;
        let mut picture = format!("P6\n{SIDE} {SIDE}\n255\n").into_bytes();
        picture.extend((0..SIDE * SIDE * 3).map(|at| (at * 7 % 251) as u8));
        Ok(Self { files, picture: picture.into() })
    }

    fn is_there(key: &str) -> bool {
        made(key).is_some_and(|(count, name)| {
            let number = name.strip_suffix(".ppm").and_then(|number| number.parse::<u64>().ok());
            number.is_some_and(|number| number < count)
        })
    }

    fn etag() -> ETag {
        ETag::Strong("made-up".to_owned())
    }

    /// One page of the made-up keys after `after`.
    fn page(&self, count: u64, after: Option<&str>) -> ListObjectsV2Output {
        let first = after.and_then(made).map_or(0, |(_, name)| {
            name.strip_suffix(".ppm").and_then(|number| number.parse::<u64>().ok()).map_or(0, |last| last + 1)
        });
        let end = (first + PAGE).min(count);
        let contents: Vec<Object> = (first..end)
            .map(|number| Object {
                key: Some(key(count, number)),
                size: Some(self.picture.len() as i64),
                e_tag: Some(Self::etag()),
                ..Object::default()
            })
            .collect();
        ListObjectsV2Output {
            name: Some(BUCKET.to_owned()),
            key_count: Some(contents.len() as i32),
            max_keys: Some(PAGE as i32),
            is_truncated: Some(end < count),
            next_continuation_token: (end < count).then(|| key(count, end.saturating_sub(1))),
            contents: Some(contents),
            ..ListObjectsV2Output::default()
        }
    }
}

#[async_trait::async_trait]
impl S3 for MadeBucket {
    async fn get_object(&self, req: S3Request<GetObjectInput>) -> S3Result<S3Response<GetObjectOutput>> {
        if !Self::is_there(&req.input.key) {
            return self.files.get_object(req).await;
        }
        Ok(S3Response::new(GetObjectOutput {
            body: Some(StreamingBlob::from(Body::from(self.picture.clone()))),
            content_length: Some(self.picture.len() as i64),
            e_tag: Some(Self::etag()),
            ..GetObjectOutput::default()
        }))
    }

    async fn head_object(&self, req: S3Request<HeadObjectInput>) -> S3Result<S3Response<HeadObjectOutput>> {
        self.files.head_object(req).await
    }

    async fn list_objects_v2(
        &self,
        req: S3Request<ListObjectsV2Input>,
    ) -> S3Result<S3Response<ListObjectsV2Output>> {
        let Some((count, "")) = req.input.prefix.as_deref().and_then(made) else {
            return self.files.list_objects_v2(req).await;
        };
        let after = req.input.continuation_token.as_deref().or(req.input.start_after.as_deref());
        Ok(S3Response::new(self.page(count, after)))
    }

    async fn put_object(&self, req: S3Request<PutObjectInput>) -> S3Result<S3Response<PutObjectOutput>> {
        self.files.put_object(req).await
    }

    async fn delete_object(
        &self,
        req: S3Request<DeleteObjectInput>,
    ) -> S3Result<S3Response<DeleteObjectOutput>> {
        self.files.delete_object(req).await
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn pages_name_every_picture_once_and_end() {
        let root = tempfile::tempdir().unwrap();
        let bucket = MadeBucket::over(root.path()).unwrap();
        let (mut keys, mut after) = (Vec::new(), None::<String>);
        loop {
            let page = bucket.page(2500, after.as_deref());
            keys.extend(page.contents.unwrap().into_iter().map(|object| object.key.unwrap()));
            after = page.next_continuation_token;
            if after.is_none() {
                break;
            }
        }
        assert_eq!(keys, (0..2500).map(|number| key(2500, number)).collect::<Vec<_>>());
        assert!(keys.is_sorted() && keys.iter().all(|key| MadeBucket::is_there(key)));
        assert!(!MadeBucket::is_there(&key(2500, 2500)) && !MadeBucket::is_there("made/x/1.ppm"));
    }
}
