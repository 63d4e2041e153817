//! Where credentials and the region come from.
//!
//! The order is the SDK's own, with one difference: the metadata service of EC2 is not asked when an endpoint is
//! set or `AWS_EC2_METADATA_DISABLED` is true, and is asked only once, so that a laptop without credentials learns
//! so at once.

use std::time::Duration;

use aws_config::ecs::EcsCredentialsProvider;
use aws_config::environment::{EnvironmentVariableCredentialsProvider, EnvironmentVariableRegionProvider};
use aws_config::imds;
use aws_config::imds::credentials::ImdsCredentialsProvider;
use aws_config::imds::region::ImdsRegionProvider;
use aws_config::meta::credentials::CredentialsProviderChain;
use aws_config::meta::region::RegionProviderChain;
use aws_config::profile::{ProfileFileCredentialsProvider, ProfileFileRegionProvider};
use aws_config::provider_config::ProviderConfig;
use aws_config::web_identity_token::WebIdentityTokenCredentialsProvider;
use aws_credential_types::provider::error::CredentialsError;
use aws_credential_types::provider::future;
use aws_sdk_s3::config::{ProvideCredentials, Region, SharedCredentialsProvider};

use crate::storage::StorageError;

/// For servers of one's own, which mostly do not care, and Amazon's first.
const DEFAULT_REGION: &str = "us-east-1";
/// On an EC2 machine the metadata service answers within milliseconds.
const METADATA_CONNECT: Duration = Duration::from_millis(500);
const METADATA_ANSWER: Duration = Duration::from_secs(2);

pub(super) struct Sources {
    pub(super) region: Region,
    pub(super) credentials: SharedCredentialsProvider,
}

/// Finds the region and proves that there are credentials; `place` is what errors name.
pub(super) async fn find(
    region: Option<&str>,
    own_endpoint: bool,
    place: &str,
) -> Result<Sources, StorageError> {
    let metadata = (!own_endpoint && !metadata_disabled()).then(|| {
        imds::Client::builder()
            .max_attempts(1)
            .connect_timeout(METADATA_CONNECT)
            .operation_timeout(METADATA_ANSWER)
            .build()
    });
    let region = find_region(region, metadata.clone()).await;
    let config = ProviderConfig::without_region().with_region(Some(region.clone()));
    let mut chain =
        CredentialsProviderChain::first_try("environment", EnvironmentVariableCredentialsProvider::new())
            .or_else("profile", ProfileFileCredentialsProvider::builder().configure(&config).build())
            .or_else(
                "web identity",
                WebIdentityTokenCredentialsProvider::builder().configure(&config).build(),
            )
            .or_else("container", EcsCredentialsProvider::builder().configure(&config).build());
    if let Some(client) = metadata {
        let machine = ImdsCredentialsProvider::builder().configure(&config).imds_client(client).build();
        chain = chain.or_else("machine", Machine(machine));
    }
    let credentials = SharedCredentialsProvider::new(chain);
    if let Err(error) = credentials.provide_credentials().await {
        return Err(super::fault::credentials(&error, "opening", place));
    }
    Ok(Sources { region, credentials })
}

async fn find_region(given: Option<&str>, metadata: Option<imds::Client>) -> Region {
    if let Some(region) = given {
        return Region::new(region.to_owned());
    }
    let mut chain = RegionProviderChain::first_try(EnvironmentVariableRegionProvider::new())
        .or_else(ProfileFileRegionProvider::new());
    if let Some(client) = metadata {
        chain = chain.or_else(ImdsRegionProvider::builder().imds_client(client).build());
    }
    chain.region().await.unwrap_or_else(|| Region::from_static(DEFAULT_REGION))
}

fn metadata_disabled() -> bool {
    std::env::var("AWS_EC2_METADATA_DISABLED").is_ok_and(|value| value.eq_ignore_ascii_case("true"))
}

/// The metadata service, as the last resort: that it is absent, shut or no such thing means no credentials, and not
/// that something is broken which the user had set up.
#[derive(Debug)]
struct Machine(ImdsCredentialsProvider);

impl ProvideCredentials for Machine {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        let asked = self.0.provide_credentials();
        future::ProvideCredentials::new(async { asked.await.map_err(CredentialsError::not_loaded) })
    }
}
