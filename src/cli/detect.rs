//! `tfgraft detect`: prints what a model finds in pictures, and draws it.

use std::collections::HashSet;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::Parser;
use serde::Serialize;

use super::runtime::RuntimeArgs;
use crate::data::Picture;
use crate::detect::{Caption, Detection, Detector, DetectorOptions, draw};
use crate::error::Error;
use crate::progress;

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
    let images = expand(&args.images)?;
    if let Some(dir) = &args.output {
        std::fs::create_dir_all(dir).map_err(|e| Error::io(dir, e))?;
    }
    let options = DetectorOptions {
        label_map: args.label_map.clone(),
        threads: args.runtime.threads,
        tensorflow: args.runtime.tensorflow.clone(),
    };
    let spinner = progress::spinner("loading the model");
    let detector = Detector::load(&args.model, &options)?;
    spinner.finish_and_clear();
    tracing::info!("names of the classes: {}", detector.labels_from);

    let mut report = Report {
        model: args.model.display().to_string(),
        label_map: detector.labels_from.clone(),
        min_score: args.min_score,
        images: Vec::new(),
    };
    let mut names = HashSet::new();
    let bar = progress::bar(images.len() as u64, "detecting");
    for path in &images {
        let picture = Picture::open(path)?;
        let found = detector
            .detect(&picture, args.min_score)
            .with_context(|| format!("{}: the model failed", path.display()))?;
        let drawn = match &args.output {
            Some(dir) => Some(save(&detector, &picture, &found, &free_name(dir, path, &mut names))?),
            None => None,
        };
        let image = describe(&detector, path, &picture, &found, drawn);
        if !args.json {
            bar.suspend(|| print_image(&image))?;
        }
        report.images.push(image);
        bar.inc(1);
    }
    bar.finish_and_clear();
    if args.json {
        let mut out = std::io::stdout().lock();
        serde_json::to_writer_pretty(&mut out, &report)?;
        writeln!(out)?;
    }
    Ok(())
}

fn score(text: &str) -> std::result::Result<f32, String> {
    match text.parse::<f32>() {
        Ok(v) if (0.0..=1.0).contains(&v) => Ok(v),
        _ => Err("expected a number from 0 to 1".to_owned()),
    }
}

/// Files as they are; of folders, the pictures in them by name.
fn expand(given: &[PathBuf]) -> Result<Vec<PathBuf>> {
    let mut out = Vec::new();
    for path in given {
        if !path.is_dir() {
            if !path.exists() {
                return Err(Error::Data(format!("{}: no such picture", path.display())).into());
            }
            out.push(path.clone());
            continue;
        }
        let is_picture = |p: &PathBuf| {
            let ending = p.extension().and_then(|e| e.to_str()).unwrap_or_default().to_ascii_lowercase();
            matches!(ending.as_str(), "jpg" | "jpeg" | "png" | "bmp" | "webp")
        };
        let entries = std::fs::read_dir(path).map_err(|e| Error::io(path, e))?;
        let mut inside: Vec<PathBuf> =
            entries.filter_map(|e| e.ok().map(|e| e.path())).filter(is_picture).collect();
        if inside.is_empty() {
            return Err(Error::Data(format!(
                "{}: no .jpg, .png, .bmp or .webp in this folder",
                path.display()
            ))
            .into());
        }
        inside.sort();
        out.append(&mut inside);
    }
    Ok(out)
}

/// A file in `dir` called like the picture, numbered where two pictures have one name.
fn free_name(dir: &Path, picture: &Path, names: &mut HashSet<String>) -> PathBuf {
    let stem = picture.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let png = picture.extension().is_some_and(|e| e.eq_ignore_ascii_case("png"));
    let ending = if png { "png" } else { "jpg" };
    let mut name = format!("{stem}.{ending}");
    let mut number = 2;
    while !names.insert(name.clone()) {
        name = format!("{stem}-{number}.{ending}");
        number += 1;
    }
    dir.join(name)
}

fn save(detector: &Detector, picture: &Picture, found: &[Detection], path: &Path) -> Result<String> {
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
    copy.save(path)?;
    Ok(path.display().to_string())
}

fn describe(
    detector: &Detector,
    path: &Path,
    picture: &Picture,
    found: &[Detection],
    drawn: Option<String>,
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
        drawn,
        detections,
    }
}

fn print_image(image: &ImageReport) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
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
    Ok(())
}
