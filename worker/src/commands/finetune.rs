//! `worker finetune`.

use std::io::IsTerminal as _;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytesize::ByteSize;
use captionfleet_model::bundle::LoadedModel;
use captionfleet_model::pack::WeightFormat;
use captionfleet_model::train::{Schedule, TrainOptions, TrainingPlan};
use captionfleet_model::yardstick;
use captionfleet_proto::storage::{LocalRoots, StorageOptions, Stores};
use serde::Serialize;

use super::say;
use crate::config::FinetuneArgs;
use crate::finetune::{Captioned, FinetuneOptions, Finetuned, Point, finetune, read_tables, see, steps_of};
use crate::model_choice::ModelChoice;

/// Tokens of prompt and caption beside the picture that the plan reckons with.
const USUAL_TEXT: usize = 48;

pub(super) async fn run(args: FinetuneArgs) -> anyhow::Result<ExitCode> {
    let s3_endpoint = args.storage.s3_endpoint.clone();
    // The user's own rights decide which local files may be read.
    let options = StorageOptions { s3_endpoint, local_roots: LocalRoots::Any, ..StorageOptions::default() };
    let stores = Stores::new(options);
    let captioned = read_tables(&stores, &args.data).await?;
    let bundle = ModelChoice::parse(args.bundle.as_deref())?.resolve(&stores).await?;
    let device = args.device.open()?;
    let loaded = tokio::task::spawn_blocking(move || bundle.load(&device)).await??;
    let examples = captioned.examples() as f64 * f64::from(1.0 - args.held_out);
    let steps = steps_of(examples as usize, args.batch, args.epochs);
    if args.plan {
        return plan(&args, &loaded, &captioned, steps);
    }
    let pictures = captioned.pictures();
    let shown = !args.json;
    let lessons = see(&stores, &loaded, captioned, (args.held_out, args.seed), |seen| {
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
    let stop = Arc::new(AtomicBool::new(false));
    let asked = stop.clone();
    tokio::spawn(async move {
        if tokio::signal::ctrl_c().await.is_ok() {
            asked.store(true, Ordering::Relaxed);
        }
    });
    let train = move || {
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
        norms: !args.no_norms,
        schedule: Schedule {
            rate: args.rate,
            last: 0.05,
            warm_up: (steps as f64 * f64::from(args.warm_up)).ceil() as usize,
            steps,
        },
        weight_decay: args.weight_decay,
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
        "{} numbers learnt from {} examples in {:.0} s; held-out loss {:.4}, before {:.4}\n\
         the adapter of step {} is in {out}: dispatcher caption … --adapter {out}\n\
         log and picture of the loss are in {out}/training",
        done.parameters,
        done.examples,
        done.seconds,
        done.loss.unwrap_or(f64::NAN),
        done.loss_before.unwrap_or(f64::NAN),
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
    seconds_per_step: f64,
    hours: f64,
}

/// Says what it would take on this machine.
fn plan(
    args: &FinetuneArgs,
    loaded: &LoadedModel,
    captioned: &Captioned,
    steps: usize,
) -> anyhow::Result<ExitCode> {
    let config = loaded.model.config();
    let device = loaded.model.device();
    let format: WeightFormat = loaded
        .manifest
        .weights
        .get("language")
        .map_or("f32", String::as_str)
        .parse()
        .map_err(anyhow::Error::msg)?;
    let bits = match format {
        WeightFormat::F32 => 32.0,
        // Blocks are turned into halves on a GPU: its products of blocks have no way back.
        WeightFormat::Q8_0 | WeightFormat::Q4_0 | WeightFormat::Q4K if !device.is_cpu() => 16.0,
        WeightFormat::F16 | WeightFormat::BF16 => 16.0,
        WeightFormat::Q8_0 => 8.5,
        WeightFormat::Q4_0 | WeightFormat::Q4K => 4.5,
    };
    let tokens = config.qformer.num_query_tokens + USUAL_TEXT;
    let micro = args.micro_batch.min(args.batch);
    let options = train_options(args, steps);
    let plan = TrainingPlan::new(config, &options, bits, (args.batch, micro, tokens), device.is_cpu());
    let seconds_per_step = plan.step_flops / yardstick::flops_per_second(device, format)?;
    let planned = Planned {
        pictures: captioned.pictures(),
        examples: captioned.examples(),
        steps,
        plan,
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
         memory       {} in all, beside the vision tower: matrices {}, what learns {}, activations {}\n\
         time         at least {seconds_per_step:.2} s a step, {:.2} h in all, once the pictures were seen",
        planned.examples,
        planned.pictures,
        args.batch,
        plan.parameters,
        size(plan.bytes()),
        size(plan.matrix_bytes),
        size(plan.learning_bytes),
        size(plan.activation_bytes),
        planned.hours,
    ));
    Ok(ExitCode::SUCCESS)
}
