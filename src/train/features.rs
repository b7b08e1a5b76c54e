//! Shows all views of all pictures, each once.

use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread;

use super::outlines::{Outline, Outlines};
use super::render::{canvas, content_size, render};
use super::shape::{Geometry, Input};
use super::targets::Truth;
use super::views::{self, View};
use crate::data::{Dataset, LabelledImage, Object, Picture};
use crate::error::{Error, Result};
use crate::runtime::runs_at_once;
use crate::side_by_side::in_order;

/// Views that wait while the network runs: enough to even out slow pictures.
const AHEAD: usize = 3;

/// What is shown of the data.
#[derive(Debug, Clone)]
pub struct Showing<'a> {
    /// The pictures.
    pub dataset: &'a Dataset,
    /// For each class name that matters its number; objects of other names are background.
    pub classes: std::collections::BTreeMap<&'a str, usize>,
    /// Classes from this number on are the new ones, which views are centred on.
    pub first_new: usize,
    /// Views of each picture.
    pub views: usize,
    /// Seed of the views.
    pub seed: u64,
    /// Whether the outlines of new objects are of use.
    pub outlines: bool,
}

/// One view, rendered.
#[derive(Debug)]
pub struct Seen {
    /// Its number among all views.
    pub number: usize,
    /// How many there are.
    pub of_all: usize,
    /// How many views its picture has.
    pub of_picture: usize,
    /// The objects in it.
    pub truths: Vec<Truth>,
    /// Their outlines.
    pub outlines: Outlines,
    /// The classes, by number, of which its picture may show objects that are not labelled.
    pub open: Arc<[usize]>,
    /// Its pixels, `height · width · 3` bytes.
    pub rgb: Vec<u8>,
    /// Its height and width, pixels.
    pub size: (usize, usize),
}

/// A view whose pixels are still to be drawn.
struct Planned {
    seen: Seen,
    picture: Arc<Picture>,
    view: View,
}

impl Showing<'_> {
    /// The views of a picture.
    pub fn plan(&self, number: usize, geometry: Geometry) -> Vec<View> {
        let new = |name: &str| self.classes.get(name).is_some_and(|&class| class >= self.first_new);
        let Some(image) = self.dataset.images.get(number) else { return Vec::new() };
        let centres: Vec<_> =
            image.objects.iter().filter(|o| !o.crowd && new(&o.class)).map(|o| o.bbox).collect();
        views::plan(number, &centres, self.views, geometry, self.seed)
    }

    /// The number of views of all pictures.
    pub fn count(&self, geometry: Geometry) -> usize {
        self.pictures(geometry).len()
    }

    /// For each view the number of its picture.
    pub fn pictures(&self, geometry: Geometry) -> Vec<usize> {
        let views = |number| std::iter::repeat_n(number, self.plan(number, geometry).len());
        (0..self.dataset.images.len()).flat_map(views).collect()
    }

    fn open(&self, image: &LabelledImage) -> Arc<[usize]> {
        let open = self.classes.iter().filter(|(name, _)| image.incomplete.lacks(name));
        open.map(|(_, class)| *class).collect()
    }

    /// By number of the picture's truths.
    fn outlines(&self, image: &LabelledImage) -> Vec<Option<Arc<Outline>>> {
        let outline = |object: &Object| {
            let class = *self.classes.get(object.class.as_str())?;
            let wanted = self.outlines && class >= self.first_new && !object.crowd;
            Some(wanted.then(|| Outline::of(object, image)).flatten().map(Arc::new))
        };
        image.objects.iter().filter_map(outline).collect()
    }

    fn truths(&self, image: &LabelledImage, view: &View, content: (f64, f64)) -> Vec<Truth> {
        let truth = |object: &Object| {
            let &class = self.classes.get(object.class.as_str())?;
            let (bbox, visible) = view.place(&object.bbox, content);
            Some(Truth { class, bbox, visible, crowd: object.crowd })
        };
        image.objects.iter().filter_map(truth).collect()
    }

    /// Decodes pictures and plans their views from number `first` on, until all are sent or nobody listens.
    fn plan_all(&self, input: Input, first: usize, to: &SyncSender<Result<Planned>>) {
        let Input { size: of_network, geometry } = input;
        let (mut number, of_all) = (0, self.count(geometry));
        for (at, image) in self.dataset.images.iter().enumerate() {
            let plan = self.plan(at, geometry);
            if number + plan.len() <= first {
                number += plan.len();
                continue;
            }
            let picture = match image.picture() {
                Ok(picture) => Arc::new(picture),
                Err(error) => {
                    // A receiver that is gone needs no reason.
                    let _ = to.send(Err(error));
                    return;
                }
            };
            let stored = (picture.height as usize, picture.width as usize);
            let filled = content_size(geometry, of_network, stored);
            let size = canvas(geometry, of_network, stored);
            let part = |filled: usize, whole: usize| filled as f64 / whole.max(1) as f64;
            let content = (part(filled.0, size.0), part(filled.1, size.1));
            let open = self.open(image);
            let outlines = self.outlines(image);
            for view in &plan {
                if number < first {
                    number += 1;
                    continue;
                }
                let truths = self.truths(image, view, content);
                let of_picture = plan.len();
                let outlines = Outlines { of: outlines.clone(), view: *view, content };
                let (open, picture) = (Arc::clone(&open), Arc::clone(&picture));
                let seen = Seen { number, of_all, of_picture, truths, outlines, open, rgb: Vec::new(), size };
                if to.send(Ok(Planned { seen, picture, view: *view })).is_err() {
                    return;
                }
                number += 1;
            }
        }
    }

    /// Hands every view from number `first` on to `work`, as many at once as TensorFlow is to run, and what comes of it to
    /// `keep`, in the order of pictures and views. Another thread reads pictures ahead.
    pub fn run<T: Send>(
        &self,
        input: Input,
        first: usize,
        work: impl Fn(Seen) -> Result<T> + Sync,
        keep: impl FnMut(T) -> Result<()>,
    ) -> Result<()> {
        thread::scope(|scope| {
            let (to, from) = sync_channel(AHEAD);
            let read = thread::Builder::new()
                .name("pictures".into())
                .spawn_scoped(scope, move || self.plan_all(input, first, &to))
                .map_err(|error| Error::Data(format!("no thread to read pictures with: {error}")))?;
            let show = |planned: Result<Planned>| {
                let Planned { mut seen, picture, view } = planned?;
                seen.rgb = render(&picture, &view, input.size, input.geometry);
                drop(picture);
                work(seen)
            };
            // An error closes the channel and so ends the thread.
            in_order(from, runs_at_once(), show, keep)?;
            read.join().map_err(|_| Error::Data("the thread that reads pictures failed".into()))
        })
    }
}
