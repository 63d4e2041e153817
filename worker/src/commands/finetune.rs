//! `worker finetune`.

use std::io::IsTerminal as _;
use std::process::ExitCode;

use anyhow::Context as _;
use bytesize::ByteSize;
use candle_core::Device;
use captionfleet_model::bundle::BundleManifest;
use captionfleet_model::pack::WeightFormat;
use captionfleet_model::train::{Schedule, TrainOptions, TrainingPlan};
use captionfleet_model::yardstick;
use captionfleet_proto::storage::{LocalRoots, StorageOptions, Stores};
use serde::Serialize;

use super::{say, stopping};
use crate::config::{FinetuneArgs, SightPart};
use crate::finetune::{
    Captioned, FinetuneOptions, Finetuned, Point, ensure_free, finetune, read_tables, see, steps_of,
};
use crate::model_choice::ModelChoice;

/// Steps of what learns before the language model, as a share of its own.
const SIGHT_PACE: f64 = 0.125;
/// Tokens of prompt and caption beside the picture that the plan reckons with.
const USUAL_TEXT: usize = 48;

pub(super) async fn run(args: FinetuneArgs) -> anyhow::Result<ExitCode> {
    let s3_endpoint = args.storage.s3_endpoint.clone();
    // The user's own rights decide which local files may be read.
    let options = StorageOptions { s3_endpoint, local_roots: LocalRoots::Any, ..StorageOptions::default() };
    let stores = Stores::new(options);
    let captioned = read_tables(&stores, &args.data).await?;
    let found = ModelChoice::parse(args.bundle.as_deref())?.resolve(&stores).await?;
    let device = args.device.open()?;
    if args.plan {
        return plan(&args, found.bundle().manifest(), &device, &captioned);
    }
    ensure_free(&args.out, args.resume)?;
    let loaded = found.load(&stores, move |bundle| Ok(bundle.load(&device)?)).await?;
    let pictures = captioned.pictures();
    let shown = !args.json;
    let sight = train_options(&args, 1).sight();
    let lessons = see(&stores, &loaded, captioned, sight, (args.held_out, args.seed), |seen| {
        if shown {
            progress(format_args!("{seen} of {pictures} pictures seen"), seen == pictures);
        }
    })
    .await?;
    for picture in &lessons.unreadable {
        eprintln!("left out: {picture}");
    }
    let settings = FinetuneOptions {
        train: train_options(&args, steps_of(lessons.train.len(), args.batch, args.epochs)),
        batch: args.batch,
        micro_batch: args.micro_batch,
        look_every: args.look_every,
        patience: args.patience,
        out: args.out.clone(),
        resume: args.resume,
    };
    let stop =
        stopping::on_signal(|| eprintln!("stopping after this step; a second signal ends it at once"))?;
    let train = move || {
        // In a pool of its own: from outside of one every product waits for a thread to wake.
        let threads = rayon::current_num_threads();
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).use_current_thread().build();
        let _pool = pool.context("the arithmetic threads cannot be started")?;
        finetune(&loaded, &lessons, &settings, &stop, |point, steps| {
            if shown {
                look(point, steps);
            }
        })
    };
    let done = tokio::task::spawn_blocking(train).await??;
    tell(&args, &done)?;
    Ok(if done.interrupted { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn train_options(args: &FinetuneArgs, steps: usize) -> TrainOptions {
    let rank = usize::from(args.rank);
    TrainOptions {
        rank,
        alpha: args.alpha.unwrap_or(2.0 * rank as f64),
        targets: args.targets.clone(),
        projections: args.sight.contains(&SightPart::Projections),
        qformer: args.sight.contains(&SightPart::Qformer),
        sight_pace: args.sight_rate.map_or(SIGHT_PACE, |rate| rate / args.rate),
        norms: !args.no_norms,
        schedule: Schedule {
            rate: args.rate,
            last: 0.05,
            warm_up: (steps as f64 * f64::from(args.warm_up)).ceil() as usize,
            steps,
        },
        weight_decay: f64::from(args.weight_decay),
        clip: args.clip,
        seed: args.seed,
    }
}

/// A line that the next one replaces on a terminal.
fn progress(text: impl std::fmt::Display, last: bool) {
    if std::io::stderr().is_terminal() {
        eprint!("\r{text}{}", if last { "\n" } else { "" });
    } else if last {
        eprintln!("{text}");
    }
}

fn look(point: &Point, steps: usize) {
    let loss = |value: Option<f64>| value.map_or("    -".to_owned(), |loss| format!("{loss:.4}"));
    let left = (point.step > 0).then(|| point.seconds / point.step as f64 * (steps - point.step) as f64);
    say(format_args!(
        "step {:>6} of {steps}  loss {}  held out {}  {:.0} s{}",
        point.step,
        loss(point.loss),
        loss(point.held_out),
        point.seconds,
        left.map(|left| format!(", about {left:.0} s left")).unwrap_or_default()
    ));
}

fn tell(args: &FinetuneArgs, done: &Finetuned) -> anyhow::Result<()> {
    if args.json {
        say(serde_json::to_string_pretty(done)?);
        return Ok(());
    }
    let out = args.out.display();
    if done.interrupted {
        say(format_args!("stopped at step {}; --resume goes on", done.steps));
    } else if done.stopped_early {
        say(format_args!("stopped at step {}: nothing got better any more", done.steps));
    }
    say(format_args!(
        "{} numbers learnt from {} examples in {:.0} s; {}\n\
         the adapter of step {} is in {out}: dispatcher caption … --adapter {out}\n\
         log and picture of the loss are in {out}/training",
        done.parameters,
        done.examples,
        done.seconds,
        match (done.loss, done.loss_before) {
            (Some(loss), Some(before)) => format!("held-out loss {loss:.4}, before {before:.4}"),
            _ => "no picture was held out to judge it by".to_owned(),
        },
        done.best_step.unwrap_or(0),
    ));
    Ok(())
}

#[derive(Serialize)]
struct Planned {
    pictures: usize,
    examples: usize,
    steps: usize,
    #[serde(flatten)]
    plan: TrainingPlan,
    bytes: u64,
    /// The same on a GPU, wherever this is.
    bytes_on_gpu: u64,
    seconds_per_step: f64,
    hours: f64,
}

/// Says what it would take on this machine; the weights are not loaded for it.
fn plan(
    args: &FinetuneArgs,
    manifest: &BundleManifest,
    device: &Device,
    captioned: &Captioned,
) -> anyhow::Result<ExitCode> {
    let format = manifest.weights.get("language").map_or("f32", String::as_str);
    let format: WeightFormat = format.parse().map_err(anyhow::Error::msg)?;
    let examples = captioned.examples() as f64 * f64::from(1.0 - args.held_out);
    let steps = steps_of(examples as usize, args.batch, args.epochs);
    let tokens = manifest.config.qformer.num_query_tokens + USUAL_TEXT;
    let micro = args.micro_batch.min(args.batch);
    let options = train_options(args, steps);
    let on = |on_cpu: bool| {
        let bits = bits_of(format, on_cpu);
        TrainingPlan::new(&manifest.config, &options, bits, (args.batch, micro, tokens), on_cpu)
    };
    let (plan, on_gpu) = (on(device.is_cpu()), on(false));
    let seconds_per_step = plan.step_flops / yardstick::flops_per_second(device, format)?;
    let planned = Planned {
        pictures: captioned.pictures(),
        examples: captioned.examples(),
        steps,
        plan,
        bytes: plan.bytes(captioned.pictures()),
        bytes_on_gpu: on_gpu.bytes(captioned.pictures()),
        seconds_per_step,
        hours: seconds_per_step * steps as f64 / 3600.0,
    };
    if args.json {
        say(serde_json::to_string_pretty(&planned)?);
        return Ok(ExitCode::SUCCESS);
    }
    let size = |bytes: u64| ByteSize::b(bytes).display().iec().to_string();
    say(format_args!(
        "{} examples of {} pictures, {steps} steps of {} examples, {micro} at a time\n\
         learns       {} numbers\n\
         memory       {} in all, beside the vision tower: matrices {}, what learns {}, activations {}, \
         pictures {}\n\
         {}\
         time         at least {seconds_per_step:.2} s a step, {:.2} h in all, once the pictures were seen",
        planned.examples,
        planned.pictures,
        args.batch,
        plan.parameters,
        size(planned.bytes),
        size(plan.matrix_bytes),
        size(plan.learning_bytes),
        size(plan.activation_bytes),
        size(plan.picture_bytes * planned.pictures as u64),
        if device.is_cpu() {
            format!("on a GPU     {} of its memory\n", size(planned.bytes_on_gpu))
        } else {
            String::new()
        },
        planned.hours,
    ));
    Ok(ExitCode::SUCCESS)
}

/// Bits of a matrix's number while it is trained through.
fn bits_of(format: WeightFormat, on_cpu: bool) -> f64 {
    match format {
        WeightFormat::F32 => 32.0,
        // Blocks are turned into halves on a GPU: its products of blocks have no way back.
        WeightFormat::Q8_0 | WeightFormat::Q4_0 | WeightFormat::Q4K if !on_cpu => 16.0,
        WeightFormat::F16 | WeightFormat::BF16 => 16.0,
        WeightFormat::Q8_0 => 8.5,
        WeightFormat::Q4_0 | WeightFormat::Q4K => 4.5,
    }
}
