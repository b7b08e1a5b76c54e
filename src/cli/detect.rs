//! `tfgraft detect`: prints what a model finds in pictures, and draws it.

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::Parser;
use serde::Serialize;

use super::output;
use super::pictures::{self, Names};
use super::runtime::RuntimeArgs;
use crate::data::Picture;
use crate::detect::{Caption, Detection, Detector, DetectorOptions, RunOptions, draw};
use crate::error::Error;
use crate::progress;
use crate::runtime::runs_at_once;
use crate::side_by_side::in_order;

/// Print the objects that a model finds in pictures; draw them with --output
#[derive(Debug, Parser)]
pub struct Args {
    /// SavedModel folder, zoo folder with saved_model/, or frozen_inference_graph.pb
    pub model: PathBuf,
    /// Pictures: JPEG, PNG, BMP or WebP files, or folders of them
    #[arg(required = true, value_name = "IMAGE")]
    pub images: Vec<PathBuf>,
    /// Folder for copies of the pictures with boxes and names drawn on them (created; PNG for PNG, else JPEG)
    #[arg(short, long, value_name = "DIR")]
    pub output: Option<PathBuf>,
    /// Least score to show
    #[arg(long, default_value_t = 0.3, value_name = "SCORE", value_parser = score)]
    pub min_score: f32,
    /// Names of the classes; default: label_map.pbtxt beside the model, else COCO's for 90 classes
    #[arg(long, value_name = "FILE")]
    pub label_map: Option<PathBuf>,
    /// Print one JSON document
    #[arg(long)]
    pub json: bool,
    /// How to run TensorFlow.
    #[command(flatten)]
    pub runtime: RuntimeArgs,
}

#[derive(Serialize)]
struct Report {
    model: String,
    label_map: String,
    min_score: f32,
    images: Vec<ImageReport>,
    /// What could not be read.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    unreadable: Vec<Unreadable>,
}

#[derive(Serialize)]
struct Unreadable {
    image: String,
    reason: String,
}

#[derive(Serialize)]
struct ImageReport {
    image: String,
    width: u32,
    height: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    drawn: Option<String>,
    detections: Vec<Found>,
}

#[derive(Serialize)]
struct Found {
    class: String,
    id: u32,
    score: f32,
    /// `xmin, ymin, xmax, ymax` in pixels, inside the picture.
    box_pixels: [f32; 4],
    /// `ymin, xmin, ymax, xmax` as the model gives them.
    box_normalized: [f32; 4],
}

/// Runs the command.
pub fn run(args: Args) -> Result<()> {
    let images = pictures::expand(&args.images)?;
    if let Some(dir) = &args.output {
        std::fs::create_dir_all(dir).map_err(|e| Error::io(dir, e))?;
    }
    let run = RunOptions { pictures: images.len(), ..args.runtime.options() };
    let options = DetectorOptions { label_map: args.label_map.clone(), run };
    let spinner = progress::spinner("loading the model");
    let detector = Detector::load(&args.model, &options)?;
    spinner.finish_and_clear();
    tracing::info!("names of the classes: {}", detector.labels_from);

    let mut report = Report {
        model: args.model.display().to_string(),
        label_map: detector.labels_from.clone(),
        min_score: args.min_score,
        images: Vec::new(),
        unreadable: Vec::new(),
    };
    let mut names = Names::default();
    let mut drawn_as = |path: &Path| Some(args.output.as_ref()?.join(drawn_name(&mut names, path)));
    let jobs: Vec<_> = images.iter().map(|path| (path, drawn_as(path))).collect();
    let bar = progress::bar(images.len() as u64, "detecting");
    let look = |(path, drawn): (&PathBuf, Option<PathBuf>)| look(&detector, path, drawn, args.min_score);
    in_order(jobs, runs_at_once(), look, |seen| {
        match seen {
            Ok(image) => {
                if !args.json {
                    bar.suspend(|| print_image(&image))?;
                }
                report.images.push(image);
            }
            // Of a thousand pictures the others are still wanted; the exit code says that one is missing.
            Err(unreadable) => {
                bar.suspend(|| tracing::error!("{}", unreadable.reason));
                report.unreadable.push(unreadable);
            }
        }
        bar.inc(1);
        Ok(())
    })?;
    bar.finish_and_clear();
    if args.json {
        output::json(&report)?;
    }
    match report.unreadable.len() {
        0 => Ok(()),
        bad => {
            let all = images.len();
            Err(Error::Data(format!("{bad} of {all} pictures could not be read, see above")).into())
        }
    }
}

fn score(text: &str) -> std::result::Result<f32, String> {
    match text.parse::<f32>() {
        Ok(v) if (0.0..=1.0).contains(&v) => Ok(v),
        _ => Err("expected a number from 0 to 1".to_owned()),
    }
}

/// The drawn copy is a PNG for a PNG, else a JPEG.
fn drawn_name(names: &mut Names, picture: &Path) -> String {
    let png = picture.extension().is_some_and(|e| e.eq_ignore_ascii_case("png"));
    let ending = if png { "png" } else { "jpg" };
    names.free(picture, |stem| format!("{stem}.{ending}"))
}

/// What the model finds in one picture, drawn where that is asked for; or why the picture cannot be read.
fn look(
    detector: &Detector,
    path: &Path,
    drawn: Option<PathBuf>,
    min_score: f32,
) -> Result<std::result::Result<ImageReport, Unreadable>> {
    let picture = match Picture::open(path) {
        Ok(picture) => picture,
        Err(error) => {
            return Ok(Err(Unreadable { image: path.display().to_string(), reason: error.to_string() }));
        }
    };
    let found = detector
        .detect(&picture, min_score)
        .with_context(|| format!("{}: the model failed", path.display()))?;
    if let Some(file) = &drawn {
        save(detector, &picture, &found, file)?;
    }
    Ok(Ok(describe(detector, path, &picture, &found, drawn)))
}

fn save(detector: &Detector, picture: &Picture, found: &[Detection], path: &Path) -> Result<()> {
    let captions: Vec<Caption> = found
        .iter()
        .map(|d| Caption {
            bbox: d.bbox,
            class_id: d.class_id,
            text: format!("{} {:.2}", detector.labels.label(d.class_id), d.score),
        })
        .collect();
    let mut copy = picture.clone();
    draw(&mut copy, &captions)?;
    Ok(copy.save(path)?)
}

fn describe(
    detector: &Detector,
    path: &Path,
    picture: &Picture,
    found: &[Detection],
    drawn: Option<PathBuf>,
) -> ImageReport {
    let detections = found
        .iter()
        .map(|d| Found {
            class: detector.labels.label(d.class_id),
            id: d.class_id,
            score: d.score,
            box_pixels: d.bbox.clip().to_pixels(picture.width, picture.height),
            box_normalized: d.bbox.to_array(),
        })
        .collect();
    ImageReport {
        image: path.display().to_string(),
        width: picture.width,
        height: picture.height,
        drawn: drawn.map(|file| file.display().to_string()),
        detections,
    }
}

fn print_image(image: &ImageReport) -> std::io::Result<()> {
    let mut out = Vec::new();
    writeln!(out, "{} ({} x {})", image.image, image.width, image.height)?;
    if image.detections.is_empty() {
        writeln!(out, "  nothing found")?;
    }
    let width = image.detections.iter().map(|d| d.class.chars().count()).max().unwrap_or(0);
    for d in &image.detections {
        let [x0, y0, x1, y1] = d.box_pixels.map(|v| v.round());
        let name = &d.class;
        writeln!(out, "  {name:width$}  id {:<3}  {:.3}  x {x0}-{x1}  y {y0}-{y1}", d.id, d.score)?;
    }
    if let Some(drawn) = &image.drawn {
        writeln!(out, "  drawn: {drawn}")?;
    }
    output::text(&out)
}
