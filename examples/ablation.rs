//! What each part of the fit is worth: retrains with one part changed at a time, on so many pictures of each new class.
//!
//!     cargo run --release --example ablation -- MODEL TRAIN TEST [--pictures 1,5,30,all] [--seeds 5] [--variants NAME,...]
//!         [--recover CLASS,...]
//!
//! With `--recover` the columns of those old classes are silenced, and they are learned anew as classes of the same names
//! with "again" behind them: `tfgraft evaluate MODEL --data TEST` says what the original columns find. Such a model's features know the
//! class, so that the figures are better than for a class that is new to it.
//!
//! Prints a table: mean over seeds (of views and of the choice of pictures) and standard deviation of the new classes' AP and
//! AP50, and of how many false detections of one of them a picture has from score 0.5 on; then by how much AP lies above that of
//! the first variant on the same choice of pictures, mean and standard error. A model is written, read and measured as
//! `retrain --validation` does. Each run is told on standard error when it ends.
#![allow(clippy::print_stdout, clippy::print_stderr)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};
use tfgraft::Error;
use tfgraft::data::{Dataset, LabelMap, load};
use tfgraft::export::{VariableValues, layer_values};
use tfgraft::head::columns::SILENT_BIAS;
use tfgraft::head::{Growth, Weights, understand};
use tfgraft::retrain::{Options, Plan, PlannedClass, Views, retrain};
use tfgraft::runtime::{self, AnyTensor, Sharing, bundle};
use tfgraft::saved_model::SavedModel;
use tfgraft::train::Strategy;
use tfgraft::train::cache::DEFAULT_LIMIT;
use tfgraft::train::copy_back::DescentOptions;
use tfgraft::train::frozen_columns::FitOptions;

/// A change of one part. The first is the tool as it is.
struct Variant {
    name: &'static str,
    views: Option<usize>,
    change: fn(&mut FitOptions),
}

const VARIANTS: &[Variant] = &[
    Variant { name: "default", views: None, change: |_| {} },
    Variant { name: "one-view", views: Some(1), change: |_| {} },
    Variant { name: "no-likeness", views: None, change: |o| o.penalties.likeness = 1e9 },
    Variant { name: "likeness-only", views: None, change: |o| o.penalties.columns = 1e9 },
    Variant { name: "anchors-apart", views: None, change: |o| o.penalties.share = 0.5 },
    Variant { name: "weak-penalty", views: None, change: |o| o.penalties.columns = 6.0 },
    Variant { name: "strong-penalty", views: None, change: |o| o.penalties.columns = 600.0 },
    Variant { name: "stronger-penalty", views: None, change: |o| o.penalties.columns = 6000.0 },
    Variant { name: "equal-weights", views: None, change: |o| o.positive_weight = 1.0 },
    Variant { name: "to-the-optimum", views: None, change: |o| o.limits.iterations = 1000 },
    Variant { name: "uncalibrated", views: None, change: |o| o.calibration = 1.0 },
    Variant { name: "undivided", views: None, change: |o| o.divide = false },
];

/// What the variants are measured against: the recipe of 2017.
const COPY_BACK: &str = "copy-back";

/// What a class is called that is learned a second time.
const AGAIN: &str = " again";

struct Given {
    model: PathBuf,
    /// The folder of a model with silenced columns.
    _silenced: Option<tempfile::TempDir>,
    train: Dataset,
    test: Dataset,
    pictures: Vec<Option<usize>>,
    seeds: u64,
    variants: Vec<String>,
}

/// What is measured of one run.
#[derive(Clone, Copy)]
struct Run {
    ap: f64,
    ap50: f64,
    /// Detections of a new class that fit no object of it, from score 0.5 on, by picture and class.
    wrong: f64,
    /// Of retraining, without measuring.
    seconds: f64,
}

fn main() -> Result<(), Error> {
    let given = Given::parse()?;
    println!(
        "| variant | pictures of each class | AP | AP50 | false per picture | AP beside {} | seconds |\n|---|---|---|---|---|---|---|",
        given.variants[0]
    );
    for &pictures in &given.pictures {
        let count = pictures.map_or("all".to_owned(), |k| k.to_string());
        let mut runs: Vec<Vec<Run>> = vec![Vec::new(); given.variants.len()];
        for seed in 0..given.seeds {
            for (runs, variant) in runs.iter_mut().zip(&given.variants) {
                let run = given.run(variant, pictures, seed)?;
                eprintln!(
                    "{count} pictures, seed {seed}, {variant}: AP {:.4}, AP50 {:.4}, {:.4} false, {:.1} s",
                    run.ap, run.ap50, run.wrong, run.seconds
                );
                runs.push(run);
            }
        }
        for (variant, of) in given.variants.iter().zip(&runs) {
            let column = |number: fn(&Run) -> f64| spread(of.iter().map(number));
            let above = spread(of.iter().zip(&runs[0]).map(|(run, first)| run.ap - first.ap));
            println!(
                "| {variant} | {count} | {} | {} | {} | {} | {} |",
                column(|run| run.ap).show(1.0),
                column(|run| run.ap50).show(1.0),
                column(|run| run.wrong).show(1.0),
                above.show(of.len() as f64),
                column(|run| run.seconds).show(1.0)
            );
        }
    }
    Ok(())
}

/// Mean and variance of some numbers.
struct Spread {
    mean: f64,
    variance: f64,
}

fn spread(values: impl Iterator<Item = f64> + Clone) -> Spread {
    let count = values.clone().count().max(1) as f64;
    let mean = values.clone().sum::<f64>() / count;
    Spread { mean, variance: values.map(|v| (v - mean).powi(2)).sum::<f64>() / (count - 1.0).max(1.0) }
}

impl Spread {
    /// Mean ± deviation of a mean over so many.
    fn show(&self, over: f64) -> String {
        format!("{:.3} ± {:.3}", self.mean, (self.variance / over).sqrt())
    }
}

impl Given {
    fn parse() -> Result<Self, Error> {
        let mut plain = Vec::new();
        let mut options: BTreeMap<String, String> = BTreeMap::new();
        let mut arguments = std::env::args().skip(1);
        while let Some(argument) = arguments.next() {
            match argument.strip_prefix("--") {
                Some(name) => drop(options.insert(name.to_owned(), arguments.next().unwrap_or_default())),
                None => plain.push(argument),
            }
        }
        let [model, train, test] = &plain[..] else {
            return Err(Error::Usage("expected MODEL TRAIN TEST".into()));
        };
        let list = |name: &str, default: String| -> Vec<String> {
            options.get(name).unwrap_or(&default).split(',').map(str::to_owned).collect()
        };
        let every: Vec<&str> = VARIANTS.iter().map(|v| v.name).chain([COPY_BACK]).collect();
        let variants = list("variants", every.join(","));
        if let Some(unknown) = variants.iter().find(|v| !every.contains(&v.as_str())) {
            return Err(Error::Usage(format!("{unknown}: expected one of {}", every.join(", "))));
        }
        let (mut train, mut test) = (load(&[train], None)?, load(&[test], None)?);
        let mut silenced = None;
        let mut model = PathBuf::from(model);
        if let Some(classes) = options.get("recover") {
            let classes: Vec<&str> = classes.split(',').collect();
            let folder = tempfile::tempdir().map_err(|e| Error::io(Path::new("a temporary folder"), e))?;
            runtime::start(None, None, Sharing::Runs)?;
            silence(&SavedModel::read(&model)?, &classes, folder.path())?;
            rename(&mut train, &classes);
            rename(&mut test, &classes);
            model = folder.path().to_owned();
            silenced = Some(folder);
        }
        Ok(Self {
            model,
            _silenced: silenced,
            train,
            test,
            pictures: list("pictures", "1,5,30,all".to_owned()).iter().map(|k| k.parse().ok()).collect(),
            seeds: options.get("seeds").and_then(|s| s.parse().ok()).unwrap_or(5),
            variants,
        })
    }

    /// Retrains on so many pictures of each new class and measures on the test pictures.
    fn run(&self, variant: &str, pictures: Option<usize>, seed: u64) -> Result<Run, Error> {
        let model = SavedModel::read(&self.model)?;
        let understood = understand(model.meta())?;
        let classes = understood.located.classes;
        let (labels, from) =
            LabelMap::for_model(None, model.source.label_map.as_deref(), || Ok(classes as u32))?;
        let (mut data, mut test) = (self.train.clone(), self.test.clone());
        data.name_classes(&labels);
        test.name_classes(&labels);
        if let Some(count) = pictures {
            choose(&mut data, &labels, count, seed);
        }
        let plan = Plan::new(&data, &labels, &from, classes, &[])?;
        let found = VARIANTS.iter().find(|v| v.name == variant);
        let strategy = match found {
            Some(variant) => {
                let mut options = FitOptions::default();
                (variant.change)(&mut options);
                Strategy::FrozenColumns(options)
            }
            None => Strategy::CopyBack(DescentOptions { seed, ..DescentOptions::default() }),
        };
        let folder = tempfile::tempdir().map_err(|e| Error::io(Path::new("a temporary folder"), e))?;
        let options = Options {
            output: folder.path().join("model"),
            overwrite: false,
            strategy,
            views: found.and_then(|v| v.views).map_or(Views::ByPictures, Views::Each),
            seed,
            threads: None,
            tensorflow: None,
            cache_dir: None,
            cache_limit: DEFAULT_LIMIT,
            gate: Default::default(),
            model_name: None,
            given: serde_json::Value::Null,
        };
        let report = retrain(model, understood, &data, Some(&test), &plan, &options)?.report;
        let seconds = |phase: &str| report.seconds.get(phase).copied().unwrap_or(0.0);
        let Some(measured) = &report.validation else {
            return Err(Error::Data("nothing was measured".into()));
        };
        let number = |value: Option<f64>| value.unwrap_or(f64::NAN);
        let false_of = |class: &PlannedClass| {
            let counts = measured.false_positives.per_class.get(&class.name);
            counts.map_or(0.0, |counts| counts.false_positives as f64)
        };
        let wrong: f64 = plan.new.iter().map(false_of).sum();
        Ok(Run {
            ap: number(measured.new_after.ap),
            ap50: number(measured.new_after.ap50),
            wrong: wrong / (measured.images * plan.new.len()) as f64,
            seconds: seconds("total") - seconds("look"),
        })
    }
}

/// Keeps `count` pictures of each new class, which ones by the seed.
fn choose(data: &mut Dataset, labels: &LabelMap, count: usize, seed: u64) {
    let mut order: Vec<usize> = (0..data.images.len()).collect();
    order.sort_by_key(|i| Sha256::digest(format!("{seed} {i}")).to_vec());
    let mut kept = BTreeSet::new();
    for class in data.categories.iter().filter(|name| labels.by_name(name).is_none()) {
        let showing = |&i: &usize| data.images[i].objects.iter().any(|o| &o.class == class && !o.crowd);
        kept.extend(order.iter().copied().filter(showing).take(count));
    }
    data.images = kept.into_iter().map(|i| data.images[i].clone()).collect();
}

/// Writes a copy of a model to `folder`, label map and pipeline.config beside it, whose columns of these classes never fire.
fn silence(model: &SavedModel, classes: &[&str], folder: &Path) -> Result<(), Error> {
    let understood = understand(model.meta())?;
    let values = VariableValues::read(model, &understood)?;
    let count = understood.located.classes;
    let (labels, from) = LabelMap::for_model(None, model.source.label_map.as_deref(), || Ok(count as u32))?;
    let growth = Growth { classes: count, added: 0 };
    let mut replaced = Vec::new();
    for (layer, old) in understood.layers.iter().zip(layer_values(model, &values, &understood.layers)?) {
        let mut wide = old;
        let columns = wide.biases.len();
        for class in classes {
            let named = labels.by_name(class);
            let named = named.ok_or_else(|| Error::Usage(format!("{from} has no class {class:?}")))?;
            let column = named.id as usize - 1 + usize::from(layer.axis.background);
            for at in (column..columns).step_by(layer.axis.columns(growth)) {
                // A fit takes no likeness from such a column.
                wide.biases[at] = SILENT_BIAS;
                wide.kernel.iter_mut().skip(at).step_by(columns).for_each(|w| *w = 0.0);
            }
        }
        let (Weights::Variable(kernel), Weights::Variable(biases)) = (&layer.kernel, &layer.biases) else {
            return Err(Error::Usage(
                "columns are silenced in variables: give a SavedModel that has some".into(),
            ));
        };
        replaced.push((kernel.key.clone(), AnyTensor::new(&layer.kernel_shape, &wide.kernel)?));
        replaced.push((biases.key.clone(), AnyTensor::new(&[columns], &wide.biases)?));
    }
    let (Some(dir), Some(prefix)) = (model.dir(), model.variables_prefix()) else {
        return Err(Error::Usage("columns are silenced in a SavedModel's variables".into()));
    };
    let out = folder.join("saved_model");
    let copy = |from: &Path, to: &Path| std::fs::copy(from, to).map_err(|e| Error::io(from, e));
    std::fs::create_dir_all(out.join("variables")).map_err(|e| Error::io(&out, e))?;
    copy(&dir.join("saved_model.pb"), &out.join("saved_model.pb"))?;
    for (file, name) in
        [(&model.source.label_map, "label_map.pbtxt"), (&model.source.pipeline_config, "pipeline.config")]
    {
        file.iter().try_for_each(|file| copy(file, &folder.join(name)).map(drop))?;
    }
    bundle::rewrite(&prefix, &out.join("variables/variables"), &understood.variables.entries(), &replaced)
}

/// Gives objects of these classes the name of a class that the model does not have.
fn rename(data: &mut Dataset, classes: &[&str]) {
    let objects = data.images.iter_mut().flat_map(|image| &mut image.objects).map(|object| &mut object.class);
    for name in objects.chain(&mut data.categories).filter(|name| classes.contains(&name.as_str())) {
        name.push_str(AGAIN);
    }
}
