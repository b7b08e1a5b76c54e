//! Bytes that somebody made wrong, by chance or on purpose: every one gives a result or an error, without a panic and soon.
//!
//! The default run takes 1,000 mutated inputs; `TFGRAFT_HOSTILE_INPUTS=10000` takes more, `TFGRAFT_HOSTILE_FIRST=N` starts at
//! input N, to see one again. Time is the thread's own: a busy machine makes nothing slow. TensorFlow is not involved.
#![cfg(unix)]

use crate::common;

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;
use std::{env, fs};

use prost::Message;
use tempfile::TempDir;
use tfgraft::data::{self, LabelMap, Picture, records};
use tfgraft::graft::Graft;
use tfgraft::graph::check::{main_tensor, tensor_name};
use tfgraft::graph::flatten::Flattener;
use tfgraft::graph::{GraphView, MAIN};
use tfgraft::head::understand;
use tfgraft::inspect::inspect;
use tfgraft::saved_model::{SavedModel, checkpoint_index};
use tfgraft::{pb, policy};

use crate::common::mutate::{self, Draw};
use crate::common::work::{self, MOST};

fn setting(name: &str, default: u64) -> u64 {
    env::var(name).ok().and_then(|v| v.parse().ok()).unwrap_or(default)
}

/// Of each kind how many inputs, how many of them were read, the most seconds and whose these were.
type Tally = BTreeMap<&'static str, (u64, u64, f64, u64)>;

#[test]
fn mutated_inputs_neither_panic_nor_hang() {
    let (count, first) = (setting("TFGRAFT_HOSTILE_INPUTS", 1000), setting("TFGRAFT_HOSTILE_FIRST", 0));
    let middle = first + count / 2;
    let halves = [first..middle, middle..first + count];
    let tallies = thread::scope(|scope| {
        let running = halves.map(|numbers| scope.spawn(|| take(numbers)));
        running.map(|half| half.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    });
    let mut tally = Tally::new();
    for (kind, (inputs, accepted, seconds, number)) in tallies.into_iter().flatten() {
        let entry = tally.entry(kind).or_default();
        entry.0 += inputs;
        entry.1 += accepted;
        if seconds > entry.2 {
            (entry.2, entry.3) = (seconds, number);
        }
    }
    println!("{count} mutated inputs from {first} on, no panic");
    for (kind, (inputs, accepted, slowest, number)) in &tally {
        println!(
            "{kind:>12}: {inputs:5} inputs, {accepted:5} read all the same, slowest {slowest:.3} s (input {number})"
        );
    }
    // A change that only ever broke the framing would test the decoder alone.
    assert!(
        tally.values().all(|(inputs, accepted, ..)| *inputs < 50 || accepted * 50 > *inputs),
        "{tally:?}"
    );
    if let Some((kind, worst)) = tally.iter().find(|(_, t)| t.2 > MOST) {
        panic!("{kind}: input {} took {:.1} s of work", worst.3, worst.2);
    }
}

/// Runs these inputs, in a folder of their own.
fn take(numbers: Range<u64>) -> Tally {
    let seeds = Seeds::new();
    let running = Arc::new(AtomicU64::new(numbers.start));
    watch(Arc::clone(&running));
    let mut tally = Tally::new();
    for number in numbers {
        running.store(number, Ordering::Relaxed);
        let (kind, accepted, seconds) = seeds.run(number);
        let entry = tally.entry(kind).or_default();
        entry.0 += 1;
        entry.1 += u64::from(accepted);
        if seconds > entry.2 {
            (entry.2, entry.3) = (seconds, number);
        }
    }
    running.store(u64::MAX, Ordering::Relaxed);
    tally
}

/// Ends the process with the input's number where one input takes five minutes of a busy machine: it hangs.
fn watch(running: Arc<AtomicU64>) {
    thread::spawn(move || {
        let mut last = u64::MAX;
        loop {
            thread::sleep(Duration::from_secs(300));
            match running.load(Ordering::Relaxed) {
                u64::MAX => return,
                now if now == last => {
                    eprintln!("input {now} hangs");
                    std::process::abort();
                }
                now => last = now,
            }
        }
    });
}

/// What is mutated, and where it lies while it is read.
struct Seeds {
    home: TempDir,
    models: Vec<TempDir>,
    protos: Vec<Vec<u8>>,
    index: Vec<u8>,
    pictures: Vec<(&'static str, Vec<u8>)>,
    data: Vec<(&'static str, Vec<u8>)>,
    records: Vec<Vec<u8>>,
    labels: Vec<u8>,
}

impl Seeds {
    fn new() -> Self {
        let names = ["tf1_frozen/base", "tf1_masks/base", "tf1_position_sensitive/base", "tf2_levels/base"];
        let models: Vec<TempDir> = names.iter().map(|name| common::fixture(name)).collect();
        let folder = |model: &TempDir| model.path().join("saved_model");
        let protos = models.iter().map(|m| fs::read(folder(m).join("saved_model.pb")).unwrap()).collect();
        let index = fs::read(folder(&models[3]).join("variables/variables.index")).unwrap();
        let home = TempDir::with_prefix("tfgraft-hostile-").unwrap();
        let image =
            image::RgbImage::from_fn(64, 48, |x, y| image::Rgb([x as u8 * 3, y as u8 * 5, (x * y) as u8]));
        let mut pictures = Vec::new();
        for ending in ["png", "jpg", "bmp", "webp"] {
            let path = home.path().join(format!("a.{ending}"));
            image.save(&path).unwrap();
            pictures.push((ending, fs::read(path).unwrap()));
        }
        let record = home.path().join("seed.record");
        fs::write(&record, include_bytes!("../../testdata/data/two.record")).unwrap();
        let mut file = records::Records::open(&record).unwrap();
        let mut records = Vec::new();
        while let Some((_, body)) = file.next_record().unwrap() {
            records.push(body.to_vec());
        }
        fs::remove_file(record).unwrap();
        let labels = LabelMap::coco().to_text().as_bytes().to_vec();
        Self { models, protos, index, pictures, data: texts(), records, labels, home }
    }

    /// Runs one input: its kind, whether it was read without an error, its seconds.
    fn run(&self, number: u64) -> (&'static str, bool, f64) {
        let mut draw = Draw::new(number.wrapping_mul(0x2545_f491_4f6c_dd1d) + 1);
        match number % 10 {
            0..=3 => self.model(&mut draw),
            4 => self.checkpoint(&mut draw),
            5 | 6 => self.annotations(&mut draw),
            7 => self.record(&mut draw),
            8 => timed("label map", || {
                let mut bytes = self.labels.clone();
                mutate::bytes(&mut draw, &mut bytes, &self.data[0].1);
                let map = LabelMap::parse(&String::from_utf8_lossy(&bytes), "x")?;
                LabelMap::parse(map.to_text(), "written").map(drop)
            }),
            _ => {
                let (_, seed) = draw.one(&self.pictures);
                let (mut bytes, other) = (seed.clone(), &draw.one(&self.pictures).1);
                mutate::bytes(&mut draw, &mut bytes, other);
                timed("picture", || Picture::decode(&bytes, "x").map(drop))
            }
        }
    }

    fn model(&self, draw: &mut Draw) -> (&'static str, bool, f64) {
        // The first is the smallest; the others cost a tenth of a second each.
        let chosen = if draw.below(4) > 0 { 0 } else { draw.below(self.models.len()) };
        let seed = &self.protos[chosen];
        let bytes = match draw.below(5) {
            0 => {
                let mut bytes = seed.clone();
                mutate::bytes(draw, &mut bytes, &self.protos[0]);
                bytes
            }
            1 | 2 => (0..1 + draw.below(3)).fold(seed.clone(), |bytes, _| mutate::message(draw, &bytes)),
            _ => {
                let mut model = pb::SavedModel::decode(&seed[..]).unwrap();
                mutate::graph(draw, &mut model.meta_graphs[0]);
                model.encode_to_vec()
            }
        };
        let folder = self.models[chosen].path().join("saved_model");
        fs::write(folder.join("saved_model.pb"), bytes).unwrap();
        timed("model", || read_and_grow(&folder))
    }

    fn checkpoint(&self, draw: &mut Draw) -> (&'static str, bool, f64) {
        let mut bytes = self.index.clone();
        mutate::bytes(draw, &mut bytes, &self.protos[0]);
        let path = self.home.path().join("variables.index");
        fs::write(&path, mended(bytes)).unwrap();
        timed("checkpoint", || checkpoint_index::read_index(&path).map(drop))
    }

    fn annotations(&self, draw: &mut Draw) -> (&'static str, bool, f64) {
        let dir = tempfile::tempdir_in(self.home.path()).unwrap();
        let (picture, other) = (&self.pictures[0].1, &self.data[draw.below(self.data.len())].1);
        fs::write(dir.path().join("a.png"), picture).unwrap();
        let (name, seed) = draw.one(&self.data);
        let mut bytes = seed.clone();
        mutate::bytes(draw, &mut bytes, other);
        let mut path = dir.path().join(name);
        fs::write(&path, &bytes).unwrap();
        if *name == "a.txt" {
            fs::write(dir.path().join("classes.txt"), "duck\npond\n").unwrap();
            path = dir.path().to_owned();
        }
        timed("annotations", || data::load(&[path], None).map(drop))
    }

    fn record(&self, draw: &mut Draw) -> (&'static str, bool, f64) {
        let path = self.home.path().join("a.record");
        let body = draw.one(&self.records);
        let mut bytes = match draw.below(3) {
            0 => records::frame(body),
            1 => records::frame(&mutate::message(draw, body)),
            _ => {
                let mut bytes = body.clone();
                mutate::bytes(draw, &mut bytes, &self.pictures[1].1);
                records::frame(&bytes)
            }
        };
        if draw.below(4) == 0 {
            mutate::bytes(draw, &mut bytes, body);
        }
        fs::write(&path, &bytes).unwrap();
        timed("record", || {
            let set = data::load(&[&path], None)?;
            set.images.iter().try_for_each(|image| image.picture().map(drop))
        })
    }
}

fn timed(kind: &'static str, work: impl FnOnce() -> tfgraft::Result<()>) -> (&'static str, bool, f64) {
    let (result, seconds) = work::timed(work);
    if let Err(error) = &result {
        assert!(error.to_string().len() < 20_000, "{kind}: an error of {} bytes", error.to_string().len());
    }
    (kind, result.is_ok(), seconds)
}

/// Everything that happens to a model before TensorFlow sees it.
fn read_and_grow(folder: &Path) -> tfgraft::Result<()> {
    let model = SavedModel::read(folder)?;
    let meta = model.meta();
    policy::runs_at_load(meta);
    let told = inspect(&model)?;
    flatten(meta)?;
    if !told.can_grow {
        return Ok(());
    }
    let understood = understand(meta)?;
    let add = ["a".parse()?, "b=random".parse()?];
    let grown = Graft::new(model, understood, &add)?.grown;
    understand(&grown.meta).map(drop)
}

/// The serving path as one graph, as far as it goes without values of variables.
fn flatten(meta: &pb::MetaGraphDef) -> tfgraft::Result<()> {
    let empty = pb::GraphDef::default();
    let view = GraphView::new(meta.graph_def.as_ref().unwrap_or(&empty))?;
    let outputs = meta.signature_def.get("serving_default").into_iter().flat_map(|s| s.outputs.values());
    let sources: Vec<_> = outputs.filter_map(|info| main_tensor(&view, tensor_name(info)?)).collect();
    let targets: Vec<_> = sources.iter().map(|&source| (MAIN, source)).collect();
    let none = HashMap::new();
    // Variables have no values here: that is an error of its own, and a late one.
    let _ = Flattener::new(&view, &none).flatten(&sources, &targets);
    Ok(())
}

/// An index with the checksums of its blocks made right, where its footer can be read: damage must get past them.
fn mended(mut file: Vec<u8>) -> Vec<u8> {
    let mut handles = file.len().checked_sub(48).map_or(Vec::new(), |end| file[end..end + 40].to_vec());
    let mut number = || -> Option<usize> {
        let length = handles.iter().position(|b| b & 0x80 == 0)? + 1;
        let digits: Vec<u8> = handles.drain(..length).collect();
        Some(digits.iter().rev().fold(0usize, |value, b| value << 7 | usize::from(b & 0x7f)))
    };
    let places: Vec<(usize, usize)> = (0..2).map_while(|_| Some((number()?, number()?))).collect();
    // The one block of entries ends where the first of these starts.
    let entries = places.first().map(|(start, _)| (0, start.saturating_sub(5)));
    for (start, length) in places.into_iter().chain(entries) {
        let end = start.saturating_add(length).saturating_add(1);
        let Some(block) = file.get(start..end) else { continue };
        let sum = crc32c::crc32c(block).rotate_right(15).wrapping_add(0xa282_ead8).to_le_bytes();
        if let Some(place) = file.get_mut(end..end + 4) {
            place.copy_from_slice(&sum);
        }
    }
    file
}

fn texts() -> Vec<(&'static str, Vec<u8>)> {
    let json = r#"{"images": [{"id": 1, "file_name": "a.png", "width": 64, "height": 48}], "annotations": [{"id": 1,
        "image_id": 1, "category_id": 3, "bbox": [1, 2, 30, 40.5], "area": 1215, "iscrowd": 0, "segmentation": [[1, 2, 3,
        4, 5, 6]]}, {"id": 2, "image_id": 1, "category_id": 4, "bbox": [0, 0, 64, 48], "iscrowd": 1}], "categories":
        [{"id": 3, "name": "duck", "supercategory": "bird"}, {"id": 4, "name": "pond"}]}"#;
    let xml = "<?xml version=\"1.0\"?>\n<annotation>\n<folder>x</folder><filename>a.png</filename>\n<size><width>64</width>\
        <height>48</height><depth>3</depth></size>\n<object><name>duck &amp; drake</name><difficult>0</difficult><bndbox>\
        <xmin>1</xmin><ymin>2</ymin><xmax>31</xmax><ymax>42</ymax></bndbox></object></annotation>\n";
    let csv = "filename,width,height,class,xmin,ymin,xmax,ymax\na.png,64,48,duck,1,2,31,42\na.png,64,48,\"po\"\"nd\",0,0,64,48\n";
    let yaml = "train: ../train/images\nval: images\npath: .\nnc: 2\nnames:\n  0: duck\n  1: 'pond'\nmore: [1, {a: b}]\n";
    let yolo = "0 0.3125 0.5 0.375 0.5\n1 0 0 1 0 1 1 0 1\n0 0.5 0.5 0.1 0.1 0.93\n";
    [("a.json", json), ("a.xml", xml), ("a.csv", csv), ("data.yaml", yaml), ("a.txt", yolo)]
        .map(|(name, text)| (name, text.as_bytes().to_vec()))
        .into()
}
