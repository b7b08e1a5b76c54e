//! One small data set in every format; all must say the same.

use std::fs;
use std::path::{Path, PathBuf};

use tfgraft::data::{self, Dataset, ProblemKind};

const RECORD: &[u8] = include_bytes!("../../testdata/data/two.record");

fn pictures(dir: &Path) {
    let pixels: Vec<u8> = (0..64 * 48 * 3).map(|v| (v % 255) as u8).collect();
    for name in ["one.png", "two.png"] {
        tfgraft::data::Picture { width: 64, height: 48, rgb: pixels.clone() }.save(&dir.join(name)).unwrap();
    }
}

fn write(dir: &Path, name: &str, text: &str) -> PathBuf {
    let path = dir.join(name);
    fs::write(&path, text).unwrap();
    path
}

fn coco(dir: &Path) -> PathBuf {
    write(
        dir,
        "labels.json",
        r#"{"images":[{"id":1,"file_name":"one.png","width":64,"height":48},{"id":2,"file_name":"two.png","width":64,
        "height":48}],"annotations":[{"id":1,"image_id":1,"category_id":1,"bbox":[8,12,24,24],"iscrowd":0},
        {"id":2,"image_id":1,"category_id":2,"bbox":[0,0,64,48],"iscrowd":0}],
        "categories":[{"id":1,"name":"duck"},{"id":2,"name":"pond"}]}"#,
    )
}

fn voc(dir: &Path) -> PathBuf {
    let object = |name: &str, b: [u32; 4]| {
        format!(
            "<object><name>{name}</name><bndbox><xmin>{}</xmin><ymin>{}</ymin><xmax>{}</xmax><ymax>{}</ymax></bndbox></object>",
            b[0], b[1], b[2], b[3]
        )
    };
    let file = |picture: &str, objects: String| {
        format!(
            "<?xml version=\"1.0\"?>\n<annotation><filename>{picture}</filename><size><width>64</width><height>48</height>\
             <depth>3</depth></size>{objects}</annotation>"
        )
    };
    let objects = object("duck", [8, 12, 32, 36]) + &object("pond", [0, 0, 64, 48]);
    write(dir, "one.xml", &file("one.png", objects));
    write(dir, "two.xml", &file("two.png", String::new()));
    dir.to_owned()
}

fn csv(dir: &Path) -> PathBuf {
    write(
        dir,
        "labels.csv",
        "filename,width,height,class,xmin,ymin,xmax,ymax\none.png,64,48,duck,8,12,32,36\none.png,64,48,pond,0,0,64,48\n\
         two.png,64,48,,,,,\n",
    )
}

/// Ultralytics' layout; the same pictures lie in `train/images`, two classes, one of them by polygon.
fn yolo(dir: &Path) -> PathBuf {
    let root = dir.join("yolo");
    fs::create_dir_all(root.join("train/images")).unwrap();
    fs::create_dir_all(root.join("train/labels")).unwrap();
    for name in ["one.png", "two.png"] {
        fs::copy(dir.join(name), root.join("train/images").join(name)).unwrap();
    }
    let lines = "0 0.3125 0.5 0.375 0.5\n1 0 0 1 0 1 1 0 1\n";
    write(&root, "train/labels/one.txt", lines);
    write(
        &root,
        "data.yaml",
        "train: ../train/images\nval: ../valid/images\nnc: 2\nnames: ['duck', 'pond']\n",
    )
}

/// LabelImg's layout: everything in one folder.
fn labelimg(dir: &Path) -> PathBuf {
    let root = dir.join("labelimg");
    fs::create_dir(&root).unwrap();
    for name in ["one.png", "two.png"] {
        fs::copy(dir.join(name), root.join(name)).unwrap();
    }
    write(&root, "one.txt", "0 0.3125 0.5 0.375 0.5\n1 0.5 0.5 1 1\n");
    write(&root, "two.txt", "");
    write(&root, "classes.txt", "duck\npond\n");
    root
}

fn summary(set: &Dataset) -> Vec<Vec<(String, [i32; 4], i32)>> {
    let round = |v: f32| (v * 1000.0).round() as i32;
    set.images
        .iter()
        .map(|image| {
            assert_eq!((image.width, image.height), (64, 48));
            assert_eq!(image.picture().unwrap().rgb.len(), 64 * 48 * 3);
            image
                .objects
                .iter()
                .map(|o| (o.class.clone(), o.bbox.to_array().map(round), o.area as i32))
                .collect()
        })
        .collect()
}

#[test]
fn all_formats_say_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    pictures(dir);
    let record = dir.join("x-00000-of-00001.record");
    fs::write(&record, RECORD).unwrap();
    let expected = vec![
        vec![("duck".to_owned(), [250, 125, 750, 500], 576), ("pond".to_owned(), [0, 0, 1000, 1000], 3072)],
        vec![],
    ];
    let yaml = yolo(dir);
    let train = yaml.with_file_name("train");
    let images = train.join("images");
    for path in [
        coco(dir),
        voc(dir),
        csv(dir),
        record,
        dir.join("x-?????-of-00001.record"),
        yaml,
        train,
        images,
        labelimg(dir),
    ] {
        let set = data::load(&[&path], None).unwrap();
        assert_eq!(summary(&set), expected, "{}", path.display());
        assert_eq!(set.categories, ["duck", "pond"], "{}", path.display());
        assert_eq!(set.problems.count(ProblemKind::NoObjects), 1);
        assert_eq!(set.counts()["duck"], 1);
    }
}

#[test]
fn yolo_tells_what_is_missing_and_stays_inside() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    pictures(dir);
    let root = labelimg(dir);
    fs::remove_file(root.join("one.png")).unwrap();
    let set = data::load(&[&root], None).unwrap();
    assert_eq!(set.images.len(), 1);
    assert_eq!(set.problems.count(ProblemKind::MissingPicture), 1);

    let yaml = yolo(dir);
    for (text, part) in [
        ("train: ../../../etc\nnames: [a]\n", "is not there"),
        ("train: /etc\nnames: [a]\n", "does not stay inside"),
        ("train: x/../../..\nnames: [a]\n", "does not stay inside"),
        ("names: [a]\n", "names no training pictures"),
        ("train: train/images\n", "names no classes"),
        ("train: [\n", "not YAML"),
    ] {
        fs::write(&yaml, text).unwrap();
        let error = data::load(&[&yaml], None).unwrap_err().to_string();
        assert!(error.contains(part), "{text}: {error}");
    }
}

#[test]
fn several_sets_become_one() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    pictures(dir);
    let set = data::load(&[coco(dir), csv(dir)], Some(dir)).unwrap();
    assert_eq!(set.images.len(), 2);
    assert_eq!(set.images[0].objects.len(), 2);
    assert_eq!(set.problems.count(ProblemKind::SamePicture), 2);
    assert_eq!(set.problems.count(ProblemKind::DuplicateObject), 2);
    let report = serde_json::to_value(&set.problems).unwrap();
    assert_eq!(report["duplicate_object"]["count"], 2);
}

#[test]
fn says_what_is_missing() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let empty = dir.join("empty");
    fs::create_dir(&empty).unwrap();
    let odd = write(dir, "odd.txt", "what is this");
    let json = coco(dir);
    fs::write(dir.join("y-00000-of-00002"), RECORD).unwrap();
    for (path, part) in [
        (dir.join("nothing"), "no such file"),
        (dir.join("*.record"), "no such file"),
        (empty, "no XML files"),
        (odd, "not known"),
        (json, "--images DIR"),
        (dir.join("y-?????-of-00002"), "1 of 2 shards"),
    ] {
        let error = data::load(&[&path], None).unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
    }
}

#[test]
fn one_picture_listed_twice_has_the_objects_of_both() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    pictures(dir);
    let text = fs::read_to_string(coco(dir)).unwrap();
    let twice = text
        .replace("two.png", "./one.png")
        .replace("\"image_id\":1,\"category_id\":2", "\"image_id\":2,\"category_id\":2");
    let again = text.replace(
        "{\"id\":2,\"image_id\":1,",
        "{\"id\":3,\"image_id\":1,\"category_id\":1,\"bbox\":[8,12,24,24]},{\"id\":2,\"image_id\":1,",
    );
    let set = data::load(&[write(dir, "twice.json", &twice)], None).unwrap();
    let [image] = &set.images[..] else { panic!("one picture, not {}", set.images.len()) };
    assert_eq!(image.objects.iter().map(|o| o.class.as_str()).collect::<Vec<_>>(), ["duck", "pond"]);
    assert_eq!(set.problems.count(ProblemKind::SamePicture), 1);
    assert_eq!(set.problems.count(ProblemKind::NoObjects), 0);

    let set = data::load(&[write(dir, "again.json", &again)], None).unwrap();
    assert_eq!((set.images[0].objects.len(), set.problems.count(ProblemKind::DuplicateObject)), (2, 1));
    // Both pictures of this folder have the same pixels.
    assert_eq!((set.images.len(), set.problems.count(ProblemKind::SameBytes)), (2, 1));

    let other = dir.join("voc");
    fs::create_dir(&other).unwrap();
    pictures(&other);
    voc(&other);
    fs::copy(other.join("one.xml"), other.join("zero.xml")).unwrap();
    fs::remove_file(other.join("two.xml")).unwrap();
    let set = data::load(&[other], None).unwrap();
    assert_eq!((set.images.len(), set.images[0].objects.len()), (1, 2));
    assert_eq!(set.problems.count(ProblemKind::SamePicture), 1);
    assert_eq!(set.problems.count(ProblemKind::DuplicateObject), 2);
}

#[test]
fn names_that_are_not_utf8_are_read_and_told() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    pictures(dir);
    let latin = |path: &Path| {
        let text = fs::read_to_string(path).unwrap().replace("duck", "carr\u{e9}");
        fs::write(path, text.chars().map(|c| c as u8).collect::<Vec<u8>>()).unwrap();
    };
    let folder = voc(dir);
    let (json, csv, yaml, names) = (coco(dir), csv(dir), yolo(dir), labelimg(dir).join("classes.txt"));
    for file in [&json, &csv, &folder.join("one.xml"), &yaml, &names] {
        latin(file);
    }
    let one = folder.join("one.xml");
    for spec in [json.as_path(), &csv, &one, &yaml, names.parent().unwrap()] {
        let set = data::load(&[spec], None).unwrap();
        let at = spec.display();
        assert!(set.categories.contains(&"carr\u{e9}".to_owned()), "{at}: {:?}", set.categories);
        assert_eq!(set.counts()["carr\u{e9}"], 1, "{at}");
        assert_eq!(set.problems.count(ProblemKind::NotUtf8), 1, "{at}: {}", set.problems);
        assert!(set.problems.to_string().contains("carr\u{e9}"), "{at}: {}", set.problems);
    }
}

#[test]
#[cfg(target_os = "linux")]
fn files_whose_names_are_not_utf8_are_pictures_too() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    pictures(dir);
    let root = labelimg(dir);
    for ending in ["png", "txt"] {
        let odd = [b"caf\xe9.", ending.as_bytes()].concat();
        fs::rename(root.join(format!("one.{ending}")), root.join(OsStr::from_bytes(&odd))).unwrap();
    }
    let set = data::load(&[&root], None).unwrap();
    assert_eq!(set.counts()["duck"], 1);
    assert_eq!(set.images.iter().map(|image| image.objects.len()).sum::<usize>(), 2);
    assert!(set.images.iter().any(|image| image.name().ends_with("caf\u{fffd}.png")));
}
