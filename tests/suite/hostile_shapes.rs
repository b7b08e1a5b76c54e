//! Inputs made to cost more than they weigh: circles, doublings, bombs. Each ends soon, in a result or a refusal.
#![cfg(unix)]

use crate::common;

use std::collections::HashMap;
use std::fs;
use std::io::Write;

use flate2::{Compression, write::ZlibEncoder};
use prost::Message;
use tfgraft::data::{self, LabelMap, Picture};
use tfgraft::graph::flatten::Flattener;
use tfgraft::graph::{GraphView, MAIN, Source, Use};
use tfgraft::head::trace::{elements, static_rank};
use tfgraft::head::understand;
use tfgraft::pb::{self, attr_value::Value};
use tfgraft::saved_model::SavedModel;

use crate::common::graphs::{node, number, with};
use crate::common::work::soon;

fn graph(nodes: Vec<pb::NodeDef>) -> pb::GraphDef {
    pb::GraphDef { node: nodes, ..Default::default() }
}

#[test]
fn questions_about_shapes_end_in_circles_and_doublings() {
    let mut nodes = vec![
        node("circle", "Cast", &["circle"]),
        node("of_circle", "Reshape", &["circle", "shape_of_itself"]),
        node("shape_of_itself", "Shape", &["of_circle"]),
        number("one", 1),
    ];
    let mut last = "one".to_owned();
    for (op, count) in [("AddV2", 60), ("Pack", 60), ("ConcatV2", 60), ("Select", 60), ("GatherV2", 60)] {
        for i in 0..count {
            let name = format!("{op}{i}");
            nodes.push(node(&name, op, &[&last, &last, &last]));
            last = name;
        }
        nodes.push(node(&format!("read{op}"), "Reshape", &["one", &last]));
        last = "one".into();
    }
    let graph = graph(nodes);
    let view = GraphView::new(&graph).unwrap();
    let facts = HashMap::new();
    for name in ["circle", "of_circle", "readGatherV2", "readPack", "GatherV259"] {
        let source = Source::Node { node: view.scopes[MAIN].find(name).unwrap(), out: 0 };
        soon(name, || static_rank(&view, &facts, MAIN, source));
    }
    for (node, _) in graph.node.iter().enumerate() {
        soon("elements", || elements(&view, &facts, MAIN, Use { node, input: 1 }));
    }
}

fn function(name: &str, arguments: &[&str], nodes: Vec<pb::NodeDef>, result: &str) -> pb::FunctionDef {
    let argument = |name: &str| pb::op_def::ArgDef { name: name.into(), ..Default::default() };
    let signature = pb::OpDef {
        name: name.into(),
        input_arg: arguments.iter().map(|a| argument(a)).collect(),
        output_arg: vec![argument("out")],
        ..Default::default()
    };
    let ret = [("out".to_owned(), result.to_owned())].into();
    pb::FunctionDef { signature: Some(signature), node_def: nodes, ret, ..Default::default() }
}

fn call(name: &str, function: &str, inputs: &[&str]) -> pb::NodeDef {
    let f = pb::NameAttrList { name: function.into(), ..Default::default() };
    with(node(name, "PartitionedCall", inputs), "f", Value::Func(Box::new(f)))
}

#[test]
fn calls_in_circles_and_lattices_of_calls_are_refused() {
    // A call that gets its own result.
    let mut circle = graph(vec![call("c", "pass", &["c"])]);
    let library = |function| Some(pb::FunctionDefLibrary { function, ..Default::default() });
    circle.library = library(vec![function("pass", &["x"], vec![], "x")]);
    // Forty functions, each calling the next one twice.
    let mut lattice = graph(vec![number("k", 1), call("c", "f0", &["k"])]);
    let level = |i: usize| {
        let next = format!("f{}", i + 1);
        let nodes = vec![call("a", &next, &["x"]), call("b", &next, &["a:output:0"])];
        function(&format!("f{i}"), &["x"], nodes, "b:output:0")
    };
    let mut functions: Vec<_> = (0..40).map(level).collect();
    functions.push(function("f40", &["x"], vec![], "x"));
    lattice.library = library(functions);
    for (what, graph) in [("circle", circle), ("lattice", lattice)] {
        let view = GraphView::new(&graph).unwrap();
        let source = Source::Node { node: view.scopes[MAIN].find("c").unwrap(), out: 0 };
        let none = HashMap::new();
        let flat = soon(what, || Flattener::new(&view, &none).flatten(&[source], &[(MAIN, source)]));
        assert!(flat.is_err(), "{what}");
    }
}

#[test]
fn a_head_behind_ways_that_meet_again_and_again_is_refused() {
    let fixture = common::fixture("tf1_frozen/base");
    let file = fixture.path().join("saved_model/saved_model.pb");
    let mut model = pb::SavedModel::decode(&fs::read(&file).unwrap()[..]).unwrap();
    let nodes = &mut model.meta_graphs[0].graph_def.as_mut().unwrap().node;
    let activation = nodes.iter().position(|n| n.op == "Sigmoid").unwrap();
    let mut last = nodes[activation].input[0].clone();
    nodes.push(number("hostile/axis", 0));
    for i in 0..60 {
        let name = format!("hostile/{i}");
        nodes.push(node(&name, "ConcatV2", &[&last, &last, "hostile/axis"]));
        last = name;
    }
    nodes[activation].input[0] = last;
    fs::write(&file, model.encode_to_vec()).unwrap();
    let model = SavedModel::read(fixture.path()).unwrap();
    let refusal = soon("sixty doublings", || understand(model.meta())).unwrap_err().to_string();
    assert!(refusal.contains("too long"), "{refusal}");
}

#[test]
fn label_files_that_swell_are_refused_or_read_soon() {
    let dir = tempfile::tempdir().unwrap();
    image::RgbImage::new(8, 8).save(dir.path().join("a.png")).unwrap();
    let laughs: String = (0..60).map(|i| format!("a{}: &a{} [*a{i}, *a{i}]\n", i + 1, i + 1)).collect();
    let boxes = "<object><name>a</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>5</xmax><ymax>5</ymax></bndbox></object>\n";
    let annotation = |i: usize| format!(r#"{{"id":{i},"image_id":1,"category_id":{i},"bbox":[1,1,4,4]}}"#);
    let category = |i: usize| format!(r#"{{"id":{i},"name":"c{i}"}}"#);
    let list = |one: &dyn Fn(usize) -> String| (1..100_000).map(one).collect::<Vec<_>>().join(",");
    let json = format!(
        r#"{{"images":[{{"id":1,"file_name":"a.png"}}],"annotations":[{}],"categories":[{}]}}"#,
        list(&annotation),
        list(&category)
    );
    let files = [
        ("laughs.yaml", format!("train: .\nnames: [a]\na0: &a0 [x]\n{laughs}"), false),
        ("deep.yaml", format!("train: .\nnames: {}", "- ".repeat(200_000)), false),
        ("flow.yaml", format!("train: .\nnames: {}", "[".repeat(200_000)), false),
        ("deep.json", "[".repeat(1_000_000), false),
        ("deeper.json", format!(r#"{{"images":{}"#, r#"{"a":"#.repeat(200_000)), false),
        ("deep.xml", "<annotation>".repeat(100_000), false),
        (
            "many.xml",
            format!("<annotation><filename>a.png</filename>{}</annotation>", boxes.repeat(100_000)),
            true,
        ),
        ("many.json", json, true),
    ];
    for (name, text, good) in files {
        let path = dir.path().join(name);
        fs::write(&path, text).unwrap();
        let read = soon(name, || data::load(&[&path], None));
        assert_eq!(read.is_ok(), good, "{name}: {:?}", read.err().map(|e| e.to_string()));
    }
    let nested = format!("item {{ id: 1 name: 'a' keypoints {}", "{ a ".repeat(200_000));
    assert!(soon("label map", || LabelMap::parse(&nested, "x")).is_err());
}

#[test]
fn names_that_climb_out_are_refused_by_every_format() {
    let dir = tempfile::tempdir().unwrap();
    let inside = dir.path().join("data");
    fs::create_dir(&inside).unwrap();
    image::RgbImage::new(8, 8).save(dir.path().join("secret.png")).unwrap();
    for name in ["../secret.png", "a/../../secret.png", "..\\\\secret.png", "/etc/passwd"] {
        let plain = name.replace("\\\\", "\\");
        let json = format!(
            r#"{{"images":[{{"id":1,"file_name":"{name}"}}],"annotations":[],"categories":[{{"id":1,"name":"a"}}]}}"#
        );
        let xml = format!("<annotation><filename>{plain}</filename></annotation>");
        let csv = format!("filename,width,height,class,xmin,ymin,xmax,ymax\n{plain},8,8,a,1,1,4,4\n");
        for (file, text) in [("a.json", json), ("a.xml", xml), ("a.csv", csv)] {
            let path = inside.join(file);
            fs::write(&path, text).unwrap();
            let error = data::load(&[&path], None).unwrap_err().to_string();
            assert!(error.contains("does not stay inside"), "{file}: {error}");
        }
    }
    let path = inside.join("data.yaml");
    fs::write(&path, "train: images/../../..\nnames: [a]\n").unwrap();
    let error = data::load(&[&path], None).unwrap_err().to_string();
    assert!(error.contains("does not stay inside"), "{error}");
}

/// A PNG of one bit a pixel, all black: some kilobytes, whatever it says its size is.
fn black_png(width: u32, height: u32) -> Vec<u8> {
    let mut packed = ZlibEncoder::new(Vec::new(), Compression::best());
    let row = vec![0; 1 + (width as usize).div_ceil(8)];
    (0..height).for_each(|_| packed.write_all(&row).unwrap());
    let mut out = b"\x89PNG\r\n\x1a\n".to_vec();
    let mut header = [width.to_be_bytes(), height.to_be_bytes()].concat();
    header.extend([1, 0, 0, 0, 0]);
    for (kind, body) in [(b"IHDR", header), (b"IDAT", packed.finish().unwrap()), (b"IEND", Vec::new())] {
        let start = out.len() + 4;
        out.extend((body.len() as u32).to_be_bytes());
        out.extend(kind);
        out.extend(body);
        let mut crc = flate2::Crc::new();
        crc.update(&out[start..]);
        out.extend(crc.sum().to_be_bytes());
    }
    out
}

#[test]
fn pictures_that_swell_are_bounded() {
    let flat = image::RgbImage::from_pixel(16, 16, image::Rgb([7, 7, 7]));
    let encoded = |format| {
        let mut out = std::io::Cursor::new(Vec::new());
        flat.write_to(&mut out, format).unwrap();
        out.into_inner()
    };
    let jpeg = |height: u16, width: u16| {
        let mut bytes = encoded(image::ImageFormat::Jpeg);
        let at = bytes.windows(2).position(|pair| pair == [0xff, 0xc0]).unwrap() + 5;
        bytes[at..at + 2].copy_from_slice(&height.to_be_bytes());
        bytes[at + 2..at + 4].copy_from_slice(&width.to_be_bytes());
        bytes
    };
    let webp = |height: u32, width: u32| {
        let mut bytes = encoded(image::ImageFormat::WebP);
        let at = bytes.windows(4).position(|four| four == b"VP8L").unwrap() + 9;
        let sizes = (width - 1) | (height - 1) << 14;
        bytes[at..at + 4].copy_from_slice(&sizes.to_le_bytes());
        bytes
    };
    for (what, bytes) in [
        ("png", black_png(20_000, 100)),
        ("png", black_png(16_000, 16_000)),
        ("jpg", jpeg(60_000, 60_000)),
        ("jpg", jpeg(16_000, 16_000)),
        ("webp", webp(16_000, 16_000)),
    ] {
        let refusal = soon(what, || Picture::decode(&bytes, "bomb")).unwrap_err().to_string();
        assert!(refusal.contains("accepted"), "{what}: {refusal}");
    }
    // As large as is accepted: as long as that takes, and no more memory than its pixels.
    for (what, bytes) in [
        ("a black png", black_png(12_000, 8_000)),
        ("a cut jpg", jpeg(8_000, 12_000)),
        ("a flat webp", webp(8_000, 12_000)),
    ] {
        assert!(bytes.len() < 100_000);
        if let Ok(picture) = soon(what, || Picture::decode(&bytes, "large")) {
            assert_eq!(picture.rgb.len(), 3 * 96_000_000, "{what}");
        }
    }
}
