//! `worker repack`.

use std::process::ExitCode;

use captionfleet_model::bundle::BundleManifest;
use captionfleet_model::pack::{WeightFormat, WeightTypes, repack};
use captionfleet_proto::storage::Stores;

use super::pack::tell;
use crate::config::{RepackArgs, storage_options};
use crate::model_choice::ModelChoice;

pub(super) async fn run(args: RepackArgs) -> anyhow::Result<ExitCode> {
    let stores = Stores::new(storage_options(args.storage.s3_endpoint.clone(), &[]));
    let found = ModelChoice::parse(args.model.as_deref())?.resolve(&stores).await?;
    let own = found.bundle().manifest();
    let types = WeightTypes {
        language: args.weights.map_or_else(|| own_type(own, "language"), Ok)?,
        vision: args.vision_weights.map_or_else(|| own_type(own, "vision"), Ok)?,
    };
    let out = args.out;
    let report = found.load(&stores, move |bundle| Ok(repack(bundle, types, out.clone())?)).await?;
    tell(&report, args.json)?;
    Ok(ExitCode::SUCCESS)
}

fn own_type(manifest: &BundleManifest, part: &str) -> anyhow::Result<WeightFormat> {
    let name = manifest.weights.get(part).map_or("f32", String::as_str);
    name.parse().map_err(anyhow::Error::msg)
}
