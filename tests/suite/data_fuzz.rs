//! Bad bytes never panic: mutated pictures, labels and records give a result or an error.

use std::fs;

use proptest::prelude::*;
use tfgraft::data::{self, LabelMap, Picture};

/// `bytes` with some of them replaced and the end cut off.
fn mutated(bytes: &[u8], edits: &[(usize, u8)], cut: usize) -> Vec<u8> {
    let mut out = bytes.to_vec();
    for (at, value) in edits {
        let at = at % out.len();
        out[at] = *value;
    }
    out.truncate(out.len() - cut % (out.len() / 4));
    out
}

fn picture(ending: &str) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(format!("a.{ending}"));
    let rgb = (0..40 * 30 * 3u32).map(|v| (v * 7 % 253) as u8).collect();
    Picture { width: 40, height: 30, rgb }.save(&path).unwrap();
    fs::read(path).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn pictures(edits in prop::collection::vec((any::<usize>(), any::<u8>()), 0..8), cut in any::<usize>()) {
        for ending in ["jpg", "png"] {
            let _ = Picture::decode(&mutated(&picture(ending), &edits, cut), "x");
        }
    }

    #[test]
    fn label_maps(edits in prop::collection::vec((any::<usize>(), any::<u8>()), 0..8), cut in any::<usize>()) {
        let bytes = mutated(LabelMap::coco().to_text().as_bytes(), &edits, cut);
        let _ = LabelMap::parse(&String::from_utf8_lossy(&bytes), "x");
    }

    #[test]
    fn data(edits in prop::collection::vec((any::<usize>(), any::<u8>()), 0..8), cut in any::<usize>()) {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("a.png"), picture("png")).unwrap();
        let json = br#"{"images":[{"id":1,"file_name":"a.png","width":40,"height":30}],"annotations":[{"id":1,"image_id":1,
            "category_id":1,"bbox":[1,2,3,4]}],"categories":[{"id":1,"name":"a"}]}"#;
        let xml = b"<annotation><filename>a.png</filename><size><width>40</width><height>30</height></size><object><name>a</name>\
            <bndbox><xmin>1</xmin><ymin>2</ymin><xmax>9</xmax><ymax>9</ymax></bndbox></object></annotation>";
        let csv = b"filename,width,height,class,xmin,ymin,xmax,ymax\na.png,40,30,a,1,2,3,4\n";
        let record = include_bytes!("../../testdata/data/two.record");
        for (name, bytes) in [("a.json", &json[..]), ("a.xml", xml), ("a.csv", csv), ("a.record", record)] {
            let path = dir.path().join(name);
            fs::write(&path, mutated(bytes, &edits, cut)).unwrap();
            let _ = data::load(&[path], None);
        }
    }
}
