//! One page of a listing.

use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::error::SdkError;
use aws_sdk_s3::operation::list_objects_v2::{ListObjectsV2Error, ListObjectsV2Output};
use aws_sdk_s3::types::EncodingType;
use percent_encoding::percent_decode_str;

use super::connect::Connection;
use super::fault;
use super::meta::object_meta;
use crate::storage::{ObjectMeta, StorageError};
use crate::uri::ItemUri;

/// What is asked for. Keys are whole.
pub(super) struct Ask<'a> {
    pub(super) prefix: &'a str,
    pub(super) after: Option<&'a str>,
    pub(super) token: Option<&'a str>,
    /// Whether what lies deeper than the next slash is summed up as folders.
    pub(super) folders: bool,
}

/// What came.
pub(super) struct Page {
    /// With whole keys.
    pub(super) objects: Vec<ObjectMeta>,
    pub(super) folders: Vec<String>,
    /// Where the next page begins; absent on the last one.
    pub(super) token: Option<String>,
    pub(super) truncated: bool,
}

pub(super) async fn fetch(
    connection: &Connection,
    bucket: &str,
    ask: &Ask<'_>,
) -> Result<Page, StorageError> {
    let answer = match send(connection, bucket, ask, None).await {
        // XML cannot carry some characters that keys may have: such keys must be asked for encoded. It is not the
        // default, because there are servers that confirm the encoding and do not encode.
        Err(SdkError::ResponseError(_)) => send(connection, bucket, ask, Some(EncodingType::Url)).await,
        answer => answer,
    };
    let answer = answer.map_err(|error| {
        let place = ItemUri::s3(bucket, ask.prefix);
        fault::new(error, "listing", place.as_str(), &connection.server)
    })?;
    let encoded = answer.encoding_type() == Some(&EncodingType::Url);
    let name = |name: &str| if encoded { decode(name) } else { name.to_owned() };
    Ok(Page {
        objects: answer
            .contents()
            .iter()
            .filter_map(|object| {
                let key = name(object.key()?);
                Some(object_meta(key, object.size(), object.e_tag(), object.last_modified()))
            })
            .collect(),
        folders: answer.common_prefixes().iter().filter_map(|folder| folder.prefix()).map(name).collect(),
        token: answer.next_continuation_token().map(str::to_owned),
        truncated: answer.is_truncated().unwrap_or(false),
    })
}

async fn send(
    connection: &Connection,
    bucket: &str,
    ask: &Ask<'_>,
    encoding: Option<EncodingType>,
) -> Result<ListObjectsV2Output, SdkError<ListObjectsV2Error, HttpResponse>> {
    let request = connection.client.list_objects_v2().bucket(bucket).prefix(ask.prefix);
    request
        .set_start_after(ask.after.filter(|_| ask.token.is_none()).map(str::to_owned))
        .set_continuation_token(ask.token.map(str::to_owned))
        .set_delimiter(ask.folders.then(|| "/".to_owned()))
        .set_encoding_type(encoding)
        .send()
        .await
}

/// As forms are encoded: blanks are plus signs.
fn decode(name: &str) -> String {
    percent_decode_str(&name.replace('+', "%20")).decode_utf8_lossy().into_owned()
}
