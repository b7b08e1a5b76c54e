//! CSV of the OD API's tutorials: `filename,width,height,class,xmin,ymin,xmax,ymax`, pixels, one row per object.
//!
//! A row with a file name and empty `class` and corners is a picture without objects.

use std::collections::HashMap;
use std::path::Path;

use super::assemble::{RawObject, labelled, picture_path};
use super::dataset::{Dataset, ImageSource};
use super::problems::{ProblemKind, Problems};
use super::text;
use crate::error::{Error, Result};
use crate::input;

const COLUMNS: [&str; 8] = ["filename", "width", "height", "class", "xmin", "ymin", "xmax", "ymax"];

struct Rows {
    name: String,
    declared: Option<(u32, u32)>,
    line: u64,
    objects: Vec<RawObject>,
}

/// Reads a CSV file; the pictures are in `images_dir`, else in the file's folder.
pub fn read(path: &Path, images_dir: Option<&Path>) -> Result<Dataset> {
    let text = input::read(path, input::TEXT)?;
    let beside = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    parse(&text, &path.display().to_string(), images_dir.unwrap_or(beside))
}

fn parse(text: &[u8], name: &str, dir: &Path) -> Result<Dataset> {
    let mut problems = Problems::default();
    let text = text::decode(text, name, &mut problems);
    let mut reader =
        csv::ReaderBuilder::new().trim(csv::Trim::All).flexible(true).from_reader(text.as_bytes());
    let header = reader.headers().map_err(|e| Error::Data(format!("{name}:1: {e}")))?.clone();
    let column = |wanted: &str| {
        header.iter().position(|h| h.trim_start_matches('\u{feff}').eq_ignore_ascii_case(wanted)).ok_or_else(
            || {
                Error::Data(format!(
                    "{name}:1: the header has no column {wanted:?}; got {:?}, expected {}",
                    header.iter().collect::<Vec<_>>().join(","),
                    COLUMNS.join(",")
                ))
            },
        )
    };
    let mut at = [0usize; 8];
    for (place, wanted) in at.iter_mut().zip(COLUMNS) {
        *place = column(wanted)?;
    }

    let mut images: Vec<Rows> = Vec::new();
    let mut places: HashMap<String, usize> = HashMap::new();
    for record in reader.records() {
        let record = record.map_err(|e| {
            let line = e.position().map_or(0, csv::Position::line);
            Error::Data(format!("{name}:{line}: not CSV: {e}"))
        })?;
        let line = record.position().map_or(0, csv::Position::line);
        let cell = |index: usize| record.get(at[index]).unwrap_or_default();
        let file = cell(0);
        if file.is_empty() {
            return Err(Error::Data(format!("{name}:{line}: the file name is empty")));
        }
        let size = |index: usize| -> Result<Option<u32>> {
            if cell(index).is_empty() {
                Ok(None)
            } else {
                number(cell(index), COLUMNS[index], name, line).map(|v| Some(v as u32))
            }
        };
        let declared = size(1)?.zip(size(2)?);
        let index = *places.entry(file.to_owned()).or_insert_with(|| {
            images.push(Rows { name: file.to_owned(), declared, line, objects: Vec::new() });
            images.len() - 1
        });
        let rows = &mut images[index];
        let mut scale = [1.0; 2];
        if rows.declared != declared {
            let differs = || {
                let (here, first) = (shown(declared), shown(rows.declared));
                format!("{name}:{line}: {file} is {here}, but line {} says {first}", rows.line)
            };
            let (Some(first), Some(here)) = (rows.declared, declared) else {
                return Err(Error::Data(format!("{}; give every row the size, or none", differs())));
            };
            problems.add(ProblemKind::WrongSize, differs);
            scale = [f64::from(first.0) / f64::from(here.0), f64::from(first.1) / f64::from(here.1)];
        }
        if (3..8).all(|index| cell(index).is_empty()) {
            continue;
        }
        if cell(3).is_empty() {
            return Err(Error::Data(format!("{name}:{line}: the class is empty")));
        }
        let mut corners = [0.0; 4];
        for (index, corner) in corners.iter_mut().enumerate() {
            *corner = number(cell(4 + index), COLUMNS[4 + index], name, line)? * scale[index % 2];
        }
        rows.objects.push(RawObject {
            class: cell(3).to_owned(),
            corners,
            crowd: false,
            difficult: false,
            area: None,
            mask: None,
            place: format!("{name}:{line}"),
        });
    }

    let mut categories: Vec<String> =
        images.iter().flat_map(|rows| rows.objects.iter().map(|o| o.class.clone())).collect();
    categories.sort();
    categories.dedup();
    let mut out = Dataset { categories, problems, ..Dataset::default() };
    for rows in images {
        let path = picture_path(dir, &rows.name, &format!("{name}:{}", rows.line))?;
        let image = labelled(ImageSource::File(path), rows.declared, rows.objects, &mut out);
        out.images.extend(image);
    }
    Ok(out)
}

fn shown(size: Option<(u32, u32)>) -> String {
    size.map_or("of no size".to_owned(), |(w, h)| format!("{w} x {h}"))
}

fn number(text: &str, column: &str, name: &str, line: u64) -> Result<f64> {
    text.parse::<f64>().ok().filter(|v| v.is_finite()).ok_or_else(|| {
        Error::Data(format!("{name}:{line}: {column} is {text:?}, expected a number of pixels"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_rows_in_any_column_order() {
        let dir = tempfile::tempdir().unwrap();
        image::RgbImage::new(40, 20).save(dir.path().join("a, b.png")).unwrap();
        image::RgbImage::new(40, 20).save(dir.path().join("c.png")).unwrap();
        let text = "class,filename,width,height,xmin,ymin,xmax,ymax\r\nz,\"a, b.png\",40,20,4,2,8,4\r\n\
                    y,\"a, b.png\",40,20,4,2,8.5,4\r\n,c.png,40,20,,,,\r\n";
        let set = parse(text.as_bytes(), "x.csv", dir.path()).unwrap();
        assert_eq!(set.categories, ["y", "z"]);
        assert_eq!(set.images.iter().map(|i| i.objects.len()).collect::<Vec<_>>(), [2, 0]);
        assert_eq!(set.images[0].objects[0].bbox.to_array(), [0.1, 0.1, 0.2, 0.2]);
    }

    #[test]
    fn rows_of_another_size_are_fractions_of_their_own() {
        let dir = tempfile::tempdir().unwrap();
        image::RgbImage::new(40, 20).save(dir.path().join("a.png")).unwrap();
        let text = b"filename,width,height,class,xmin,ymin,xmax,ymax\na.png,40,20,k,4,2,8,4\na.png,80,80,k,8,8,16,16\n\
            a.png,80,80,carr\xe9,0,0,80,40\n";
        let set = parse(text, "x.csv", dir.path()).unwrap();
        assert_eq!(set.problems.count(ProblemKind::WrongSize), 2);
        assert_eq!(set.problems.count(ProblemKind::DuplicateObject), 1);
        assert_eq!(set.problems.count(ProblemKind::NotUtf8), 1);
        let [first, second] = &set.images[0].objects[..] else { panic!("two objects") };
        assert_eq!(first.bbox.to_array(), [0.1, 0.1, 0.2, 0.2]);
        assert_eq!((second.class.as_str(), second.bbox.to_array()), ("carré", [0.0, 0.0, 0.5, 1.0]));
    }

    #[test]
    fn says_the_line() {
        let head = "filename,width,height,class,xmin,ymin,xmax,ymax\n";
        for (text, part) in [
            ("a,b\n1,2\n".to_owned(), "x.csv:1: the header has no column \"filename\""),
            (format!("{head}a.png,4,4,k,1,2,x,4\n"), "x.csv:2: xmax is \"x\""),
            (format!("{head}a.png,4,4,k,1,2,3\n"), "x.csv:2: ymax is \"\""),
            (format!("{head}a.png,4,4,k,1,2,3,4\na.png,,,k,1,2,3,4\n"), "x.csv:3: a.png is of no size"),
            (format!("{head}a.png,4,4,,1,2,3,4\n"), "x.csv:2: the class is empty"),
            (format!("{head}../a.png,4,4,k,1,2,3,4\n"), "x.csv:2: the picture name"),
        ] {
            let err = parse(text.as_bytes(), "x.csv", Path::new("/d")).unwrap_err().to_string();
            assert!(err.contains(part), "{err}");
        }
    }
}
